"""AIDN's two directions as functions of tensors, for other runtimes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rescale_arch.aidn.conditional_resampling import Sampling
from rescale_arch.aidn.network import AIDN
from rescale_arch.aidn.streaming import StreamingTrunk
from rescale_arch.aidn.trunk import RescalingTrunk
from rescale_arch.graphs import DOWN, IMAGE_AXES, UP, Graph

# As in the network: too coarse in half precision for images with 8 bits.
_FULL_PRECISION = ("trunk.sub_mean", "trunk.head", "trunk.tail.1", "trunk.add_mean")
_RATIO = {DOWN: 0.5, UP: 2.0}  # of the examples


def aidn_graphs(network: nn.Module) -> dict[str, Graph]:
    """The graphs ``down`` and ``up`` of an :class:`~rescale_arch.AIDN`."""
    assert isinstance(network, AIDN)
    trunks = {DOWN: network.down_net, UP: network.up_net}
    if network.fixed_scale is None:
        return {name: _any_scale(trunk, _RATIO[name]) for name, trunk in trunks.items()}
    units = {DOWN: network.fixed_scale, UP: 1}
    return {name: _fixed_scale(trunk, units[name]) for name, trunk in trunks.items()}


class _AnyScale(nn.Module):
    """image, fields of `Sampling` -> output, reach."""

    def __init__(self, trunk: RescalingTrunk) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(
        self,
        image: Tensor,
        inverse_ratio: Tensor,
        rows: Tensor,
        row_phases: Tensor,
        columns: Tensor,
        column_phases: Tensor,
    ) -> tuple[Tensor, Tensor]:
        assert self.trunk.sa_sample is not None
        offsets: list[Tensor] = []
        handle = self.trunk.sa_sample.offset.register_forward_hook(
            lambda module, args, offset: offsets.append(offset)
        )
        try:
            sampling = Sampling(inverse_ratio, rows, row_phases, columns, column_phases)
            output = self.trunk(image, sampling)
        finally:
            handle.remove()
        (offset,) = offsets  # channel 0 is horizontal
        horizontal, vertical = offset.abs().amax((0, 2, 3)).unbind()
        return output, torch.stack((vertical, horizontal))


class _FixedScale(nn.Module):
    """image -> output."""

    def __init__(self, trunk: RescalingTrunk) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, image: Tensor) -> Tensor:
        unused = Sampling(*image.new_zeros(5, 1))
        out: Tensor = self.trunk(image, unused)
        return out


def _any_scale(trunk: RescalingTrunk, ratio: float) -> Graph:
    weight = trunk.last_conv.weight
    size = 24 * trunk.unshuffle, 34 * trunk.unshuffle
    out_size = round(size[0] * ratio), round(size[1] * ratio)
    image = weight.new_zeros(2, 3, *size)
    sampling = Sampling.of(trunk.feature_ratio((ratio, ratio)), out_size, weight)
    return Graph(
        module=_AnyScale(trunk).eval(),
        inputs={"image": image, **sampling._asdict()},
        axes={
            "image": IMAGE_AXES,
            "rows": {0: "out_height"},
            "row_phases": {0: "out_height"},
            "columns": {0: "out_width"},
            "column_phases": {0: "out_width"},
        },
        outputs=("output", "reach"),
        unit=trunk.unshuffle,
        halo=_lag(trunk),
        full_precision=_FULL_PRECISION,
    )


def _fixed_scale(trunk: RescalingTrunk, unit: int) -> Graph:
    return Graph(
        module=_FixedScale(trunk).eval(),
        inputs={"image": trunk.last_conv.weight.new_zeros(2, 3, 24 * unit, 34 * unit)},
        axes={"image": IMAGE_AXES},
        unit=unit,
        full_precision=_FULL_PRECISION,
    )


def _lag(trunk: RescalingTrunk) -> int:
    """Pixels of the features on each side that a pixel of the features depends on."""
    return StreamingTrunk(trunk, (1.0, 1.0), trunk.last_conv.weight.dtype).lag
