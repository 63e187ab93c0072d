"""How a `Rescaler` computes: inference mode, precision, and errors for lack of memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from rescale_arch.inference_kernels import inference_kernels
from rescale_arch.scales import Size


@contextmanager
def computing(device: torch.device, bf16: bool, size: Size, advice: str) -> Iterator[None]:
    """Sets inference mode and precision, and reports out of memory as ``MemoryError``.

    Args:
        device: where the network is.
        bf16: whether to compute in bfloat16.
        size: (H, W) of the image, for the message.
        advice: ends the message.
    """
    try:
        with (
            torch.inference_mode(),
            inference_kernels(),
            torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16),
        ):
            yield
    except (RuntimeError, MemoryError) as error:
        # PyTorch has no separate exception class for this on the CPU.
        if not (
            isinstance(error, torch.cuda.OutOfMemoryError | MemoryError)
            or "can't allocate memory" in str(error)
        ):
            raise
        raise MemoryError(
            f"not enough memory on {device} for an image of {size[1]}x{size[0]}{advice}"
        ) from error
