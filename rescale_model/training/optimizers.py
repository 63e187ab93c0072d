"""The optimisers that options can select."""

from __future__ import annotations

from collections.abc import Callable

from rescale_compat.errors import RescaleError

import torch


def optimizer_class(name: str) -> Callable[..., torch.optim.Optimizer]:
    """Returns the optimiser class ``name`` of ``torch.optim``.

    Raises:
        ValueError: there is no such optimiser.
    """
    cls = getattr(torch.optim, name, None)
    if not (isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)):
        raise RescaleError(f"option type: torch.optim has no optimiser {name!r}")
    return cls
