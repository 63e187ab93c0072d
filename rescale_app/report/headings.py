"""Readable names of metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

_KINDS = {
    "calculate_psnr": "PSNR",
    "calculate_ssim": "SSIM",
    "calculate_lpips": "LPIPS",
    "calculate_dists": "DISTS",
    "calculate_niqe": "NIQE",
}
_IMAGES = {
    "hr": "",
    "lr": " of the LR image",
    "bicubic": " of bicubic",
    "half": " of the image at 1/2",
    "quarter": " of the image at 1/4",
}


def headings(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Name -> heading of each metric, such as ``PSNR Y of bicubic, dB``; all differ.

    Args:
        metrics: name -> options.
    """
    texts = {name: _heading(name, options) for name, options in metrics.items()}
    numbers = Counter(texts.values())
    return {
        name: text if numbers[text] == 1 else f"{text} ({name})" for name, text in texts.items()
    }


def _heading(name: str, options: Mapping[str, Any]) -> str:
    kind, image = _KINDS.get(options["type"]), _IMAGES.get(options.get("image", "hr"))
    if kind is None or image is None:
        return name
    if kind in ("PSNR", "SSIM"):
        kind += " Y" if options.get("test_y_channel") else " RGB"
    unrounded = ", unrounded" if options.get("protocol") == "float" else ""
    return f"{kind}{image}{unrounded}{', dB' if kind.startswith('PSNR') else ''}"
