"""HR images for training and validation, from a folder, a list or an LMDB.

LR images are not stored: the networks compute their own, and references are computed on the device.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, TypedDict

from rescale_compat.errors import RescaleError

import cv2
import numpy as np
import torch
from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator
from torch import Tensor
from torch.utils.data import Dataset

from rescale_data.image_file import Image, ImageFileError, decode_image, to_float
from rescale_data.image_sources import FolderSource, ImageSource, LmdbSource, is_lmdb
from rescale_data.loader_options import LoaderOptions
from rescale_data.name_table import NameTable
from rescale_data.option_problems import validated
from rescale_data.option_schema import Called, ExistingPath, Options, needed

__all__ = ["HRImageDataset", "HRImageOptions", "Sample", "SourceFolder"]


class Sample(TypedDict):
    """One item of `HRImageDataset`."""

    gt: Tensor
    gt_path: str


def _holds_data(root: str, info: ValidationInfo) -> str:
    if info.context is not None and is_lmdb(root) and os.path.isdir(root):
        for path in (os.path.join(root, name) for name in ("data.mdb", "meta_info.txt")):
            if not os.path.exists(path):
                raise RescaleError(f"no such file or folder: {path}")
    return root


SourceFolder = Annotated[
    ExistingPath,
    BeforeValidator(lambda root: os.fspath(root) if isinstance(root, os.PathLike) else root),
    Field(min_length=1),
    AfterValidator(_holds_data),
    Called("the path of a folder"),
]
"""A folder of images, or an LMDB if its name ends in ``.lmdb``."""


class _Backend(Options):
    type: Literal["disk", "lmdb"]


class HRImageOptions(LoaderOptions):
    """Options of :class:`HRImageDataset`."""

    dataroot_gt: SourceFolder = Field(
        description="folder of images, or an LMDB: a folder whose name ends in `.lmdb`, with "
        "`data.mdb` and `meta_info.txt`"
    )
    io_backend: _Backend | None = Field(
        None,
        description="`{type: disk}` or `{type: lmdb}`; optional, since the name of `dataroot_gt` "
        "determines it",
    )
    meta_info_file: ExistingPath | None = Field(
        None,
        description="text file that lists the images to use, one per line, relative to "
        "`dataroot_gt`; anything after the file name is ignored. Default: all images",
    )
    recursive: bool = Field(False, description="true: include images in subfolders")
    gt_size: Annotated[int | None, needed(lambda info: info.data.get("phase") == "train")] = Field(
        None, ge=1, description="side of the crops in pixels; required for training"
    )
    use_hflip: bool = Field(False, description="true: flip half of the crops horizontally")
    use_rot: bool = Field(
        False, description="true: flip half of the crops vertically, and transpose half of them"
    )
    mod_crop: int = Field(
        1,
        ge=1,
        description="crop images to sides that are multiples of this (`val`, `test`)",
    )
    half_size_probability: float = Field(
        0,
        ge=0,
        le=1,
        description="probability of taking a crop from the image downscaled to half its size "
        "(bilinear; used to train VQIR's second stage)",
    )
    size_multiple: int = Field(
        1,
        ge=1,
        description="before cropping, resize the image (bilinear) to the next smaller multiples "
        "of this",
    )
    dtype: Literal["float32", "uint8"] = Field(
        "float32",
        description="`float32`: samples in [0, 1], for any model. `uint8`: 8-bit samples are not "
        "converted, which reduces the copy to the GPU to a quarter; for models that convert them "
        "on the device, like those of this project. 16-bit images are converted to float32 "
        "regardless, which training does not support, since a batch has one type",
    )

    @model_validator(mode="after")
    def _check_backend(self) -> Self:
        kind = "lmdb" if is_lmdb(self.dataroot_gt) else "disk"
        if self.io_backend is not None and self.io_backend.type != kind:
            raise RescaleError(
                f"io_backend has type {self.io_backend.type}, but dataroot_gt {self.dataroot_gt} "
                f"is of type {kind}, according to its name (that of an LMDB ends in .lmdb)"
            )
        return self


class HRImageDataset(Dataset[Sample]):
    """HR images, for BasicSR's loaders and options.

    For training, it returns random crops of `gt_size`, optionally flipped and rotated by multiples
    of 90 degrees; smaller images are padded by reflection. For validation and tests, it returns
    whole images, cropped to multiples of `mod_crop`; the top left corner is kept.

    Random numbers come from PyTorch's default generator, which the main process seeds in every
    worker and epoch: crops differ between epochs and workers, and the seed reproduces them. (The
    generators of `random` and NumPy are unsuitable: BasicSR seeds them with the same numbers in
    every epoch.) An index may also be a pair (index, seed); the crop then depends only on the low
    32 bits of the seed.

    Options: see `HRImageOptions`.

    Shape:
        `gt`: (3, H, W), RGB, float32 in [0, 1] unless `dtype` selects uint8. `gt_path`: path of
        the file, or of the LMDB followed by the key.

    Raises:
        ValueError: If an option is unknown, missing or invalid; for validation and tests, also if
            the names of two images differ only in their suffix.
        OSError: If images are missing; when reading, if an image is broken. The message names it.
    """

    OPTIONS: ClassVar[type[HRImageOptions]] = HRImageOptions

    def __init__(self, opt: Mapping[str, Any]) -> None:
        """Lists the images without reading them.

        Args:
            opt: options of a dataset in an option file, with `phase`.
        """
        super().__init__()
        self.opt = dict(opt)  # BasicSR's runners read the name from it
        self.name = str(opt.get("name") or type(self).__name__)
        options = validated(self.OPTIONS, opt, f"{self.name}: ")
        self.crops = options.phase == "train"
        self.gt_size = options.gt_size or 1
        self.mod_crop = options.mod_crop
        self.size_multiple = options.size_multiple
        self.half_size_probability = options.half_size_probability
        self.use_hflip = options.use_hflip
        self.use_rot = options.use_rot
        self.dtype = options.dtype
        self._source = self._open_source(options)

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self._source.names)

    def __getitem__(self, index: int | tuple[int, int]) -> Sample:
        """Reads an image; for a pair (index, seed) see the class."""
        generator = None
        if isinstance(index, tuple):
            index, seed = index
            generator = torch.Generator().manual_seed(seed)
        name = self._source.names[index]
        path = os.path.join(self._source.root, name)
        image = decode_image(self._source.read(name), path)
        image = self._random_crop(image, generator) if self.crops else self._mod_crop(image, path)
        # Cropped first: apart from decoding, the conversion is the most expensive part.
        return {"gt": torch.from_numpy(self._samples(image, path)), "gt_path": path}

    def _samples(self, image: Image, path: str) -> Image:
        """The image as (3, H, W), converted according to `dtype`."""
        chw = np.ascontiguousarray(image.transpose(2, 0, 1))
        if self.dtype == "float32":
            return to_float(chw)
        if chw.dtype == np.uint8:
            return chw
        if self.crops:
            raise ImageFileError(
                f"{path}: has 16 bits per channel, which requires dtype: float32 in training"
            )
        return to_float(chw)

    def _random_crop(self, image: Image, generator: torch.Generator | None) -> Image:
        # The number of draws is the same for all images and options, so that one sample does not
        # change the next.
        draws = torch.rand(6, generator=generator, dtype=torch.float64).tolist()
        image = self._resized(image, 2 if draws[5] < self.half_size_probability else 1)
        size = self.gt_size
        height, width = image.shape[:2]
        if height < size or width < size:
            missing = (0, max(0, size - height)), (0, max(0, size - width)), (0, 0)
            image = np.pad(image, missing, mode="reflect")
            height, width = image.shape[:2]
        top = int(draws[0] * (height - size + 1))
        left = int(draws[1] * (width - size + 1))
        image = image[top : top + size, left : left + size]
        if self.use_hflip and draws[2] < 0.5:
            image = image[:, ::-1]
        if self.use_rot and draws[3] < 0.5:
            image = image[::-1]
        if self.use_rot and draws[4] < 0.5:
            image = image.transpose(1, 0, 2)
        return image

    def _resized(self, image: Image, reduction: int) -> Image:
        height, width = (
            max(self.size_multiple, side // reduction // self.size_multiple * self.size_multiple)
            for side in image.shape[:2]
        )
        if (height, width) == image.shape[:2]:
            return image
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)

    def _mod_crop(self, image: Image, path: str) -> Image:
        height, width = (side - side % self.mod_crop for side in image.shape[:2])
        if not height or not width:
            raise ImageFileError(
                f"{path}: {image.shape[0]} x {image.shape[1]} pixels, smaller than "
                f"mod_crop {self.mod_crop}"
            )
        return image[:height, :width]

    def _open_source(self, options: HRImageOptions) -> ImageSource:
        root = options.dataroot_gt.rstrip("/") or "/"
        if not os.path.isdir(root):
            raise FileNotFoundError(f"{self.name}: dataroot_gt {root} is not a folder")
        if is_lmdb(root):
            return LmdbSource(root, options.meta_info_file)
        folder = FolderSource(root, options.meta_info_file, options.recursive)
        if not self.crops:
            self._check_distinct(folder.names)
        return folder

    def _check_distinct(self, names: NameTable) -> None:
        """Checks that results, named as their images without suffix, have distinct names."""
        seen: dict[str, str] = {}
        for name in names:
            other = seen.setdefault(os.path.splitext(name)[0], name)
            if other != name:
                raise RescaleError(
                    f"{self.name}: {name} has the same name as {other} except for the suffix, so "
                    "their results would collide: rename one"
                )
