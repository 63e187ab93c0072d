"""Conversion of a direction of a network to ONNX."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import onnx
import torch
from torch.export import Dim

from rescale_app.export.half_precision import to_half_precision
from rescale_arch.graphs import Graph

OPSET = 18
"""The first version with all operators of the graphs, and the most widely supported one.

Up to 19, `GridSample` runs on a GPU in the browser.
"""


def to_onnx(graph: Graph, notes: Mapping[str, str], half: bool = False) -> bytes:
    """Converts a graph to a serialized ONNX model.

    Args:
        graph: the direction of a network.
        notes: metadata of the model.
        half: compute most of it in float16; inputs and outputs are float32 regardless.

    Raises:
        OverflowError: a weight exceeds the range of float16.
    """
    with _quiet():
        program = torch.onnx.export(
            graph.module,
            tuple(graph.inputs.values()),
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=_dynamic_shapes(graph),
            verbose=False,
        )
    assert program is not None
    if half:
        to_half_precision(program.model, graph.full_precision)
    model = program.model_proto
    # Contains stack traces with local paths, as large as a small network.
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, dict(notes))
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString()
    return data


def _dynamic_shapes(graph: Graph) -> list[dict[int, Any] | None]:
    """For each input, its axes that vary; the sides of the image are multiples of the unit."""
    dims: dict[str, Any] = {}
    for name in {label for axes in graph.axes.values() for label in axes.values()}:
        dims[name] = Dim(name)
        if name in ("height", "width"):
            dims[name] = graph.unit * dims[name]
    return [
        {axis: dims[label] for axis, label in graph.axes[name].items()}
        if name in graph.axes
        else None
        for name in graph.inputs
    ]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporter; its output is verified."""
    logger = logging.getLogger("torch")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
