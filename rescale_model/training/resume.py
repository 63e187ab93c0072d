"""Finding and reading the newest intact training state."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rescale_compat.errors import RescaleError

from rescale_data.atomic import TEMPORARY_PREFIX
from rescale_data.weight_file import read_weights
from rescale_model.distributed import broadcast

_NEEDED = ("epoch", "iter", "optimizers", "schedulers")


def read_state(path: str) -> dict[str, Any]:
    """Reads a training state.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged, or not a training state.
    """
    state = read_weights(path)
    lacking = [key for key in _NEEDED if key not in state]
    if lacking:
        raise RescaleError(f"{path}: not a training state, it lacks {', '.join(lacking)}")
    return state


def newest_state(opt: dict[str, Any]) -> tuple[str | None, list[str]]:
    """Finds the newest intact training state for which the weights of its iteration exist.

    Args:
        opt: options of the run, the same on all ranks.

    Returns:
        Its path, or None if there is no state; and the problems with newer states. The same on all
        ranks.

    Raises:
        ValueError: no existing state is usable; the message is about the newest.
        OSError: likewise.
        MemoryError: there is not enough memory to load one.
    """
    found: tuple[str | None, list[str]] | Exception = (None, [])
    if opt["rank"] == 0:
        try:
            found = _newest_state(opt)
        except (OSError, ValueError, MemoryError) as error:  # the other ranks wait for it
            found = error
    found = broadcast(found)
    if isinstance(found, Exception):
        raise found
    return found


def _newest_state(opt: dict[str, Any]) -> tuple[str | None, list[str]]:
    states, models = Path(opt["path"]["training_states"]), Path(opt["path"]["models"])
    for unfinished in (*states.glob(".*.state"), *models.glob(f"{TEMPORARY_PREFIX}*.pth")):
        unfinished.unlink()  # left by a run that was killed while saving
    ignored = opt["path"].get("ignore_resume_networks") or ()
    labels = [
        key.removeprefix("network_")
        for key in opt
        if key.startswith("network_") and key not in ignored
    ]
    iterations = [int(path.stem) for path in states.glob("*.state") if path.stem.isdecimal()]
    problems: list[Exception] = []
    for iteration in sorted(iterations, reverse=True):
        path = os.path.join(states, f"{iteration}.state")
        try:
            read_state(path)
            for label in labels:
                read_weights(models / f"net_{label}_{iteration}.pth")
        except (OSError, ValueError) as error:
            problems.append(error)
        else:
            return path, [str(problem) for problem in problems]
    if problems:
        raise problems[0]
    return None, []
