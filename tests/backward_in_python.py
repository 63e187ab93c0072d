"""Backward passes in Python: PyTorch's engine needs a GPU for tensors on a CUDA device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import get_gradient_edge


def backward(
    tensors: Tensor | Sequence[Tensor],
    grad_tensors: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    grad_variables: Any = None,
    inputs: Sequence[Tensor] | None = None,
) -> None:
    """In place of ``torch.autograd.backward``."""
    assert inputs is None and grad_variables is None, "not needed so far"
    _propagate(_listed(tensors), _listed(grad_tensors), create_graph, {})


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    **_: Any,
) -> tuple[Tensor | None, ...]:
    """In place of ``torch.autograd.grad``."""
    edges = [tuple(get_gradient_edge(tensor)[:2]) for tensor in _listed(inputs)]
    wanted: dict[Any, Tensor | None] = dict.fromkeys(edges)
    _propagate(_listed(outputs), _listed(grad_outputs), create_graph, wanted)
    return tuple(wanted[edge] for edge in edges)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _propagate(
    outputs: list[Tensor], grads: list[Any], create_graph: bool, wanted: dict[Any, Tensor | None]
) -> None:
    """Runs the graph backwards, as PyTorch's engine does, which needs a GPU for CUDA tensors.

    Args:
        outputs: where to begin.
        grads: their gradients; None stands for ones.
        create_graph: record what is computed.
        wanted: filled with the gradients of these edges (node, number); if there are any, the
            gradients of parameters stay as they are. Hooks are not called.
    """
    incoming: dict[Any, dict[int, Tensor]] = {}

    def add(node: Any, number: int, grad: Tensor) -> None:
        # a broadcast is undone by the engine, not by the nodes
        meta = node._input_metadata[number]
        assert grad.device == meta.device, f"{node.name()}: gradient on {grad.device}"
        grad = grad.sum_to_size(meta.shape).to(meta.dtype)
        gradients = incoming.setdefault(node, {})
        gradients[number] = gradients[number] + grad if number in gradients else grad

    with torch.set_grad_enabled(create_graph):
        roots = [get_gradient_edge(output)[:2] for output in outputs]
        grads += [None] * (len(outputs) - len(grads))
        for (node, number), output, grad in zip(roots, outputs, grads, strict=True):
            add(node, number, torch.ones_like(output) if grad is None else grad)
        for node in _topological(node for node, _ in roots):
            given = incoming.pop(node, {})
            wanted.update({(node, n): g for n, g in given.items() if (node, n) in wanted})
            is_parameter = hasattr(node, "variable")
            if not given or (is_parameter and wanted):
                continue
            run = node.apply if isinstance(node, BackwardCFunction) else node
            results = _listed(run(*map(given.get, range(len(node._input_metadata)))))
            for (following, number), result in zip(node.next_functions, results, strict=False):
                if following is not None and result is not None:
                    add(following, number, result)


def _topological(roots: Iterable[Any]) -> list[Any]:
    """All nodes that follow from ``roots``, each before those that it hands gradients to."""
    order: list[Any] = []
    seen = set()
    pending = [(root, False) for root in roots]
    while pending:
        node, is_done = pending.pop()
        if is_done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            pending.append((node, True))
            pending += [(following, False) for following, _ in node.next_functions if following]
    return order[::-1]
