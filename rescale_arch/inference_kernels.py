"""How cuDNN computes while images are judged or restored, on a GPU."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from torch.backends import cudnn

_lock = threading.Lock()
_inside = 0
_restore = ExitStack()


@contextmanager
def inference_kernels() -> Iterator[None]:
    """Convolutions in fp32 are computed in fp32, and kernels are chosen without trying them.

    By default PyTorch computes fp32 convolutions on a GPU in TF32, with 10 bits of mantissa. That
    suits training; results of inference should be those of a CPU. Trying kernels
    (``cudnn.benchmark``, which BasicSR's runners turn on) pays where sizes repeat, but images have
    any size.

    The settings are the process's: they last until the last thread has left the block. A precision
    that ``torch.backends.cudnn.conv.fp32_precision`` was set to, other than that of
    ``torch.backends.cudnn.rnn``, stays as it is: PyTorch then refuses the older switch used here.
    """
    global _inside
    with _lock:
        if not _inside:
            _set("benchmark", False)
            # there is no such switch once precisions differ by operator
            with suppress(RuntimeError):
                _set("allow_tf32", False)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _restore.close()


def _set(name: str, value: bool) -> None:
    _restore.callback(setattr, cudnn, name, getattr(cudnn, name))
    setattr(cudnn, name, value)
