"""Writing a network as ONNX files, with helpers that compute their inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from rescale_compat.errors import RescaleError

from rescale_app.export.onnx_model import to_onnx
from rescale_app.export.verification import largest_error
from rescale_arch.architecture import LoadedNetwork
from rescale_arch.graphs import Graph
from rescale_data.image_file import write_file
from rescale_data.weight_file import fingerprint

TOLERANCE = 1e-4
"""Largest difference of a sample in [0, 1] from PyTorch's."""
HALF_TOLERANCE = 1 / 255
"""The same for models in half precision."""

_HELPERS = {"model_inputs.py": "model_inputs.py", "web/model_inputs.js": "model_inputs.js"}


@dataclass(frozen=True)
class ExportedModel:
    """An ONNX model that has been compared with the network it was exported from.

    Attributes:
        direction: ``'down'`` or ``'up'``.
        graph: what it was converted from.
        data: the serialized model.
        error: largest difference of a sample in [0, 1] from PyTorch's.
    """

    direction: str
    graph: Graph
    data: bytes
    error: float


def export_models(
    loaded: LoadedNetwork, *, half: bool = False, directions: tuple[str, ...] = ("down", "up")
) -> Iterator[ExportedModel]:
    """Converts the directions of a network to ONNX, and compares each with PyTorch.

    Args:
        loaded: the network, on the CPU.
        half: compute most of it in float16.
        directions: those to export.

    Raises:
        ValueError: the network does not support export, a weight exceeds the range of float16, or
            a model's results differ from PyTorch's by more than the tolerance.
    """
    architecture = loaded.architecture
    if architecture.graphs is None:
        raise RescaleError(f"{loaded.title} cannot be exported")
    graphs = architecture.graphs(loaded.network)
    for direction in directions:
        graph = graphs[direction]
        try:
            data = to_onnx(graph, _notes(loaded, direction, graph), half)
        except OverflowError as overflow:
            raise RescaleError(
                f"{direction}: exceeds the range of float16 ({overflow}): omit --fp16"
            ) from overflow
        error = largest_error(data, graph, direction, loaded.network)
        tolerance = HALF_TOLERANCE if half else TOLERANCE
        if not error <= tolerance:  # also true for NaN
            raise RescaleError(
                f"{direction}: results differ from PyTorch's by up to {error:.2g}, more than "
                f"{tolerance:.2g}" + (": omit --fp16" if half else "")
            )
        yield ExportedModel(direction, graph, data, error)


def write_helpers(folder: Path) -> list[Path]:
    """Writes functions that compute the inputs of the models, in Python and in JavaScript."""
    targets = []
    for source, name in _HELPERS.items():
        targets.append(folder / name)
        write_file(targets[-1], (Path(__file__).parent / source).read_bytes())
    return targets


def _notes(loaded: LoadedNetwork, direction: str, graph: Graph) -> dict[str, str]:
    """Metadata of a model."""
    notes = {
        "network": loaded.architecture.name,
        "title": loaded.title,
        "direction": direction,
        "weights": fingerprint(loaded.weights),
        "unit": str(graph.unit),
        "version": version("rescale-basicsr"),
    }
    if graph.halo is not None:
        notes["halo"] = str(graph.halo)
    return {f"rescale.{name}": text for name, text in notes.items()}
