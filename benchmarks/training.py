"""AIDN's training step."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from benchmarks.aidn import SCALE, build
from benchmarks.probe import peak_memory, seconds
from rescale_arch import imresize, lr_size


def step(
    kind: str,
    precision: str,
    batch: int,
    crop: int,
    network: dict[str, Any],
    device: str = "cpu",
    repeats: int = 1,
) -> dict[str, float]:
    """Forward, both losses, backward and Adam, at scale 2.5.

    Args:
        kind: ``plain`` or ``ours``.
        precision: ``fp32`` or ``bf16``.
        batch: number of images.
        crop: side of the images.
        network: keywords of AIDN.
        device: ``cpu`` or ``cuda``.
        repeats: number of timed steps, after two others.
    """
    torch.manual_seed(0)
    net = build(kind, network).to(device).train()
    for name, parameter in net.named_parameters():
        parameter.requires_grad_("mean." not in name)
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=1e-4)
    hr = torch.rand(batch, 3, crop, crop, device=device)
    if kind == "ours":
        hr = hr.contiguous(memory_format=torch.channels_last)

    def train(hr: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        side = hr.shape[-1]
        guide = imresize(hr, lr_size((side, side), SCALE), 1 / SCALE)
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            lr, restored = net(hr, SCALE)
        loss = F.l1_loss(restored.float(), hr) + F.mse_loss(lr.float(), guide)
        loss.backward()
        optimizer.step()

    result: dict[str, float] = {}
    train(hr[:1, :, :32, :32])  # one-time initialization
    with peak_memory(device, result):
        train(hr)
    result["seconds"] = seconds(lambda: train(hr), device, repeats)
    result["images"] = batch / result["seconds"]
    return result
