"""Results on a GPU are those of a CPU. Skipped without a GPU."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Literal

import numpy as np
import pytest
import torch
from tiny_networks import NETWORKS, VQ_TINY, randomized, scale_of, tiny_vqir
from torch import Tensor, nn

from rescale_app.rescaler import Rescaler
from rescale_arch import AIDN, VQGAN, VQIR, imresize
from rescale_arch.inference_kernels import inference_kernels
from rescale_arch.memory_format import channels_last
from rescale_arch.regions import collect
from rescale_arch.rounding import quantize
from rescale_arch.scales import Size, lr_size
from rescale_arch.vqir.strip_attention import InterStripAttention

pytestmark = pytest.mark.gpu
DEVICE = "cuda"


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


@pytest.mark.parametrize("options", [{"num_feat": 16}, {"num_feat": 16, "fixed_scale": 2}])
@torch.inference_mode()
@inference_kernels()
def test_tiles_of_aidn_are_the_whole(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    net = channels_last(AIDN(**options).eval().to(DEVICE))
    scale = None if net.fixed_scale else 1.7
    size = (60, 150)
    hr = torch.rand(1, 3, *size, device=DEVICE)
    lr = net.downscale(hr, scale)
    ours = collect(
        lambda read, write: net.downscale_tiles(size, scale, read, write, 40),
        hr,
        lr_size(size, net.factors(scale)),
    )[0]
    torch.testing.assert_close(ours, lr, rtol=0, atol=1e-4)
    lr = quantize(lr)
    ours = collect(lambda read, write: net.upscale_tiles(size, scale, read, write, 40), lr, size)[0]
    torch.testing.assert_close(ours, net.upscale(lr, scale, size=size), rtol=0, atol=1e-4)


@inference_kernels()
def test_vqgan_and_its_gradients_are_those_of_the_cpu() -> None:
    torch.manual_seed(0)
    net = randomized(VQGAN(**VQ_TINY))
    hr = torch.rand(2, 3, 61, 75)
    on_gpu = channels_last(deepcopy(net).to(DEVICE))
    expected, result = net(hr), on_gpu(hr.to(DEVICE))
    for ours, theirs in zip(result, expected, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=0, atol=1e-3)
    for out, image in ((expected, hr), (result, hr.to(DEVICE))):
        ((out.restored - image).abs().mean() + (out.z - out.codes).square().mean()).backward()
    for ours, theirs in zip(on_gpu.parameters(), net.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        off_by = (ours.grad.cpu() - theirs.grad).norm()
        assert off_by <= 1e-2 * theirs.grad.norm() + 1e-5


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("factor", [16, 32])
@torch.inference_mode()
@inference_kernels()
def test_vqir_is_that_of_the_cpu(factor: Literal[16, 32], stage: Literal[1, 2]) -> None:
    net = tiny_vqir(factor, stage)
    size = (100, 140)
    hr = torch.rand(1, 3, *size)
    lr = net.round_lr(net.downscale(hr))
    restored = net.upscale(lr, size=size)
    on_gpu = channels_last(deepcopy(net).to(DEVICE))
    close(on_gpu.downscale(hr.to(DEVICE)), net.downscale(hr))
    close(on_gpu.upscale(lr.to(DEVICE), size=size), restored)
    for ours, theirs in zip(
        vqir_in_tiles(on_gpu, hr.to(DEVICE), lr.to(DEVICE)), vqir_in_tiles(net, hr, lr), strict=True
    ):
        close(ours, theirs)


@pytest.mark.parametrize("stage", [1, 2])
@torch.inference_mode()
def test_vqir_in_bfloat16_is_close_and_takes_less_memory(stage: Literal[1, 2]) -> None:
    net = channels_last(tiny_vqir(16, stage).to(DEVICE))
    size = (1080, 1920)
    lr = torch.rand(1, 3, *net.lr_size(size), device=DEVICE)
    images, peaks = [], []
    for bf16 in (False, True):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with torch.autocast(DEVICE, torch.bfloat16, enabled=bf16), inference_kernels():
            images.append(net.upscale(lr, size=size))
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert images[1].dtype == torch.float32
    assert (images[1] - images[0]).abs().mean() < 0.05 * images[0].std()
    assert peaks[1] < 0.9 * peaks[0]


@inference_kernels()
def test_wide_heads_are_those_of_the_cpu() -> None:
    torch.manual_seed(0)
    block = InterStripAttention(64)
    x = torch.rand(1, 64, 8, 2080)  # 32 channels of a head, times 2,080: more than a kernel takes
    with torch.inference_mode():
        expected = block(x)
        ours = block.to(DEVICE)(x.to(DEVICE))
    torch.testing.assert_close(ours.cpu(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_training_step_never_waits(name: str, bf16: bool) -> None:
    net: nn.Module = channels_last(NETWORKS[name]().to(DEVICE)).train()
    hr = torch.rand(2, 3, 70, 70, device=DEVICE)

    def step() -> None:
        with torch.autocast(DEVICE, torch.bfloat16, enabled=bf16):
            outputs = net(hr, *scale_of(net))
        terms = [x.float().square().mean() for x in outputs if x.is_floating_point()]
        sum(terms, torch.zeros((), device=DEVICE)).backward()

    step()  # libraries begin by waiting
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


def vqir_in_tiles(net: VQIR, hr: Tensor, lr: Tensor) -> list[Tensor]:
    size: Size = (hr.shape[-2], hr.shape[-1])
    down = collect(
        lambda read, write: net.downscale_tiles(size, None, read, write, 64),
        hr,
        net.lr_size(size),
    )
    up = collect(lambda read, write: net.upscale_tiles(size, None, read, write, 64), lr, size)
    return down + up


def close(on_gpu: Tensor, on_cpu: Tensor) -> None:
    """Where two codes are about as near, the devices may choose differently; hence the share."""
    off_by = (on_gpu.cpu() - on_cpu).abs()
    assert (off_by < 1e-3).float().mean() > 0.95
