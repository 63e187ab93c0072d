"""Handling of training steps that are not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import rescale_compat  # noqa: F401  must precede basicsr
from rescale_compat.errors import RescaleError

import torch
from basicsr.utils import get_root_logger
from torch import Tensor, nn

from rescale_model.distributed import gather
from rescale_model.training.random_state import random_states, set_random_states


class StepGuard:
    """Skips a step that is not finite, or saves the previous state and stops the run.

    A step changes learning rates and random states before its losses are known to be finite;
    :meth:`remember` stores both.

    Args:
        nets: the networks that are trained.
        optimizers: their optimizers.
        schedulers: the learning rate schedulers.
        skip: whether to skip such steps.

    Attributes:
        skipped: the number of steps that were skipped.
    """

    def __init__(
        self,
        nets: Sequence[nn.Module],
        optimizers: Sequence[torch.optim.Optimizer],
        schedulers: Sequence[Any],
        *,
        skip: bool,
    ) -> None:
        self._nets = nets
        self._optimizers = optimizers
        self._schedulers = schedulers
        self._skip = skip
        self.skipped = 0
        self.remember()

    def remember(self) -> None:
        """Stores what a step changes before its losses are known to be finite."""
        self._before = (
            [scheduler.state_dict() for scheduler in self._schedulers],
            [[group["lr"] for group in optimizer.param_groups] for optimizer in self._optimizers],
            random_states(),
        )

    def reject(
        self,
        iteration: int,
        note: str,
        values: Mapping[str, Tensor],
        images: Sequence[str],
        save: Callable[[int], None],
    ) -> None:
        """Reports a step that was not finite, and skips it or stops the run.

        All ranks must call it.

        Args:
            iteration: iteration of the step.
            note: further information about the step for the message, such as its scale; may be
                empty.
            values: the losses of this rank.
            images: names of the images of this rank.
            save: function that saves the state after an iteration.

        Raises:
            ValueError: the step is not skipped, so that the run stops.
        """
        message = _message(iteration, note, gather((_not_finite(values), list(images))))
        if self._skip:
            self.skipped += 1
            get_root_logger().warning(f"Skipped {message}")
            return
        self._go_back()
        last = iteration - 1
        weights = [p for net in self._nets for p in net.parameters()]
        if not all(bool(weight.isfinite().all()) for weight in weights):
            raise RescaleError(f"{message}; the weights are no longer finite and were not saved")
        save(last)
        raise RescaleError(
            f"{message}; {f'iteration {last} is saved' if last else 'nothing is trained yet'}; "
            "set train: skip_non_finite: true to skip such steps"
        )

    def _go_back(self) -> None:
        schedulers, rates, randomness = self._before
        for scheduler, state in zip(self._schedulers, schedulers, strict=True):
            scheduler.load_state_dict(state)
        for optimizer, of_groups in zip(self._optimizers, rates, strict=True):
            for group, rate in zip(optimizer.param_groups, of_groups, strict=True):
                group["lr"] = rate
        set_random_states(randomness)


def _message(iteration: int, note: str, ranks: Sequence[tuple[list[str], list[str]]]) -> str:
    """``ranks``: for each rank, its losses that are not finite, and its images."""
    affected = [entry for entry in ranks if entry[0]] or ranks
    wrong = ", ".join(sorted({text for texts, _ in affected for text in texts})) or "gradients"
    images = ", ".join(path for _, paths in affected for path in paths)
    step = f"iteration {iteration}" + (f", {note}" if note else "")
    return f"{step}: not finite: {wrong}; images: {images}"


def _not_finite(losses: Mapping[str, Tensor]) -> list[str]:
    values = {name: value.mean().item() for name, value in losses.items()}
    return [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
