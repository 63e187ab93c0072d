"""The state that a run saves in addition to its networks, for exact resuming."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import rescale_compat  # noqa: F401  must precede basicsr
from rescale_compat.errors import RescaleError

import torch
from basicsr.utils import get_root_logger

from rescale_model.distributed import gather
from rescale_model.training.checkpoints import save_checkpoint
from rescale_model.training.random_state import random_states, resume_randomness
from rescale_model.training.sampler import DataPosition
from rescale_model.training.step_guard import StepGuard

# entries of optimizers and schedulers that change during a run, or follow from others
_PROGRESS = ("params", "lr", "last_epoch", "cumulative_period")
_OPTIONS = {"initial_lr": "lr", "base_lrs": "lr"}  # entries with other names than their options


class TrainingState:
    """Optimizers, schedulers, random states and the position in the data, as files.

    Args:
        opt: all options of the run.
        optimizers: its optimizers.
        schedulers: its learning rate schedulers.
        guard: counts the steps that were skipped.

    Attributes:
        saved_iter: the last iteration that was saved or resumed from; 0 for none.
    """

    def __init__(
        self,
        opt: Mapping[str, Any],
        optimizers: Sequence[torch.optim.Optimizer],
        schedulers: Sequence[Any],
        guard: StepGuard,
    ) -> None:
        self._opt = opt
        self._optimizers = optimizers
        self._schedulers = schedulers
        self._guard = guard
        self.saved_iter = 0

    def collect(self, position: DataPosition | None) -> dict[str, Any]:
        """Returns the entries that BasicSR's files do not have; all ranks must call it."""
        state = {
            "seed": self._opt["manual_seed"],
            "skipped": self._guard.skipped,
            "random_states": gather(random_states()),
        }
        if position is not None:
            state["samples"] = position.samples
        return state

    def save(self, epoch: int, iteration: int, collected: Mapping[str, Any]) -> None:
        """Writes ``<iteration>.state`` on rank 0, atomically.

        Args:
            epoch: the current epoch.
            iteration: the last completed iteration.
            collected: result of :meth:`collect`.

        Raises:
            OSError: the file cannot be written.
        """
        state = {
            "epoch": epoch,
            "iter": iteration,
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "schedulers": [scheduler.state_dict() for scheduler in self._schedulers],
            **collected,
        }
        if self._opt["rank"] == 0:
            folder = self._opt["path"]["training_states"]
            save_checkpoint(state, os.path.join(folder, f"{iteration}.state"))
        self.saved_iter = iteration

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores a saved state.

        Optimizers and schedulers continue with the saved options; a warning names those that have
        other values now.

        Raises:
            ValueError: the number of optimizers differs.
        """
        if len(state["optimizers"]) != len(self._optimizers):
            raise RescaleError(
                f"{self._opt['path']['resume_state']}: holds {len(state['optimizers'])} "
                f"optimizers, but these options have {len(self._optimizers)}"
            )
        ignored: set[str] = set()
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            groups = zip(optimizer.param_groups, saved["param_groups"], strict=False)
            ignored.update(*(_different(group, before) for group, before in groups))
            optimizer.load_state_dict(saved)
        for scheduler, saved in zip(self._schedulers, state["schedulers"], strict=True):
            ignored |= _different(scheduler.state_dict(), saved)
            scheduler.load_state_dict(saved)
        if ignored:
            get_root_logger().warning(
                f"{self._opt['path']['resume_state']}: optimizer and scheduler continue with the "
                f"saved options; changes have no effect: {', '.join(sorted(ignored))}"
            )
        self.saved_iter = state["iter"]
        self._guard.skipped = state.get("skipped", 0)
        resume_randomness(
            state.get("random_states", ()), self._opt["rank"], self._opt["world_size"]
        )
        self._guard.remember()


def _different(created: Mapping[str, Any], saved: Mapping[str, Any]) -> set[str]:
    """Options of an optimizer or scheduler that have other values than the saved ones."""
    return {
        _OPTIONS.get(key, key)
        for key in created.keys() & saved.keys()
        if not key.startswith("_") and key not in _PROGRESS and created[key] != saved[key]
    }
