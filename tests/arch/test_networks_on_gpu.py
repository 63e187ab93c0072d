"""The networks as on a GPU, without one: devices, dtypes and synchronization."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from backward_in_python import backward, grad
from fake_cuda import HostSync, fake_cuda
from tiny_networks import NETWORKS, VQ_TINY, scale_of
from torch import Tensor, nn
from torch.nn import functional as F

from rescale_arch import AIDN, VQIR
from rescale_arch.aidn.scale_adaption import ScaleAdaption
from rescale_arch.aidn.trunk import ResidualBlock
from rescale_arch.memory_format import channels_last
from rescale_arch.rounding import quantize
from rescale_arch.vqir.strip_attention import InterStripAttention

SIDE = 70  # no multiple of a factor


@pytest.fixture(params=[False, True], ids=["fp32", "bf16"])
def bf16(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_training_step_stays_on_the_gpu_and_never_waits(name: str, bf16: bool) -> None:
    net = NETWORKS[name]()
    with fake_cuda() as gpu:
        net = channels_last(net.to(gpu.device)).train()
        hr = torch.rand(2, 3, SIDE, SIDE, device=gpu.device)
        if name == "aidn-plus":
            net(hr, *scale_of(net))  # takes the tables of the JPEG to the device, once
        with gpu.no_sync():
            with torch.autocast("cuda", torch.bfloat16, enabled=bf16):
                outputs = net(hr, *scale_of(net))
            terms = [x.float().square().mean() for x in outputs if x.is_floating_point()]
            sum(terms, torch.zeros((), device=gpu.device)).backward()
        grads = [p.grad for p in net.parameters() if p.requires_grad]
        assert all(g is not None and g.is_cuda and g.dtype == torch.float32 for g in grads)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "vqgan"])
def test_rescaling_stays_on_the_gpu_and_never_waits(name: str, bf16: bool) -> None:
    net: Any = NETWORKS[name]()
    with fake_cuda() as gpu:
        net = channels_last(net.to(gpu.device)).eval()
        hr = torch.rand(1, 3, SIDE, SIDE, device=gpu.device)
        half = torch.autocast("cuda", torch.bfloat16, enabled=bf16)
        with torch.inference_mode(), half, gpu.no_sync():
            lr = net.downscale(hr, *scale_of(net))
            restored = net.upscale(quantize(lr), *scale_of(net), size=(SIDE, SIDE))
        assert restored.is_cuda
        assert lr.dtype == restored.dtype == torch.float32
        assert restored.shape == hr.shape


# Tiles of an AIDN for any scale wait: what they have to read depends on values.
@pytest.mark.parametrize("name", ["aidn-x2", "vqir-16-1", "vqir-32-2"])
def test_tiles_stay_on_the_gpu_and_never_wait(name: str) -> None:
    net: Any = NETWORKS[name]()
    size = (40, 140)
    with fake_cuda() as gpu:
        net = channels_last(net.to(gpu.device)).eval()
        hr = torch.rand(1, 3, *size, device=gpu.device)
        half = torch.autocast("cuda", torch.bfloat16)
        parts: list[Tensor] = []

        def write(top: int, left: int, pixels: Tensor) -> None:
            parts.append(pixels)

        def read(top: int, left: int, bottom: int, right: int) -> Tensor:
            return source[..., top:bottom, left:right]

        with torch.inference_mode(), half, gpu.no_sync():
            source = hr
            if isinstance(net, AIDN):
                net.downscale_tiles(size, None, read, write, 64)
                source = torch.rand(1, 3, 20, 70, device=gpu.device)
                net.upscale_tiles(size, None, read, write, 64)
            else:
                net.downscale_tiles(size, None, read, write, 64)
                source = torch.rand(1, 3, *net.lr_size(size), device=gpu.device)
                net.upscale_tiles(size, None, read, write, 64)
        assert len(parts) > 2
        assert all(part.is_cuda and part.dtype == torch.float32 for part in parts)


@pytest.mark.parametrize("name", ["vqgan", "vqir-16-2"])
def test_norms_keep_bfloat16(name: str) -> None:
    with fake_cuda() as gpu:
        net = NETWORKS[name]().to(gpu.device)
        dtypes = output_dtypes(net, (nn.GroupNorm, nn.LayerNorm))
        with torch.autocast("cuda", torch.bfloat16):
            net(torch.rand(1, 3, SIDE, SIDE, device=gpu.device))
        assert set(dtypes) == {torch.bfloat16}
        net(torch.rand(1, 3, SIDE, SIDE, device=gpu.device))
        assert set(dtypes) == {torch.bfloat16, torch.float32}


def test_the_residual_stream_of_aidn_is_bfloat16() -> None:
    with fake_cuda() as gpu:
        net = NETWORKS["aidn"]().to(gpu.device)
        dtypes = output_dtypes(net, (ResidualBlock, ScaleAdaption))
        with torch.autocast("cuda", torch.bfloat16):
            lr, restored = net(torch.rand(1, 3, SIDE, SIDE, device=gpu.device), 2.5)
        assert set(dtypes) == {torch.bfloat16}
        assert lr.dtype == restored.dtype == torch.float32


def output_dtypes(net: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[torch.dtype]:
    """Filled with the dtypes of what parts of these kinds return."""
    dtypes: list[torch.dtype] = []
    for part in net.modules():
        if isinstance(part, kinds):
            part.register_forward_hook(lambda _, __, out: dtypes.append(out.dtype))
    return dtypes


@pytest.mark.parametrize("stage", [1, 2])
def test_vqir_takes_less_memory_in_bfloat16(stage: Literal[1, 2]) -> None:
    peaks = {}
    for bf16 in (False, True):
        with fake_cuda() as gpu:
            net = channels_last(VQIR(16, stage, **VQ_TINY).to(gpu.device)).eval()
            hr = torch.rand(1, 3, 1080, 1920, device=gpu.device)
            half = torch.autocast("cuda", torch.bfloat16, enabled=bf16)
            with torch.no_grad(), half, gpu.memory() as memory:
                lr = net.downscale(hr)
            down = memory.peak
            with torch.no_grad(), half, gpu.memory() as memory:
                net.upscale(lr, size=(1080, 1920))
            peaks[bf16] = down, memory.peak
    ratios = [half / full for full, half in zip(*peaks.values(), strict=True)]
    assert max(ratios) < 0.8, ratios


def test_memory_is_counted_until_it_is_released() -> None:
    with fake_cuda() as gpu, gpu.memory() as memory:
        x = torch.zeros(1000, device=gpu.device)
        y = x.view(10, 100)
        z = x + 1
        del x, z
        assert (memory.now, memory.peak) == (4000, 8000)
        y.add_(1)
        del y
        torch.zeros(10)
        assert (memory.now, memory.peak) == (0, 8000)


def test_attention_takes_heads_wider_than_the_kernel_does() -> None:
    with fake_cuda() as gpu:
        block = InterStripAttention(64).to(gpu.device)
        x = torch.rand(1, 64, 8, 2080, device=gpu.device)  # 32 channels of a head, times 2,080
        assert block(x).shape == x.shape
        block(x.mT).sum().backward()


WAITING: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool((x > 0).all()),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "to the host, not blocking": lambda x: x.to("cpu", non_blocking=True),
    "to the device": lambda x: torch.zeros(4).to(x.device),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0],
    "fill by a mask from a tensor": lambda x: x.index_put_((x > 0,), torch.ones_like(x).flatten()),
    "unique": lambda x: x.unique(),
    "bincount": lambda x: torch.bincount(x.long()),
    "equal": lambda x: torch.equal(x, x),
    "new_tensor": lambda x: x.new_tensor([1.0, 2.0]),
    "tensor": lambda x: torch.tensor([1.0], device=x.device),
    "list as index": lambda x: x[[0, 1]],
    "inv": lambda x: torch.linalg.inv(torch.eye(4, device=x.device)),
    "in backward": lambda x: _Reads.apply(x.requires_grad_()).sum().backward(),
}
GOES_ON: dict[str, Callable[[Tensor], Any]] = {
    "new_full": lambda x: x.new_full((2,), 1.0),
    "arange": lambda x: torch.arange(4, device="cuda"),
    "not blocking": lambda x: torch.zeros(4).to("cuda", non_blocking=True),
    "inv_ex": lambda x: torch.linalg.inv_ex(torch.eye(4, device=x.device)),
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "fill by a mask": lambda x: x.masked_fill_(x > 0, 1.0),
    "conv": lambda x: F.conv1d(x.view(1, 1, 4), x.view(1, 1, 4)),
    "on the host": lambda x: torch.zeros(4) + 1,
}


class _Reads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * grads[0].sum().item()


@pytest.mark.parametrize("name", WAITING)
def test_waiting_is_found(name: str) -> None:
    with fake_cuda() as gpu:
        x = torch.rand(4, device="cuda")
        with pytest.raises(HostSync, match=Path(__file__).name), gpu.no_sync():
            WAITING[name](x)


@pytest.mark.parametrize("name", GOES_ON)
def test_what_goes_on_is_let_through(name: str) -> None:
    with fake_cuda() as gpu:
        x = torch.rand(4, device="cuda")
        with gpu.no_sync():
            GOES_ON[name](x)


def test_copies_are_counted_allowed_and_collected() -> None:
    with fake_cuda() as gpu:
        x = torch.rand(4)
        with gpu.no_sync(copies_to_device=1):
            x.to("cuda")
            with gpu.allowed():
                x.to("cuda")
            with pytest.raises(HostSync, match="copy cpu -> cuda"):
                x.to("cuda")
        with gpu.syncs() as found:
            x.to("cuda").cpu()
        assert [sync.operator for sync in found] == ["copy cpu -> cuda", "copy cuda -> cpu"]


def test_a_tensor_on_the_wrong_device_is_found() -> None:
    with fake_cuda() as gpu, pytest.raises(RuntimeError, match="same device"):
        torch.rand(4, device=gpu.device) + torch.rand(4)


def test_gradients_are_propagated_as_by_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    net = VQIR(32, 2, **VQ_TINY)
    parameters = [p for p in net.parameters() if p.requires_grad]
    hr = torch.rand(1, 3, 32, 32)

    def loss() -> Tensor:
        return sum((x.square().mean() for x in net(hr)), torch.zeros(()))

    expected = torch.autograd.grad(loss(), parameters)
    monkeypatch.setattr("torch.autograd.backward", backward)
    monkeypatch.setattr("torch.autograd.grad", grad)
    torch.testing.assert_close(torch.autograd.grad(loss(), parameters), expected)
    loss().backward()
    torch.testing.assert_close(tuple(p.grad for p in parameters), expected)
