"""AIDN: speed and memory of a round trip, and the quality lost with bfloat16."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import rescale_app
from benchmarks import probe
from benchmarks.reference.aidn import PlainAIDN
from rescale_arch import AIDN, lr_size
from rescale_arch.architecture import find_architecture, load_network
from rescale_arch.compiling import compile_for_inference
from rescale_arch.lr_optimization import optimize_lr
from rescale_arch.memory_format import channels_last
from rescale_arch.regions import reader
from rescale_arch.rounding import quantize
from rescale_data.weight_file import read_weights

SCALE = 2.5
IMAGES = ("astronaut", "chelsea", "coffee", "rocket")


def round_trip(
    kind: str,
    precision: str,
    size: tuple[int, int],
    network: dict[str, Any],
    device: str = "cpu",
    compiled: bool = False,
    repeats: int = 1,
    keep: str | None = None,
) -> dict[str, float]:
    """Downscales a noise image by 2.5, and restores an image from another noise image.

    The downscaled image itself is not restored: numerical errors can round one of its samples to a
    different 8-bit level, and restored images would differ by more than the networks do.

    Args:
        kind: ``plain`` or ``ours``.
        precision: ``fp32`` or ``bf16``.
        size: (H, W).
        network: keywords of :class:`AIDN`.
        device: ``cpu`` or ``cuda``.
        compiled: whether to compile, as ``rescale down --compile`` does.
        repeats: see :func:`benchmarks.probe.round_trip`.
        keep: file for the LR and restored images.
    """
    torch.manual_seed(0)
    net = build(kind, network).to(device)
    hr = torch.rand(1, 3, *size, device=device)
    if kind == "ours":
        hr = hr.contiguous(memory_format=torch.channels_last)

    if compiled:
        compile_for_inference(net)  # for any size; compiles on the small image that comes first
    stored = probe.noise(lr_size(size, SCALE), device)

    def trip(hr: Tensor) -> tuple[Tensor, Tensor]:
        size = hr.shape[-2], hr.shape[-1]
        height, width = lr_size(size, SCALE)
        return net.downscale(hr, SCALE), net.upscale(stored[..., :height, :width], SCALE, size=size)

    return probe.round_trip(trip, hr, precision, repeats, keep)


def effort(
    precision: str,
    size: tuple[int, int],
    network: dict[str, Any],
    device: str = "cpu",
    steps: int = 4,
) -> dict[str, float]:
    """Optimizes the LR image of a noise image at 2.5, in windows.

    Args:
        precision: ``fp32`` or ``bf16``.
        size: (H, W).
        network: keywords of :class:`AIDN`.
        device: ``cpu`` or ``cuda``.
        steps: number of steps.

    Returns:
        ``seconds`` per step, seconds per step and megapixel (``rate``), and ``mib`` of memory.
    """
    torch.manual_seed(0)
    net = AIDN(**network).eval().requires_grad_(False).to(device)
    hr = probe.noise(size, device)
    search = find_architecture("aidn").search
    assert search is not None
    result: dict[str, float] = {}

    def run(hr: Tensor) -> None:
        size = hr.shape[-2], hr.shape[-1]
        lr = torch.randint(0, 256, (1, 3, *lr_size(size, SCALE)), dtype=torch.uint8)
        optimize_lr(net, lr, reader(hr), size, SCALE, steps, search)

    with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
        run(hr[..., :32, :32])  # one-time initialization
        with probe.peak_memory(device, result):
            result["seconds"] = probe.seconds(lambda: run(hr), device) / steps
    result["rate"] = result["seconds"] / (size[0] * size[1] / 1e6)
    return result


def build(kind: str, network: dict[str, Any]) -> AIDN | PlainAIDN:
    """AIDN or its plain reference, with the same random weights, in evaluation mode."""
    net = AIDN(**network).eval().requires_grad_(False)
    if kind == "plain":
        copy: PlainAIDN = probe.plain_copy(PlainAIDN, net, network)
        return copy
    channels_last(net)
    return net


def operations(size: tuple[int, int], network: dict[str, Any], device: str) -> dict[str, float]:
    """Floating-point operations of a round trip, and the rate of the device per second.

    Rates are measured for a large matrix product and for the trunk's convolution, in bfloat16.
    """
    from torch.utils.flop_counter import FlopCounterMode

    net = build("ours", network).to(device)
    hr = torch.rand(1, 3, *size, device=device)
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            net.upscale(net.downscale(hr, SCALE), SCALE, size=size)
        side = 8192 if device == "cuda" else 1024
        a, b = (torch.rand(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
        features = network.get("num_feat", 64)
        conv = nn.Conv2d(features, features, 3, 1, 1, device=device, dtype=torch.bfloat16)
        channels_last(conv)
        x = torch.rand(1, features, *size, device=device, dtype=torch.bfloat16)
        x = x.contiguous(memory_format=torch.channels_last)
        probe.seconds(lambda: (a @ b, conv(x)), device, 3)
        product = probe.seconds(lambda: a @ b, device, 10)
        convolution = probe.seconds(lambda: conv(x), device, 10)
    return {
        "operations": float(counter.get_total_flops()),
        "product_rate": 2 * side**3 / product,
        "convolution_rate": 2 * 9 * features**2 * size[0] * size[1] / convolution,
    }


def multiply_accumulates(networks: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Multiply-accumulates of both directions at 2.5, in millions per HR pixel.

    Args:
        networks: keywords of :class:`AIDN`, one entry for each network.
    """
    from torch.utils.flop_counter import FlopCounterMode

    size = (120, 120)
    result: dict[str, list[float]] = {"down": [], "up": []}
    for network in networks:
        net = build("ours", network)
        hr, lr = torch.rand(1, 3, *size), torch.rand(1, 3, *lr_size(size, SCALE))
        with FlopCounterMode(display=False) as counter:
            net.downscale(hr, SCALE)
            down = counter.get_total_flops()
            net.upscale(lr, SCALE, size=size)
        for direction, count in (("down", down), ("up", counter.get_total_flops() - down)):
            result[direction].append(count / 2 / (size[0] * size[1]) / 1e6)
    return result


def bf16_loss(weights: str, side: int, device: str = "cpu") -> dict[str, float]:
    """PSNR (dB, RGB, 8 bits) in fp32 and bf16, on real images with included weights.

    Args:
        weights: name of the weights.
        side: images are cropped to this side.
        device: ``cpu`` or ``cuda``.
    """
    from skimage import data

    folder = Path(rescale_app.__file__).parent / "weights"
    path = folder / f"{weights}.safetensors"
    net: AIDN = load_network(read_weights(path), str(path)).network
    channels_last(net).to(device)
    sums = {"fp32": 0.0, "bf16": 0.0}
    for name in IMAGES:
        pixels = getattr(data, name)()[:side, :side]
        hr = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(device).float() / 255
        for precision in sums:
            with (
                torch.inference_mode(),
                torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"),
            ):
                lr = quantize(net.downscale(hr, SCALE))
                restored = quantize(net.upscale(lr, SCALE, size=(hr.shape[-2], hr.shape[-1])))
            error = (restored - hr).double().square().mean().item()
            sums[precision] += -10 * np.log10(error) / len(IMAGES)
    return {**sums, "lost": sums["fp32"] - sums["bf16"]}
