"""The same results on a GPU. Skipped where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rescale_app.rescaler import Rescaler
from rescale_arch import AIDN, imresize
from rescale_arch.inference_kernels import inference_kernels
from rescale_arch.memory_format import channels_last
from rescale_arch.rounding import quantize

pytestmark = pytest.mark.gpu


def test_bicubic() -> None:
    x = torch.rand(2, 3, 75, 61, dtype=torch.float64)
    ours = imresize(x.cuda(), (30, 25), 0.4).cpu()
    torch.testing.assert_close(ours, imresize(x, (30, 25), 0.4), rtol=0, atol=1e-12)


def test_an_image_is_that_of_the_cpu() -> None:
    hr = np.random.default_rng(0).integers(0, 256, (61, 75, 3), dtype=np.uint8)
    cpu, gpu = Rescaler(device="cpu"), Rescaler(device="cuda")
    lr = cpu.downscale(hr, 2.5)
    off_by = np.abs(gpu.downscale(hr, 2.5).pixels.astype(int) - lr.pixels)
    assert off_by.max() <= 1  # where the value is halfway between two levels
    assert off_by.mean() < 0.01
    off_by = np.abs(gpu.upscale(lr).astype(int) - cpu.upscale(lr))
    assert off_by.max() <= 1
    assert off_by.mean() < 0.01


@pytest.mark.parametrize("scale", [1.3, 2.5, (3.7, 1.0)])
@torch.inference_mode()
@inference_kernels()
def test_aidn_is_that_of_the_cpu(scale: float | tuple[float, float]) -> None:
    torch.manual_seed(0)
    net = AIDN().eval()
    hr = torch.rand(2, 3, 61, 75)
    lr = net.downscale(hr, scale)
    restored = net.upscale(quantize(lr), scale, size=(61, 75))
    net = channels_last(net.cuda())
    on_gpu = net.downscale(hr.cuda(), scale).cpu()
    torch.testing.assert_close(on_gpu, lr, rtol=0, atol=1e-4)
    on_gpu = net.upscale(quantize(lr).cuda(), scale, size=(61, 75)).cpu()
    torch.testing.assert_close(on_gpu, restored, rtol=0, atol=1e-4)


def test_a_training_step_in_bfloat16_learns() -> None:
    torch.manual_seed(0)
    net = channels_last(AIDN(num_feat=16, num_block=2, adapt_interval=1, jpeg_quality=90).cuda())
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    hr = torch.rand(4, 3, 48, 48, device="cuda")
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            _, restored = net(hr, 2.3)
        loss = (restored - hr).abs().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
