"""cuDNN settings for inference."""

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
    """Disables TF32 and autotuning of cuDNN convolutions.

    By default, PyTorch computes fp32 convolutions on a GPU in TF32, with 10 bits of mantissa. That
    is sufficient for training, but inference should match the results of a CPU. Autotuning
    (``cudnn.benchmark``, which BasicSR's runners enable) pays off if sizes repeat, but images have
    arbitrary sizes.

    The settings are global and last until the last thread has left the block. If
    ``torch.backends.cudnn.conv.fp32_precision`` differs from the setting of
    ``torch.backends.cudnn.rnn``, the precision is not changed: PyTorch then rejects the older
    ``allow_tf32`` used here.
    """
    global _inside
    with _lock:
        if not _inside:
            _set("benchmark", False)
            # raises once precisions differ by operator
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
