"""Stopping a training run by SIGTERM or Ctrl-C between two steps, on all ranks."""

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


class Interrupted(Exception):
    """A signal was received during a validation.

    Attributes:
        number: number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class StopSignal:
    """Stores a signal until the run queries it.

    A second signal has its default effect if it is received at least five seconds later: schedulers
    and ``torchrun`` send the first one twice, to the process and to its group.
    """

    def __init__(self) -> None:
        self._received = 0
        self._at = 0.0
        self._previous: dict[int, Any] = {}
        self._group: Any = None
        self._vote: tuple[torch.Tensor, Any] | None = None

    def listen(self) -> None:
        """Installs the signal handlers; does nothing outside the main thread."""
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._receive) for number in _SIGNALS}

    def close(self) -> None:
        """Restores the previous signal handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def agreed(self) -> int:
        """Returns the number of a signal that any rank received, or 0; call it once per step.

        All ranks must call it. The result is that of the previous call, which is reduced
        asynchronously during the step, so that no rank waits for another or for its GPU.
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

    def interrupt(self) -> None:
        """Stops a validation if this process received a signal.

        Does nothing in a distributed run, where ranks agree after the next step.

        Raises:
            Interrupted: a signal was received.
        """
        if self._received and not dist.is_initialized():
            raise Interrupted(self._received)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if not self._received:
            self._received, self._at = number, time.monotonic()
        elif time.monotonic() - self._at >= _SECOND_THOUGHT_S:
            self.close()
            signal.raise_signal(number)
