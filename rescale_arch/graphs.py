"""Directions of networks as functions of tensors, in the form that other runtimes need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

DOWN, UP = "down", "up"


@dataclass(frozen=True, eq=False)
class Graph:
    """A direction of a network as a function of tensors, traceable for images of any size.

    Whatever depends on the scale and the size is an input, so that one graph serves all of them.

    Attributes:
        module: the function, in evaluation mode without gradients. Called with the tensors of
            ``inputs`` in their order; returns a tensor for each of ``outputs``.
        inputs: example inputs by name, for tracing. ``image`` is RGB (B, 3, h, w) in [0, 1]. A
            network for any scale has the fields of
            :class:`~rescale_arch.aidn.conditional_resampling.Sampling` as well.
        axes: for each input, names of the axes that vary.
        outputs: names of the outputs. The first, ``output``, is an image (B, 3, h', w'), not
            clamped. ``reach`` (2,), if present, is how far, in pixels of the features, the samples
            of the output are from the given positions at most: (vertical, horizontal).
        unit: the sides of ``image`` must be multiples of it. Positions of samples are in pixels of
            the features, which are this many pixels of the image.
        halo: pixels of the features on each side of a sample that it depends on; None: the output
            depends on the whole image.
        full_precision: names of submodules that are computed in single precision, even if the rest
            is converted to half precision.
    """

    module: nn.Module
    inputs: Mapping[str, Tensor]
    axes: Mapping[str, Mapping[int, str]]
    outputs: tuple[str, ...] = ("output",)
    unit: int = 1
    halo: int | None = None
    full_precision: tuple[str, ...] = field(default=())


IMAGE_AXES = {0: "batch", 2: "height", 3: "width"}
"""Varying axes of an image."""
