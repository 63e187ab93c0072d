"""Leaving a training run by SIGTERM or Ctrl-C between two steps, on all ranks alike."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SECOND_THOUGHT_S = 5.0


class StopSignal:
    """Keeps a signal until the run asks for it.

    Another one does what it always does, if it comes five seconds later or more: schedulers and
    ``torchrun`` send the first one twice, to the process and to its group.
    """

    def __init__(self) -> None:
        self._received = 0
        self._at = 0.0
        self._previous: dict[int, Any] = {}
        self._group: Any = None
        self._vote: tuple[torch.Tensor, Any] | None = None

    def listen(self) -> None:
        """Begins to catch signals; only the main thread can."""
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._receive) for number in _SIGNALS}

    def close(self) -> None:
        """Gives the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def received(self) -> int:
        """The number of the signal that this process got, 0 for none."""
        return self._received

    def agreed(self) -> int:
        """As :meth:`received`, but the same on every rank; each must ask once in a step.

        What comes back is the vote of the call before, which has travelled during the step: no rank
        waits for another, nor for its GPU.
        """
        if not dist.is_initialized():
            return self._received
        if self._group is None:
            self._group = dist.new_group(backend="gloo")
        if self._vote is not None:
            highest, work = self._vote
            work.wait()
            if highest.item():
                return int(highest)
        vote = torch.tensor(self._received)
        work = dist.all_reduce(vote, dist.ReduceOp.MAX, group=self._group, async_op=True)
        self._vote = vote, work
        return 0

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if not self._received:
            self._received, self._at = number, time.monotonic()
        elif time.monotonic() - self._at >= _SECOND_THOUGHT_S:
            self.close()
            signal.raise_signal(number)
