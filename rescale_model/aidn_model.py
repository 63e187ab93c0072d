"""Training and validation of AIDN and AIDN+ (arXiv 2201.12576)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rescale_arch import AIDN, imresize, lr_size, scale_pair
from rescale_arch.aidn_tiling import downscale_tiles, upscale_tiles
from rescale_arch.growing import grow
from rescale_data.image_file import LRInfo
from rescale_model.evaluation import Judged, border
from rescale_model.rescaling_model import RescalingModel
from rescale_model.scale_schedule import ScaleSchedule
from rescale_model.tiled import in_tiles


class AIDNModel(RescalingModel):
    """Loss: ``pixel_opt(restored, hr) + guide_opt(lr, bicubic(hr, 1 / scale))``.

    Options beyond :class:`~rescale_model.rescaling_model.RescalingModel`'s:
        ``train: scales`` -- keywords of :class:`~rescale_model.scale_schedule.ScaleSchedule`;
            without effect where ``network_g`` has a ``fixed_scale``;
        ``train: pixel_opt`` -- loss of the restored image, the paper's is L1Loss;
        ``train: guide_opt`` -- loss of the LR image before rounding, the paper's is MSELoss;
        ``train: guide_weights`` -- weight of ``guide_opt`` from an iteration on, in place of its
            ``loss_weight``: ``[[0, 1], [2000, 100]]`` or ``{0: 1, 2000: 100}`` (BasicSR's own
            ``train.py`` takes the list only);
        ``path: pretrain_network_small`` -- weights of a smaller AIDN, which the network computes
            the same as at first (see :func:`rescale_arch.growing.grow`);
        ``val: scales`` -- factors, or pairs [vertical, horizontal], to validate at;
        ``val: tile`` -- side of the tiles that images are validated in, in HR pixels, which bounds
            the memory and changes nothing else (default: none).
    """

    def init_training_settings(self) -> None:
        """Grows the network from a smaller one, where the options name one."""
        path = self.opt["path"]
        small = path.get("pretrain_network_small")
        if small and path.get("pretrain_network_g"):
            if not path.get("resume_state"):
                raise ValueError(
                    "option path: give either pretrain_network_g or pretrain_network_small"
                )
        elif small:
            weights = self.read_network(small, path.get("param_key_small", "params"))
            try:
                grow(self.get_bare_model(self.net_g), weights)
            except ValueError as error:
                raise ValueError(f"{small}: {error}") from None
        super().init_training_settings()

    def build_losses(self) -> None:
        """Builds both losses, their schedule and that of the scales."""
        self.cri_pix = self.build_loss("pixel_opt")
        self.cri_guide: Any = self.build_loss("guide_opt")
        self.guide_weights = read_guide_weights(self.opt["train"].get("guide_weights"))
        scales = self.opt["train"].get("scales") or {}
        self.schedule = ScaleSchedule(**scales, seed=self.opt["manual_seed"])

    def losses(self, current_iter: int) -> dict[str, Tensor]:
        """The losses at the iteration's scale, one for the whole batch."""
        fixed = self.get_bare_model(self.net_g).fixed_scale
        self.scale = float(fixed) if fixed else self.schedule(current_iter)
        with self.autocast("train"):
            lr, restored = self.net_g(self.gt, self.scale)
        guide = bicubic_lr(self.gt, self.scale)
        for start, weight in self.guide_weights:
            if start <= current_iter:
                self.cri_guide.loss_weight = weight
        return {
            "l_pix": self.cri_pix(restored.float(), self.gt),
            "l_guide": self.cri_guide(lr.float(), guide),
        }

    def get_current_log(self) -> dict[str, float]:
        """The losses, and the scale that they are of."""
        return {**super().get_current_log(), "scale": self.scale}

    def validation_cases(self) -> dict[str, Any]:
        """The scales of ``val: scales``: ``x2.5``, or ``x2.5x1.5`` for a pair."""
        fixed = self.get_bare_model(self.net_g).fixed_scale
        scales = self.opt["val"].get("scales") or ([fixed] if fixed else [])
        if not scales:
            raise ValueError("option val: scales is missing: a list such as [1.5, 2.5, 3.5]")
        cases = {}
        for scale in scales:
            pair = scale_pair(scale)
            label = f"x{pair[0]:g}" if pair[0] == pair[1] else f"x{pair[0]:g}x{pair[1]:g}"
            cases[label] = pair
        return cases

    def round_trip(
        self, net: nn.Module, name: str, gt: Tensor, case: tuple[float, float]
    ) -> dict[str, Judged]:
        """``lr`` against bicubic LR, ``hr`` and ``bicubic`` (both ways) against ``gt``."""
        assert self.evaluation is not None
        assert isinstance(net, AIDN)
        size = (gt.shape[-2], gt.shape[-1])
        lr = self.evaluation.stored(name, self._downscaled(net, gt, case))
        restored = self._restored(net, lr, case, size)
        guide = bicubic_lr(gt, case)
        rounded = (guide.clamp(0, 1) * 255).round() / 255
        bicubic = imresize(rounded, size, case)
        edge = border(case)
        return {
            "lr": Judged(lr, guide, edge, LRInfo("aidn", case, size, self.fingerprint)),
            "hr": Judged(restored, gt, edge),
            "bicubic": Judged(bicubic, gt, edge),
        }

    def _downscaled(self, net: AIDN, gt: Tensor, case: tuple[float, float]) -> Tensor:
        tile = self.opt["val"].get("tile")
        if tile is None:
            return net.downscale(gt, case)
        size = (gt.shape[-2], gt.shape[-1])
        (lr,) = in_tiles(
            lambda read, write: downscale_tiles(net, size, case, read, write, tile),
            gt,
            lr_size(size, case),
        )
        return lr

    def _restored(
        self, net: AIDN, lr: Tensor, case: tuple[float, float], size: tuple[int, int]
    ) -> Tensor:
        tile = self.opt["val"].get("tile")
        if tile is None:
            return net.upscale(lr, case, size=size)
        (restored,) = in_tiles(
            lambda read, write: upscale_tiles(net, size, case, read, write, tile), lr, size
        )
        return restored


def read_guide_weights(given: Any) -> list[tuple[int, float]]:
    """The entries of ``train: guide_weights`` in order of their iterations.

    Args:
        given: pairs of an iteration and a weight, or a mapping from one to the other; None: none.

    Raises:
        ValueError: it is neither, or an iteration or a weight is no number.
    """
    pairs = given.items() if isinstance(given, Mapping) else given or []
    try:
        weights = sorted((float(start), float(weight)) for start, weight in pairs)
        valid = all(start.is_integer() and math.isfinite(weight) for start, weight in weights)
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ValueError(
            f"option train: guide_weights is {given!r}: needed are iterations and weights, as "
            "[[0, 1], [2000, 100]] or {0: 1, 2000: 100}"
        )
    return [(int(start), weight) for start, weight in weights]


def bicubic_lr(hr: Tensor, scale: float | tuple[float, float]) -> Tensor:
    """The bicubic LR image of ``hr`` (B, 3, H, W) at the true scale, unrounded."""
    vertical, horizontal = scale_pair(scale)
    size = lr_size((hr.shape[-2], hr.shape[-1]), (vertical, horizontal))
    with torch.no_grad():
        return imresize(hr, size, (1 / vertical, 1 / horizontal))
