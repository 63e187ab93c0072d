"""The optimizers that options can select."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rescale_compat.errors import RescaleError

import torch
from torch import Tensor


def build_optimizer(
    name: str, options: Mapping[str, Any], parameters: Iterable[Tensor]
) -> torch.optim.Optimizer:
    """Builds an optimizer.

    Args:
        name: name of its option in the section ``train``, for error messages.
        options: ``type`` and keyword arguments.
        parameters: what to optimize.

    Raises:
        ValueError: the type is unknown, or an argument is out of range.
    """
    keywords = dict(options)
    try:
        return optimizer_class(keywords.pop("type"))(list(parameters), **keywords)
    except ValueError as error:  # PyTorch checks the ranges of its arguments
        raise RescaleError(f"option train: {name}: {error}") from error


def optimizer_class(name: str) -> Callable[..., torch.optim.Optimizer]:
    """Returns the optimizer class ``name`` of ``torch.optim``.

    Raises:
        ValueError: there is no such optimizer.
    """
    cls = getattr(torch.optim, name, None)
    if not (isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)):
        raise RescaleError(f"option type: torch.optim has no optimizer {name!r}")
    return cls
