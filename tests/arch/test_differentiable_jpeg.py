"""AIDN+'s differentiable JPEG against files that Pillow writes with libjpeg."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from fake_cuda import fake_cuda
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from rescale_arch import AIDN
from rescale_arch.aidn import differentiable_jpeg
from rescale_arch.aidn.differentiable_jpeg import CHROMA, Chroma, DifferentiableJPEG


def sample_image() -> Tensor:
    """An image of whole 8-bit levels, detailed in luma, whose chroma survives being halved."""
    generator = torch.Generator().manual_seed(0)

    def noise(channels: int, height: int, width: int) -> Tensor:
        coarse = torch.rand(1, channels, height, width, generator=generator) - 0.5
        return F.interpolate(coarse, size=(67, 91), mode="bicubic", align_corners=True)

    image = (0.5 + 0.7 * noise(1, 20, 28) + 0.3 * noise(3, 2, 3)).clamp(0, 1)
    return (image * 255).round() / 255


def saved(image: Tensor, quality: int, chroma: Chroma = 420) -> Image.Image:
    pixels = (image[0].permute(1, 2, 0) * 255).round().byte().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=":".join(str(chroma)))
    return Image.open(file)


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 75, 90, 95, 96, 97, 98, 99, 100])
def test_tables_are_those_of_a_jpeg_file(quality: int) -> None:
    tables = saved(sample_image(), quality).quantization
    constants = differentiable_jpeg._constants()
    for number, table in enumerate((constants.luma, constants.chroma)):
        scaled = differentiable_jpeg.scaled_table(table, quality)
        assert scaled.flatten().tolist() == tables[number]


@pytest.mark.parametrize("chroma", [420, 444])
@pytest.mark.parametrize("quality", [50, 60, 75, 90, 95, 96, 97, 98, 99, 100])
def test_the_image_is_near_that_of_a_jpeg_file(quality: int, chroma: Chroma) -> None:
    image = sample_image()
    decoded = torch.from_numpy(np.array(saved(image, quality, chroma))).permute(2, 0, 1)[None]
    difference = (DifferentiableJPEG()(image, quality, chroma) * 255 - decoded).abs()
    assert difference.mean() < 1.2
    assert difference.square().mean().sqrt() < 1.6
    assert difference.max() < (6 if quality >= 95 else 15)


def test_chroma_is_halved_in_4_2_0_alone() -> None:
    """Columns of two colors of the same luma, a pixel wide each: their average, or themselves."""
    red, green = torch.tensor([0.8, 0.3, 0.4]), torch.tensor([0.3, 0.553, 0.4])
    image = torch.stack([red, green], 1).repeat(1, 16)[None, :, None].repeat(1, 1, 32, 1)
    jpeg = DifferentiableJPEG()
    whole, halved = jpeg(image, 100, 444), jpeg(image, 100, 420)
    torch.testing.assert_close(whole, image, rtol=0, atol=2e-2)
    average = image.mean(-1, keepdim=True).expand_as(image)
    torch.testing.assert_close(halved, average, rtol=0, atol=2e-2)


@pytest.mark.parametrize("chroma", [420, 444])
def test_gradients_are_those_of_finite_differences(chroma: Chroma) -> None:
    constants = differentiable_jpeg._Constants(
        *(table.double() for table in differentiable_jpeg._constants())
    )
    image = sample_image()[..., 20:29, 30:41].double().clamp(0.2, 0.8).requires_grad_()
    weights = torch.rand(image.shape, dtype=torch.float64)

    def weighted(x: Tensor) -> Tensor:
        decoded = differentiable_jpeg._coded_image(x, 60, chroma, constants)
        return (decoded * weights).sum()

    assert torch.autograd.gradcheck(weighted, image, eps=1e-7, atol=1e-4)


@pytest.mark.parametrize(("quality", "chroma"), [(0, 420), (101, 420), (90, 422)])
def test_invalid_jpeg_settings(quality: int, chroma: Any) -> None:
    with pytest.raises(ValueError, match=r"JPEG (quality|chroma) \d+: expected"):
        DifferentiableJPEG()(sample_image(), quality, chroma)


@pytest.mark.parametrize("quality", [1, 50, 95, 99, 100])
def test_gradients_are_finite_at_any_quality(quality: int) -> None:
    torch.manual_seed(0)
    net = AIDN(num_feat=8, num_block=1, adapt_interval=1, jpeg_quality=quality)
    _, restored = net(torch.rand(2, 3, 24, 20), 1.9)
    restored.square().mean().backward()
    assert restored.isfinite().all()
    gradient = net.down_net.head[0].weight.grad
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


def test_training_follows_inference() -> None:
    """Tensors created in inference mode must not break autograd later."""
    net = AIDN(num_feat=8, num_block=1, adapt_interval=1, jpeg_quality=90)
    hr = torch.rand(1, 3, 16, 16)
    with torch.inference_mode():
        net(hr, 2.0)
    _, restored = net(hr, 2.0)
    restored.square().mean().backward()
    assert net.down_net.head[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@torch.inference_mode()
def test_networks_of_any_dtype(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net = AIDN(num_feat=8, num_block=1, adapt_interval=1, jpeg_quality=90).eval()
    hr = torch.rand(1, 3, 16, 16)
    _, expected = net(hr, 2.0)
    _, restored = net.to(dtype)(hr.to(dtype), 2.0)
    assert restored.dtype == dtype
    torch.testing.assert_close(restored.float(), expected, rtol=0, atol=0.1)


def test_a_gpu_gets_the_tables_once() -> None:
    with fake_cuda() as gpu:
        jpeg = DifferentiableJPEG()
        x = torch.rand(1, 3, 16, 16, device=gpu.device, requires_grad=True)
        assert jpeg(x, 90).device == x.device
        with gpu.no_sync():
            for chroma in CHROMA:
                jpeg(x, 75, chroma).sum().backward()
