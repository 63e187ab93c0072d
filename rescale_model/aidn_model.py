"""Training and validation of AIDN and AIDN+ (arXiv 2201.12576)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rescale_arch import imresize, lr_size, scale_pair
from rescale_data.image_file import LRInfo
from rescale_model.evaluation import Judged, border
from rescale_model.rescaling_model import RescalingModel
from rescale_model.scale_schedule import ScaleSchedule


class AIDNModel(RescalingModel):
    """Loss: ``pixel_opt(restored, hr) + guide_opt(lr, bicubic(hr, 1 / scale))``.

    Options beyond :class:`~rescale_model.rescaling_model.RescalingModel`'s:
        ``train: scales`` -- keywords of :class:`~rescale_model.scale_schedule.ScaleSchedule`;
            without effect where ``network_g`` has a ``fixed_scale``;
        ``train: pixel_opt`` -- loss of the restored image, the paper's is L1Loss;
        ``train: guide_opt`` -- loss of the LR image before rounding, the paper's is MSELoss;
        ``val: scales`` -- factors, or pairs [vertical, horizontal], to validate at.
    """

    def build_losses(self) -> None:
        """Builds both losses and the schedule of scales."""
        self.cri_pix = self.build_loss("pixel_opt")
        self.cri_guide = self.build_loss("guide_opt")
        scales = self.opt["train"].get("scales") or {}
        self.schedule = ScaleSchedule(**scales, seed=self.opt["manual_seed"])

    def losses(self, current_iter: int) -> dict[str, Tensor]:
        """The losses at the iteration's scale, one for the whole batch."""
        fixed = self.get_bare_model(self.net_g).fixed_scale
        self.scale = float(fixed) if fixed else self.schedule(current_iter)
        with self.autocast("train"):
            lr, restored = self.net_g(self.gt, self.scale)
        guide = bicubic_lr(self.gt, self.scale)
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
        size = (gt.shape[-2], gt.shape[-1])
        lr = self.evaluation.stored(name, net.downscale(gt, case))  # type: ignore[operator]
        restored = net.upscale(lr, case, size=size)  # type: ignore[operator]
        guide = bicubic_lr(gt, case)
        rounded = (guide.clamp(0, 1) * 255).round() / 255
        bicubic = imresize(rounded, size, case)
        edge = border(case)
        return {
            "lr": Judged(lr, guide, edge, LRInfo("aidn", case, size, self.fingerprint)),
            "hr": Judged(restored, gt, edge),
            "bicubic": Judged(bicubic, gt, edge),
        }


def bicubic_lr(hr: Tensor, scale: float | tuple[float, float]) -> Tensor:
    """The bicubic LR image of ``hr`` (B, 3, H, W) at the true scale, unrounded."""
    vertical, horizontal = scale_pair(scale)
    size = lr_size((hr.shape[-2], hr.shape[-1]), (vertical, horizontal))
    with torch.no_grad():
        return imresize(hr, size, (1 / vertical, 1 / horizontal))
