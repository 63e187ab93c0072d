"""The state that a run saves in addition to its networks, for exact resuming."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from rescale_compat.errors import RescaleError

import torch

from rescale_model.distributed import gather
from rescale_model.training.checkpoints import save_checkpoint
from rescale_model.training.random_state import random_states, resume_randomness
from rescale_model.training.sampler import DataPosition
from rescale_model.training.step_guard import StepGuard


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

        Raises:
            ValueError: the number of optimizers differs.
        """
        if len(state["optimizers"]) != len(self._optimizers):
            raise RescaleError(
                f"{self._opt['path']['resume_state']}: holds {len(state['optimizers'])} "
                f"optimizers, but these options have {len(self._optimizers)}"
            )
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for scheduler, saved in zip(self._schedulers, state["schedulers"], strict=True):
            scheduler.load_state_dict(saved)
        self.saved_iter = state["iter"]
        self._guard.skipped = state.get("skipped", 0)
        resume_randomness(
            state.get("random_states", ()), self._opt["rank"], self._opt["world_size"]
        )
        self._guard.remember()
