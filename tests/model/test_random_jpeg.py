"""JPEG of random quality in training: distribution, real values, differentiable gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torch import Tensor

from rescale_arch import AIDN
from rescale_arch.aidn.differentiable_jpeg import DifferentiableJPEG
from rescale_data.image_file import read_image, write_image
from rescale_data.lossy import through_jpeg, through_webp
from rescale_data.pixels import to_pixels
from rescale_model.training.random_jpeg import JPEGSetting, RandomJPEG
from rescale_model.training.scale_schedule import ScaleSchedule


def images(count: int = 3, height: int = 37, width: int = 51) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 9, 12, generator=generator)
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")


def settings(jpeg: RandomJPEG, count: int = 3000) -> list[JPEGSetting]:
    return [jpeg.setting(iteration) for iteration in range(1, count + 1)]


# what is drawn ----------------------------------------------------------------------------------


def test_every_quality_and_chroma_is_drawn_alike() -> None:
    drawn = settings(RandomJPEG(quality=(60, 95)))
    qualities, counts = np.unique([one.quality for one in drawn], return_counts=True)
    assert qualities.tolist() == list(range(60, 96))
    assert stats.chisquare(counts).pvalue > 0.01
    table = stats.contingency.crosstab(
        [one.quality > 77 for one in drawn], [one.chroma for one in drawn]
    )
    assert table.elements[1].tolist() == [420, 444]
    assert stats.chisquare(table.count.ravel()).pvalue > 0.01


def test_a_draw_depends_on_seed_and_iteration_alone() -> None:
    jpeg = RandomJPEG(seed=7)
    forward = settings(jpeg, 100)
    np.random.seed(123)
    torch.manual_seed(123)
    again = RandomJPEG(seed=7)
    assert [again.setting(iteration) for iteration in range(100, 0, -1)] == forward[::-1]
    assert settings(RandomJPEG(seed=8), 100) != forward


def test_quality_and_scale_of_an_iteration_are_independent() -> None:
    scale, drawn = ScaleSchedule(seed=1), settings(RandomJPEG(seed=1))
    scales = [scale(iteration) for iteration in range(1, len(drawn) + 1)]
    assert stats.spearmanr(scales, [one.quality for one in drawn]).pvalue > 0.01
    assert stats.spearmanr(scales, [one.chroma for one in drawn]).pvalue > 0.01


def test_a_single_quality_and_chroma() -> None:
    assert set(settings(RandomJPEG((75, 75), [444]), 20)) == {JPEGSetting(75, 444)}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"quality": (95, 60)}, r"jpeg quality \[95, 60\]: expected the lowest and the highest"),
        ({"quality": (0, 60)}, r"jpeg quality \[0, 60\]"),
        ({"quality": (60, 101)}, r"jpeg quality \[60, 101\]"),
        ({"chroma": [422]}, "JPEG chroma 422: expected one of 420, 444"),
        ({"chroma": []}, r"jpeg chroma \[\]: expected at least one of 420, 444"),
    ],
)
def test_wrong_options(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandomJPEG(**wrong)


# forward and backward ---------------------------------------------------------------------------


@pytest.mark.parametrize("setting", [JPEGSetting(60, 420), JPEGSetting(95, 444)], ids=str)
def test_values_are_those_of_files_and_gradients_of_the_differentiable_jpeg(
    setting: JPEGSetting, tmp_path: Path
) -> None:
    x = images().requires_grad_()
    out = RandomJPEG().channel(setting)(x)
    for one, decoded in zip(x.detach(), out.detach(), strict=True):
        path = tmp_path / "lr.jpg"
        sampling = ":".join(str(setting.chroma))
        Image.fromarray(to_pixels(one[None])).save(
            path, quality=setting.quality, subsampling=sampling
        )
        assert np.array_equal(to_pixels(decoded[None]), read_image(path))
        assert torch.equal((decoded * 255).round() / 255, decoded)
    weights = torch.rand(out.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((out * weights).sum(), x)
    soft = DifferentiableJPEG()(x, setting.quality, setting.chroma)
    (expected,) = torch.autograd.grad((soft * weights).sum(), x)
    assert torch.equal(gradient, expected)
    assert expected.abs().sum() > 0
    assert not torch.equal(out, soft)


def test_the_differentiable_jpeg_alone() -> None:
    x = images()
    out = RandomJPEG(real=False).channel(JPEGSetting(80, 444))(x)
    assert torch.equal(out, DifferentiableJPEG()(x, 80, 444))


def test_values_that_are_not_finite_stay_so() -> None:
    """The check of the losses must see them, whatever the encoder makes of them."""
    x = images()
    x[0, 0, 0, 0] = torch.nan
    assert not RandomJPEG().channel(JPEGSetting(80, 420))(x).isfinite().all()


def test_a_network_takes_a_channel_in_place_of_its_jpeg() -> None:
    torch.manual_seed(0)
    net = AIDN(num_feat=8, num_block=1, adapt_interval=1, jpeg_quality=90).eval()
    hr = images(2, 40, 40)
    lr, restored = net(hr, 2.0, RandomJPEG().channel(JPEGSetting(60, 420)))
    restored.square().mean().backward()
    assert net.down_net.head[0].weight.grad.abs().sum() > 0
    with torch.no_grad():
        same_lr, own = net(hr, 2.0)
        soft = DifferentiableJPEG()(torch.round(lr.clamp(0, 1) * 255) / 255, 90)
        net.engine = "layers"
        torch.testing.assert_close(own, net.upscale(soft, 2.0, size=(40, 40)), rtol=0, atol=1e-4)
    torch.testing.assert_close(same_lr, lr, rtol=0, atol=1e-5)
    assert (own - restored).abs().max() > 1e-3


@pytest.mark.parametrize("quality", [1, 50, 90, 100])
def test_in_memory_as_in_files(tmp_path: Path, quality: int) -> None:
    pixels = to_pixels(images(1))
    write_image(tmp_path / "lr.jpg", pixels, quality=quality)
    assert np.array_equal(through_jpeg(pixels, quality), read_image(tmp_path / "lr.jpg"))


def test_webp() -> None:
    """Lossy, though little at high quality, and in color."""
    pixels = to_pixels(images(1))
    errors = {}
    for quality in (10, 80, 100):
        decoded = through_webp(pixels, quality)
        assert decoded.shape == pixels.shape
        errors[quality] = np.abs(decoded.astype(int) - pixels).mean()
    assert 0 < errors[100] < errors[80] < errors[10] < 30


def test_impossible_files() -> None:
    pixels = to_pixels(images(1))
    with pytest.raises(ValueError, match="JPEG quality 0: expected 1 to 100"):
        through_jpeg(pixels, 0)
    with pytest.raises(ValueError, match="JPEG chroma 411: expected one of 420, 444"):
        through_jpeg(pixels, 75, 411)
    with pytest.raises(ValueError, match="WebP quality 101: expected 1 to 100"):
        through_webp(pixels, 101)
