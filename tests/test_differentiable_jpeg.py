"""AIDN+'s differentiable JPEG against files that Pillow writes with libjpeg."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from fake_cuda import fake_cuda
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from rescale_arch import AIDN
from rescale_arch.aidn.differentiable_jpeg import DifferentiableJPEG, _build


def sample_image() -> Tensor:
    """An image of whole 8-bit levels, detailed in luma, whose chroma survives being halved."""
    generator = torch.Generator().manual_seed(0)

    def noise(channels: int, height: int, width: int) -> Tensor:
        coarse = torch.rand(1, channels, height, width, generator=generator) - 0.5
        return F.interpolate(coarse, size=(67, 91), mode="bicubic", align_corners=True)

    image = (0.5 + 0.7 * noise(1, 20, 28) + 0.3 * noise(3, 2, 3)).clamp(0, 1)
    return (image * 255).round() / 255


def saved(image: Tensor, quality: int) -> Image.Image:
    pixels = (image[0].permute(1, 2, 0) * 255).round().byte().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return Image.open(file)


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 75, 90, 95, 96, 97, 98, 99, 100])
def test_tables_are_those_of_a_jpeg_file(quality: int) -> None:
    tables = saved(sample_image(), quality).quantization
    jpeg = _build(quality)
    found = {name.rpartition(".")[2]: table for name, table in jpeg.named_parameters()}
    for name, number in (("y_table", 0), ("c_table", 1)):
        assert found[name].flatten().tolist() == tables[number]


@pytest.mark.parametrize("quality", [75, 90, 95, 96, 97, 98, 99, 100])
def test_the_image_is_near_that_of_a_jpeg_file(quality: int) -> None:
    image = sample_image()
    decoded = torch.from_numpy(np.array(saved(image, quality))).permute(2, 0, 1)[None]
    difference = (DifferentiableJPEG(quality)(image) * 255 - decoded).abs()
    assert difference.mean() < 1
    assert difference.max() < (6 if quality >= 95 else 12)


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
    """What is built in inference mode must not keep autograd from working later."""
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
    _build(90)  # BasicSR's own tables, made when it is imported, must not be fake ones
    with fake_cuda() as gpu:
        jpeg = DifferentiableJPEG(90)
        x = torch.rand(1, 3, 16, 16, device=gpu.device, requires_grad=True)
        assert jpeg(x).device == x.device
        with gpu.no_sync():
            jpeg(x).sum().backward()
