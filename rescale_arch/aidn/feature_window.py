"""A sliding window of the trunk's features for AIDN's resampling.

If learned offsets point outside the window, features are recomputed with a larger margin.
"""

from __future__ import annotations

import math
from collections import deque

import torch
from torch import Tensor

from rescale_arch.aidn.streaming import Pair, StreamingTrunk, stream
from rescale_arch.aidn.streaming_resampling import StreamingResampling
from rescale_arch.aidn.trunk import RescalingTrunk
from rescale_arch.regions import Read, Span
from rescale_arch.scales import Size

_MARGIN = 4  # initial margin for offsets, in feature pixels


class FeatureWindow:
    """The trunk's features around the output rows that are being resampled.

    Args:
        trunk: the direction.
        ratio: output over feature side, (vertical, horizontal).
        size: (height, width) of the features.
        sampled: output columns [first, end) that are to be resampled.
        read: see `Read`; reads an input of ``trunk.unshuffle`` times ``size``.
        dtype: the dtype of the computation.
    """

    def __init__(
        self,
        trunk: RescalingTrunk,
        ratio: Pair,
        size: Size,
        sampled: Span,
        read: Read,
        dtype: torch.dtype,
    ) -> None:
        assert trunk.sa_sample is not None
        self.trunk, self.ratio, self.size = trunk, ratio, size
        self.sampled, self.read, self.dtype = sampled, read, dtype
        self.resampling = StreamingResampling(trunk.sa_sample, ratio, dtype)
        self.margin = _MARGIN
        self._start(0)

    def resample(self, rows: Span) -> Tensor:
        """Output rows [first, end), resampled: (B, n, w', C)."""
        while True:
            top, bottom = self._around(0, rows)
            origin = top, self.columns[0]
            plan = self.resampling.plan(self._features(top, bottom), origin, rows, self.sampled)
            row_span, column_span = plan.extent()
            missing = max(
                _missing(row_span, (top, bottom), self.size[0]),
                _missing(column_span, self.columns, self.size[1]),
            )
            if missing == 0:
                return self.resampling.sample(plan)
            self.margin += max(missing, self.margin)
            if self._around(1, self.sampled) != self.columns:
                self._start(top)

    def _around(self, axis: int, outputs: Span) -> Span:
        """The feature pixels around output pixels, with a margin for their offsets."""
        first, last = ((at + 0.5) / self.ratio[axis] - 0.5 for at in (outputs[0], outputs[1] - 1))
        return (
            max(math.floor(first) - self.margin, 0),
            min(math.floor(last) + 2 + self.margin, self.size[axis]),
        )

    def _start(self, top: int) -> None:
        """Starts computing features at the row ``top``."""
        trunk = StreamingTrunk(self.trunk, self.ratio, self.dtype)
        self.columns = self._around(1, self.sampled)
        first = max(top - trunk.lag, 0)
        left = max(self.columns[0] - trunk.lag, 0)
        right = min(self.columns[1] + trunk.lag, self.size[1])
        inner = self.columns[0] - left, self.columns[1] - left
        computed = stream(
            [trunk],
            self.read,
            (first, self.size[0]),
            (left, right),
            self.trunk.last_conv.weight,
            self.trunk.unshuffle,
        )
        self.new = (rows[:, :, inner[0] : inner[1]] for rows in computed)
        self.parts: deque[Tensor] = deque()
        self.top = self.bottom = first  # the available rows
        self.valid = top

    def _features(self, top: int, bottom: int) -> Tensor:
        """Feature rows [top, bottom). Rows above are discarded."""
        if top < max(self.top, self.valid):
            self._start(top)
        while self.bottom < bottom:
            self.parts.append(next(self.new))
            self.bottom += self.parts[-1].shape[1]
        while self.parts and self.top + self.parts[0].shape[1] <= top:
            self.top += self.parts.popleft().shape[1]
        wanted = []
        at = self.top
        for part in self.parts:
            wanted.append(part[:, max(top - at, 0) : max(bottom - at, 0)])
            at += part.shape[1]
        return torch.cat(wanted, dim=1)


def _missing(sampled: Span, available: Span, length: int) -> int:
    """The number of pixels that a window lacks; none are needed outside the image (zeros)."""
    first, end = max(sampled[0], 0), min(sampled[1], length)
    return max(available[0] - first, end - available[1], 0) if first < end else 0
