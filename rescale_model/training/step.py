"""The step of an iteration: gradients, their check, the update of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from rescale_model.training.finite_check import FiniteCheck


class TrainingStep:
    """Updates the weights only if all losses are finite on every rank.

    A step consists of :meth:`begin`, :meth:`add_gradients` for each optimizer, and :meth:`finish`.

    Args:
        nets: the networks that are trained.
        optimizers: their optimizers.
        check_gradients: whether gradients must also be finite. Unlike the check of the losses,
            this synchronizes with the GPU.

    Attributes:
        logged: name -> detached value of the last step: the losses, and values that a model adds.
    """

    def __init__(
        self,
        nets: Sequence[nn.Module],
        optimizers: Sequence[torch.optim.Optimizer],
        *,
        check_gradients: bool,
    ) -> None:
        self._nets = nets
        self._optimizers = optimizers
        self._check_gradients = check_gradients
        self._checks: list[FiniteCheck] = []
        self._buffers: list[tuple[Tensor, Tensor]] = []
        self.logged: dict[str, Tensor] = {}

    def begin(self) -> None:
        """Starts a step."""
        buffers = [buffer for net in self._nets for buffer in net.buffers()]
        self._buffers = [(buffer, buffer.clone()) for buffer in buffers]
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.logged = {}
        self._checks = []

    def add_gradients(self, losses: Mapping[str, Tensor]) -> None:
        """Adds the gradients of the sum of ``losses``; the losses are logged and checked."""
        total: Tensor = sum(losses.values())  # type: ignore[assignment]
        self._checks.append(FiniteCheck(total))
        total.backward()
        self.logged |= {name: value.detach() for name, value in losses.items()}

    def finish(self) -> bool:
        """Updates the weights, unless a check failed.

        Returns:
            Whether they were updated; if not, buffers are restored.
        """
        if self._is_finite():
            for optimizer in self._optimizers:
                optimizer.step()  # needed for the scheduler even without gradients
            return True
        for buffer, value in self._buffers:  # such as batch statistics
            buffer.copy_(value)
        return False

    def _is_finite(self) -> bool:
        if self._check_gradients:
            parameters = [p for net in self._nets for p in net.parameters()]
            # with an infinite maximum norm, the gradients are not changed
            self._checks.append(FiniteCheck(nn.utils.clip_grad_norm_(parameters, math.inf)))
        return all([check.passed() for check in self._checks])
