"""Inputs of the exported ONNX models besides the image; requires only NumPy."""

import numpy as np


def model_inputs(
    ratio: tuple[float, float],
    size: tuple[int, int],
    unit: int = 1,
    first: tuple[int, int] = (0, 0),
    origin: tuple[float, float] = (0, 0),
) -> dict[str, np.ndarray]:
    """Computes ``inverse_ratio``, ``rows``, ``row_phases``, ``columns`` and ``column_phases``.

    Args:
        ratio: output over input side, (vertical, horizontal): the scale to restore with up.onnx,
            1 / scale to downscale with down.onnx. Not the ratio of the sides, which are rounded.
        size: (height, width) of the output, or of a part of it.
        unit: see the model's metadata, ``rescale.unit``.
        first: (row, column) of the first pixel of that part.
        origin: for a model that is given only a part of the image: (row, column) of the first pixel
            of the part, divided by ``unit``.
    """
    inputs = {"inverse_ratio": np.array([1 / (side * unit) for side in ratio], np.float32)}
    for axis, name in enumerate(("row", "column")):
        at = (np.arange(size[axis]) + first[axis] + 0.5) / (ratio[axis] * unit)
        inputs[f"{name}s"] = (at - 0.5 - origin[axis]).astype(np.float32)
        inputs[f"{name}_phases"] = (at - np.floor(at + 1e-3) - 0.5).astype(np.float32)
    return inputs
