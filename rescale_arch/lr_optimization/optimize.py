r"""Optimization of LR images for the network that restores them.

A network computes an LR image in a single pass. Here, its samples are then optimized by gradient
descent with the network frozen, as known from learned codecs and rescaling (arXiv 2211.10643)::

         ┌─────────────────────── gradient ────────────────────────┐
         v                                                         │
    lr ──┴─> round to 8 bits [─> JPEG] ─> upscale ─> restored ─> MSE against hr
    └ held within its distance from the bicubic LR image

The file format and the restoring side are unchanged.

- The rounding passes the gradient unchanged (straight-through), so every step is evaluated with the
  image that would be stored, and the best of these images is kept.
- Steps have momentum, and the same step size for all samples: the gradient is divided by its root
  mean square over the image. Adam normalizes each sample separately, which discards their relative
  importance and gains less.
- The PSNR of the result against the bicubic LR image (LR fidelity), RGB and Y, is at most 0.2 dB
  below that of the network's LR image: each step is projected onto a ball around the bicubic one.
- Large images are optimized window by window. Windows overlap, and each is restored together with
  the current state of its surroundings, so there are no seams.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from rescale_compat.errors import RescaleError

import torch
from torch import Tensor

from rescale_arch.architecture import Search, WindowedNetwork
from rescale_arch.lr_optimization.fidelity import FidelityBall, bicubic_window
from rescale_arch.lr_optimization.windows import Window, cut, divide, relative
from rescale_arch.regions import Read
from rescale_arch.rounding import quantize
from rescale_arch.scales import Scale, Size

_MOMENTUM = 0.7
_BLOCK = 16  # blocks of JPEG with chroma at half resolution
_PROJECTIONS = 3  # with JPEG, which changes its input

Channel = Callable[[Tensor], Tensor]
"""Lossy compression of an 8-bit image, (1, 3, h, w) in [0, 1], with gradient."""
OnProgress = Callable[[float], None]
"""Called with the completed fraction of the work."""


@dataclass(frozen=True)
class _RoundTrip:
    """Storing and restoring a window.

    Attributes:
        network: the network that restores.
        scale: see :func:`optimize_lr`.
        size: see there.
        window: the window.
        surroundings: the LR samples in the window, in 8 bits; those of the core are replaced.
        channel: see :func:`optimize_lr`.
    """

    network: WindowedNetwork
    scale: Scale | None
    size: Size
    window: Window
    surroundings: Tensor
    channel: Channel | None

    def store(self, core: Tensor) -> Tensor:
        """The LR samples in the window as read from a file, given those of the core."""
        seen = self.surroundings.clone()
        self.core(seen).copy_(quantize(core, "ste"))
        return seen if self.channel is None else self.channel(seen)

    def core(self, seen: Tensor) -> Tensor:
        """A view of the core."""
        return cut(seen, relative(self.window.core, self.window.seen))

    def restore(self, seen: Tensor) -> Tensor:
        """The restored image, clamped."""
        restored = self.network.upscale_window(
            seen,
            self.scale,
            size=self.size,
            corner=self.window.seen[:2],
            window=self.window.restored,
        )
        return restored.float().clamp(0, 1)


def optimize_lr(
    network: WindowedNetwork,
    lr: Tensor,
    read: Read,
    size: Size,
    scale: Scale | None,
    steps: int,
    search: Search,
    channel: Channel | None = None,
    on_progress: OnProgress = lambda fraction: None,
) -> Tensor:
    """Changes an LR image so that the network restores the HR image better.

    Args:
        network: the network, in evaluation mode, without gradients for its weights.
        lr: the network's LR image in 8 bits: uint8, (1, 3, h, w), on any device.
        read: reads a region of the HR image to the device of the network.
        size: (H, W) of the HR image.
        scale: the factor, or a pair (vertical, horizontal).
        steps: number of steps, each a forward and backward pass of ``upscale``; 0 changes nothing.
        search: windows and step size, from the architecture.
        channel: JPEG compression, if the LR image will be stored as JPEG; called with parts of the
            image whose corners are multiples of 16.
        on_progress: called after each step.

    Returns:
        The new LR image, like ``lr``. If the image consists of a single window, the 8-bit restored
        image is at least as close to the original as that of ``lr``, up to rounding.

    Raises:
        ValueError: ``steps`` is negative, or ``lr`` is not such an image.
    """
    if steps < 0:
        raise RescaleError(f"effort is {steps}: expected a number of steps >= 0")
    factors = network.factors(scale)
    small = network.lr_size(size, scale)
    if lr.dtype != torch.uint8 or tuple(lr.shape) != (1, 3, *small):
        raise RescaleError(
            f"lr is {lr.dtype} of shape {tuple(lr.shape)}: expected torch.uint8 of "
            f"(1, 3, {small[0]}, {small[1]})"
        )
    # inference tensors have no gradients
    with torch.inference_mode(False):
        result = lr.clone()
        if not steps:
            return result
        windows = list(divide(small, size, factors, search, 1 if channel is None else _BLOCK))
        for index, window in enumerate(windows):
            target = read(*window.restored).clone()
            guide = bicubic_window(read, size, factors, window.core)
            surroundings = (cut(result, window.seen).float() / 255).to(target.device)
            trip = _RoundTrip(network, scale, size, window, surroundings, channel)

            def report(step: int, index: int = index) -> None:
                on_progress((index + step / steps) / len(windows))

            best = _descend(trip, target, guide, steps, search.step, report)
            cut(result, window.core).copy_(best.mul(255).round())
    return result


def _descend(
    trip: _RoundTrip,
    target: Tensor,
    guide: Tensor,
    steps: int,
    size: float,
    report: Callable[[int], None],
) -> Tensor:
    """Optimizes a window.

    Args:
        trip: the window.
        target: its part of the HR image.
        guide: its part of the bicubic LR image in 8 bits.
        steps: number of steps.
        size: root mean square of the first step; they decrease to 0 along a cosine.
        report: called with the number of completed steps.

    Returns:
        The best samples of the core in 8 bits, possibly the initial ones.
    """
    x = trip.core(trip.surroundings).clone()
    with torch.no_grad():
        ball = FidelityBall.around(guide, trip.core(trip.store(x)))
    best, least = x, math.inf
    momentum, power = torch.zeros_like(x), torch.zeros_like(x[:1, :1, :1, :1])
    for step in range(steps + 1):
        x = x.detach().requires_grad_(step < steps)
        with torch.set_grad_enabled(step < steps):
            seen = trip.store(x)
            restored = trip.restore(seen)
            loss = (restored - target).square().sum()
        with torch.no_grad():
            error = float((quantize(restored) - target).square().mean())
            if error < least and ball.contains(trip.core(seen)):
                best, least = quantize(x.detach()), error
        if step == steps:
            break
        (gradient,) = torch.autograd.grad(loss, x)
        with torch.no_grad():
            # both averages are corrected for their initialization to zero, as in Adam
            power = power + (gradient.square().mean() - power) / (step + 1)
            momentum = _MOMENTUM * momentum + (1 - _MOMENTUM) * gradient
            average = momentum / (1 - _MOMENTUM ** (step + 1))
            rate = size * 0.5 * (1 + math.cos(math.pi * step / steps))
            x = x - rate * average / power.sqrt().clamp_min(1e-30)
            for _ in range(1 if trip.channel is None else _PROJECTIONS):
                x = ball.projected(x, trip.core(trip.store(x)))
        report(step + 1)
    return best
