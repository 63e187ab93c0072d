"""Encoded images with side data: transparency, color profiles, EXIF as cameras write it."""

from __future__ import annotations

import struct
from collections.abc import Callable

import cv2
import numpy as np
from encoded_images import encoded
from PIL import Image, ImageCms
from skimage import data

RGB = np.ascontiguousarray(data.astronaut()[20:84, 60:140])
HEIGHT, WIDTH = RGB.shape[:2]
ALPHA = np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))
MAKER_NOTE = bytes(range(200))


def display_p3() -> bytes:
    """An ICC profile with the primaries of Display P3."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    primaries = {
        b"rXYZ": (0.51512, 0.24120, -0.00105),
        b"gXYZ": (0.29198, 0.69225, 0.04189),
        b"bXYZ": (0.15710, 0.06657, 0.78407),
    }
    (count,) = struct.unpack_from(">I", profile, 128)
    for place in range(132, 132 + 12 * count, 12):
        name, offset = struct.unpack_from(">4sI", profile, place)
        if name in primaries:
            numbers = [round(value * 65536) for value in primaries[name]]
            struct.pack_into(">3i", profile, offset + 8, *numbers)
    return bytes(profile)


P3 = display_p3()


def camera_exif() -> bytes:
    """EXIF as of a camera: turned, with a thumbnail, a place, a maker note and UTF-8."""
    exif = Image.Exif()
    exif[274] = 6
    exif[271] = "Maker"
    exif[315] = "Jürgen".encode()
    details = exif.get_ifd(34665)
    details.update({33434: 0.01, 37380: -0.5, 37500: MAKER_NOTE, 40962: WIDTH, 40963: HEIGHT})
    exif.get_ifd(34853).update({1: "N", 2: (48.0, 51.0, 29.6)})
    content = exif.tobytes()
    # Pillow writes no thumbnail: a second directory that refers to a JPEG behind it.
    body = bytearray(content[6:])
    thumbnail = encoded(Image.fromarray(RGB[:16, :16]), "JPEG")
    (start,) = struct.unpack_from(">L" if body[:2] == b"MM" else "<L", body, 4)
    order = ">" if body[:2] == b"MM" else "<"
    (entries,) = struct.unpack_from(f"{order}H", body, start)
    struct.pack_into(f"{order}L", body, start + 2 + 12 * entries, len(body))
    behind = len(body) + 2 + 3 * 12 + 4
    body += struct.pack(f"{order}H", 3)
    for tag, kind, value in ((259, 3, 6), (513, 4, behind), (514, 4, len(thumbnail))):
        short = (
            struct.pack(f"{order}HH", value, 0) if kind == 3 else struct.pack(f"{order}L", value)
        )
        body += struct.pack(f"{order}HHL", tag, kind, 1) + short
    body += bytes(4) + thumbnail
    return b"Exif\0\0" + bytes(body)


def rgba() -> Image.Image:
    return Image.fromarray(np.dstack([RGB, ALPHA]))


def palette() -> Image.Image:
    image = Image.fromarray(RGB).quantize(32)
    image.info["transparency"] = bytes(range(0, 256, 8))
    return image


SOURCES: dict[str, Callable[[], bytes]] = {
    "p3.jpg": lambda: encoded(Image.fromarray(RGB), "JPEG", icc_profile=P3, quality=95),
    "rgba.png": lambda: encoded(rgba(), "PNG"),
    "palette.png": lambda: encoded(palette(), "PNG"),
    "deep.png": lambda: cv2.imencode(".png", RGB[..., ::-1].astype(np.uint16) * 257)[1].tobytes(),
    "deep_gray.png": lambda: cv2.imencode(".png", RGB[..., 0].astype(np.uint16) * 257)[1].tobytes(),
    "turned.jpg": lambda: encoded(Image.fromarray(RGB), "JPEG", exif=camera_exif(), quality=95),
    "cmyk.jpg": lambda: encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG", quality=95),
}
TRANSPARENT = ("rgba.png", "palette.png")
