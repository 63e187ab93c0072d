"""Comparison of exported models with the networks that they were exported from."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from rescale_app.export.model_inputs import model_inputs
from rescale_arch.graphs import DOWN, Graph
from rescale_arch.images import pad_to_multiple
from rescale_arch.rounding import quantize
from rescale_arch.scales import Size

_LR_SIZES = ((9, 7), (12, 20), (23, 17))
_SCALES = ((1.3, 1.3), (2.5, 2.5), (3.7, 1.6))


def largest_error(model: bytes, graph: Graph, direction: str, network: Any) -> float:
    """Runs a model with ONNX Runtime, and compares its images with those of PyTorch.

    Three sizes are tested at three scales, or at the network's only factor. The restored images are
    noise, since group norm amplifies rounding errors of features that hardly vary. PyTorch computes
    in float64: its float32 can be further from that than ONNX Runtime's.

    Args:
        model: a serialized ONNX model.
        graph: what it was converted from.
        direction: ``'down'`` or ``'up'``.
        network: the network, on the CPU in evaluation mode.

    Returns:
        The largest absolute difference of two samples, in [0, 1]; NaN if a sample is NaN.
    """
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    network = copy.deepcopy(network).double()
    errors = []
    for size, factors in _cases(graph, network):
        with torch.inference_mode():
            if direction == DOWN:
                image, ratio = _image(size), (1 / factors[0], 1 / factors[1])
                expected = network.downscale(image.double(), factors)
                image = pad_to_multiple(image, graph.unit)
            else:
                image, ratio = quantize(_noise(network.lr_size(size, factors))), factors
                expected = network.upscale(image.double(), factors, size=size)
        found = run_model(session, graph.unit, image, ratio, tuple(expected.shape[-2:]))
        errors.append(np.abs(found - expected.numpy()).max())
    return float(np.max(errors))


def run_model(
    session: onnxruntime.InferenceSession,
    unit: int,
    image: Tensor,
    ratio: tuple[float, float],
    size: Size,
) -> NDArray[np.float32]:
    """Runs a model with ONNX Runtime; returns an image of ``size``."""
    values: dict[str, Any] = {"image": image.numpy()}
    values |= model_inputs(ratio, size, unit)
    wanted = [entry.name for entry in session.get_inputs()]
    (output,) = session.run(["output"], {name: values[name] for name in wanted})
    cropped: NDArray[np.float32] = output[..., : size[0], : size[1]]
    return cropped


def _cases(graph: Graph, network: Any) -> Iterator[tuple[Size, tuple[float, float]]]:
    scales = _SCALES if "inverse_ratio" in graph.inputs else (network.factors(None),)
    for height, width in _LR_SIZES:
        for factors in scales:
            # not multiples of the factor
            yield (int(height * factors[0]) - 1, int(width * factors[1]) - 1), factors


def _image(size: Size) -> Tensor:
    """A smooth image with some noise."""
    generator = torch.Generator().manual_seed(size[0] * size[1])
    coarse = torch.rand(1, 3, 5, 6, generator=generator)
    smooth = F.interpolate(coarse, size, mode="bicubic", align_corners=False)
    return (0.9 * smooth + 0.1 * _noise(size)).clamp(0, 1)


def _noise(size: Size) -> Tensor:
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(size[0] + size[1]))
