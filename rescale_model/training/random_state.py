"""Saving and restoring the states of random number generators."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import rescale_compat  # noqa: F401  must precede basicsr

import numpy as np
import torch
from basicsr.utils import get_root_logger


def random_states() -> dict[str, Any]:
    """Returns the states of the process's random number generators as plain types and tensors."""
    name, keys, *rest = np.random.get_state()
    states = {
        "python": random.getstate(),
        "numpy": (str(name), np.asarray(keys).tolist(), *rest),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_random_states(states: dict[str, Any]) -> None:
    """Restores states returned by :func:`random_states`."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


@contextmanager
def same_randomness() -> Iterator[None]:
    """Restores the states of the random number generators at the end of the block."""
    states = random_states()
    try:
        yield
    finally:
        set_random_states(states)


def resume_randomness(states: Sequence[dict[str, Any]], rank: int, world_size: int) -> None:
    """Restores the random states in a training state, one for each rank.

    If the number of ranks differs, they are not used, and a warning is logged.
    """
    if len(states) == world_size:
        set_random_states(states[rank])
    else:
        get_root_logger().warning(
            f"The training state holds the random states of {len(states)} processes, but there "
            f"are {world_size}: random states are not resumed"
        )
