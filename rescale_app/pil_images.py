"""Conversion between PIL images and the arrays and side data of `Rescaler`."""

from __future__ import annotations

import warnings
from typing import Any

from rescale_compat.errors import RescaleError

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from rescale_app.arrays import RescaleWarning
from rescale_app.side_data import restored
from rescale_data.exif import exif_is_broken
from rescale_data.lr_info import LRInfo
from rescale_data.records import record_text_of
from rescale_data.side_data import OTHER_COLORS, SideData, find_exif, side_data_of


def from_pil(image: Image.Image) -> tuple[NDArray[Any], SideData]:
    """Splits a PIL image into upright RGB pixels and side data.

    Args:
        image: image of any mode except F and 32-bit I.

    Returns:
        Pixels, (H, W, 3) uint8, or uint16 for the modes I and I;16; and side data.

    Warns:
        RescaleWarning: CMYK or LAB colors are converted, or a profile or broken EXIF is dropped.

    Raises:
        ValueError: the pixels are floating-point, or exceed 16 bits.
    """
    exif = find_exif(image.info)
    if exif is None and (tags := image.getexif()):  # as of TIFF
        exif = tags.tobytes()
    side_data = side_data_of(image, exif)
    profile_is_lost = bool(image.info.get("icc_profile")) and side_data.profile is None
    if image.mode in OTHER_COLORS:
        _warn(f"{image.mode} colors are converted to RGB, without a color profile")
    elif profile_is_lost:
        _warn("the color profile is not for RGB and is dropped")
    if exif and side_data.exif is None and exif_is_broken(exif):
        _warn("EXIF is broken and is dropped")
    upright = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise RescaleError("PIL image of mode F: floating-point pixels are unsupported")
    if not image.mode.startswith("I"):
        return np.array(upright.convert("RGB")), side_data
    samples = np.array(upright)
    if samples.min() < 0 or samples.max() > 65535:
        raise RescaleError(f"PIL image of mode {image.mode}: samples exceed 16 bits")
    return np.repeat(samples[..., None].astype(np.uint16), 3, axis=2), side_data


def to_pil(pixels: NDArray[Any], lr_side_data: SideData, scale: tuple[float, float]) -> Image.Image:
    """Returns a restored image with the side data of its LR image.

    Pillow saves the profile with it, and EXIF if asked: ``image.save(path,
    exif=image.getexif())``.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        lr_side_data: side data of the LR image; alpha is (h, w).
        scale: HR over LR side, (vertical, horizontal).

    Returns:
        A PIL image, RGB or RGBA.

    Raises:
        ValueError: the pixels have 16 bits.
    """
    if pixels.dtype != np.uint8:
        raise RescaleError("depth 16 is for arrays: PIL has no 16-bit RGB")
    side_data = restored(lr_side_data, (pixels.shape[0], pixels.shape[1]), scale)
    if side_data.alpha is None:
        image = Image.fromarray(pixels)
    else:
        image = Image.fromarray(np.dstack([pixels, side_data.alpha]))
    if side_data.profile is not None:
        image.info["icc_profile"] = side_data.profile
    if side_data.exif is not None:
        image.info["exif"] = b"Exif\0\0" + side_data.exif
    return image


def info_of_pil(image: Image.Image) -> LRInfo | None:
    """Finds the record of an LR file that Pillow has opened.

    Raises:
        ValueError: the record is malformed.
    """
    text = record_text_of(image)
    try:
        return None if text is None else LRInfo.from_json(text)
    except ValueError as error:
        raise RescaleError(f"malformed record: {error}") from error


def _warn(message: str) -> None:
    warnings.warn(message, RescaleWarning, stacklevel=4)
