"""HR images for training and validation, from a folder, a list or an LMDB.

LR images are not stored: the networks compute their own, and references are computed on the device.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Protocol, Self, TypedDict

from rescale_compat.errors import RescaleError

import cv2
import lmdb
import numpy as np
import torch
from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator
from torch import Tensor
from torch.utils.data import Dataset

from rescale_data.image_file import (
    IMAGE_SUFFIXES,
    Image,
    ImageFileError,
    decode_image,
    image_names,
    to_float,
)
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
    if info.context is not None and _kind(root) == "lmdb" and os.path.isdir(root):
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
"""A folder of images or, if its name ends in ``.lmdb``, of an LMDB."""


class _Backend(Options):
    type: Literal["disk", "lmdb"]


class HRImageOptions(LoaderOptions):
    """Options of :class:`HRImageDataset`."""

    dataroot_gt: SourceFolder = Field(
        description="folder of images, or one whose name ends in `.lmdb`, with `data.mdb` and "
        "`meta_info.txt` in it"
    )
    io_backend: _Backend | None = Field(
        None,
        description="`{type: disk}` or `{type: lmdb}`; may be left out, as the name of "
        "`dataroot_gt` says which",
    )
    meta_info_file: ExistingPath | None = Field(
        None,
        description="list of the images to take, relative to `dataroot_gt`, one on a line; what "
        "follows the file name is ignored. By default all are taken",
    )
    recursive: bool = Field(False, description="true: images in subfolders are taken, too")
    gt_size: Annotated[int | None, needed(lambda info: info.data.get("phase") == "train")] = Field(
        None, ge=1, description="side of the crops in pixels; needed for training"
    )
    use_hflip: bool = Field(
        False, description="true: half of the crops are flipped from left to right"
    )
    use_rot: bool = Field(
        False, description="true: half of the crops are flipped upside down, half are transposed"
    )
    mod_crop: int = Field(
        1,
        ge=1,
        description="images are cropped to sides that are multiples of it (`val`, `test`)",
    )
    half_size_probability: float = Field(
        0,
        ge=0,
        le=1,
        description="probability that a crop is taken from the image at half its size (bilinear, "
        "as VQIR's second stage is trained)",
    )
    size_multiple: int = Field(
        1,
        ge=1,
        description="before a crop is taken, the image, at full size or at half, is resized "
        "(bilinear) to sides that are multiples of this, the next smaller ones",
    )
    dtype: Literal["float32", "uint8"] = Field(
        "float32",
        description="`float32`, for any model. `uint8` leaves 8-bit samples as they are, 0 to 255, "
        "for models that convert them on their device, as this project's do: a quarter of the "
        "bytes to copy to a GPU, and the same values there. Images of 16 bits become float32 all "
        "the same; training refuses them, since a batch has one type",
    )

    @model_validator(mode="after")
    def _backend_is_that_of_the_name(self) -> Self:
        kind = _kind(self.dataroot_gt)
        if self.io_backend is not None and self.io_backend.type != kind:
            raise RescaleError(
                f"io_backend has type {self.io_backend.type}, but the name of dataroot_gt "
                f"{self.dataroot_gt} says {kind} (the name of an LMDB ends in .lmdb)"
            )
        return self


class HRImageDataset(Dataset[Sample]):
    """HR images, for BasicSR's loaders and options.

    For training, it returns random crops of `gt_size`, optionally flipped and rotated by multiples
    of 90 degrees; smaller images are padded by reflection. For validation and tests, it returns
    whole images, cropped to multiples of `mod_crop`; the top left corner is kept.

    Random numbers are drawn from PyTorch's default generator, which is seeded in every worker and
    every epoch from that of the main process: crops differ between epochs and workers, and are
    reproducible by the seed. (The generators of `random` and NumPy would not do: BasicSR seeds them
    with the same numbers in every epoch.) An index may also be a pair (index, seed); the crop then
    depends on the low 32 bits of the seed alone.

    Options: those of `HRImageOptions`.

    Shape:
        `gt` (3, H, W), float32 in [0, 1], RGB, or what `dtype` says; `gt_path` is the path of the
        file, or of the LMDB with the key behind it.

    Raises:
        ValueError: If an option is unknown, missing or invalid; for validation and tests, also if
            the names of two images differ in their suffix only.
        OSError: If images are missing; while reading, if one is broken. The message names it.
    """

    OPTIONS: ClassVar[type[HRImageOptions]] = HRImageOptions

    def __init__(self, opt: Mapping[str, Any]) -> None:
        """Lists the images without reading them.

        Args:
            opt: options of a data set in an option file, with `phase`.
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
        # Cropping comes before the conversion, which costs more than all the rest but decoding.
        return {"gt": torch.from_numpy(self._samples(image, path)), "gt_path": path}

    def _samples(self, image: Image, path: str) -> Image:
        """The image as (3, H, W), converted as `dtype` says."""
        chw = np.ascontiguousarray(image.transpose(2, 0, 1))
        if self.dtype == "float32":
            return to_float(chw)
        if chw.dtype == np.uint8:
            return chw
        if self.crops:
            raise ImageFileError(
                f"{path}: has 16 bits; with 16-bit images, training needs dtype: float32"
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

    def _open_source(self, options: HRImageOptions) -> _Source:
        root = _stripped(options.dataroot_gt)
        if not os.path.isdir(root):
            raise FileNotFoundError(f"{self.name}: dataroot_gt {root} is not a folder")
        if _kind(root) == "lmdb":
            return _Lmdb(root, options.meta_info_file)
        folder = _Folder(root, options.meta_info_file, options.recursive)
        if not self.crops:
            self._check_distinct(folder.names)
        return folder

    def _check_distinct(self, names: NameTable) -> None:
        """Results have the names of their images, except for the suffix."""
        seen: dict[str, str] = {}
        for name in names:
            other = seen.setdefault(os.path.splitext(name)[0], name)
            if other != name:
                raise RescaleError(
                    f"{self.name}: {name} has the same name as {other} except for the suffix, so "
                    "their results would collide: rename one"
                )


def _stripped(root: str) -> str:
    return root.rstrip("/") or "/"


def _kind(root: str) -> str:
    return "lmdb" if _stripped(root).endswith(".lmdb") else "disk"


class _Source(Protocol):
    """Source of the bytes of image files."""

    root: str
    names: NameTable

    def read(self, name: str) -> bytes: ...


class _Folder:
    def __init__(self, root: str, chosen: str | None, recursive: bool) -> None:
        self.root = root
        if chosen is None:
            self.names = NameTable(image_names(root, recursive))
            if not self.names:
                raise FileNotFoundError(
                    f"{root}: no images in this folder ({', '.join(IMAGE_SUFFIXES)})"
                )
        else:
            self.names = NameTable(_listed_names(chosen))
            missing = (n for n in self.names if not os.path.isfile(os.path.join(root, n)))
            _check_none_missing(missing, chosen, root)

    def read(self, name: str) -> bytes:
        with open(os.path.join(self.root, name), "rb") as file:
            return file.read()


class _Lmdb:
    """An LMDB in BasicSR's format: the key of an image is its name up to the first dot."""

    # A process can open an LMDB only once, but several datasets may use it; and an environment must
    # not be used after a fork. Hence one environment per file, with the process that opened it.
    _environments: ClassVar[dict[tuple[int, int], tuple[int, lmdb.Environment]]] = {}

    def __init__(self, root: str, chosen: str | None) -> None:
        self.root = root
        for name in ("data.mdb", "meta_info.txt"):
            if not os.path.isfile(os.path.join(root, name)):
                raise FileNotFoundError(f"{root}: there is no {name} in this LMDB")
        with open(os.path.join(root, "meta_info.txt"), encoding="utf-8") as lines:
            self.names = NameTable(line.split(".")[0] for line in lines if line.strip())
        if not self.names:
            raise FileNotFoundError(f"{root}: no images in this LMDB")
        stored = self._environment().stat()["entries"]
        if stored < len(self.names):
            raise FileNotFoundError(
                f"{root}: data.mdb holds {stored} images, meta_info.txt lists {len(self.names)}"
            )
        if chosen is not None:
            self.names = NameTable(name.split(".")[0] for name in _listed_names(chosen))
            with self._environment().begin() as transaction, transaction.cursor() as cursor:
                missing = (name for name in self.names if not cursor.set_key(name.encode()))
                _check_none_missing(missing, chosen, root)

    def read(self, name: str) -> bytes:
        with self._environment().begin() as transaction:
            content = transaction.get(name.encode())
        if content is None:
            raise ImageFileError(f"{self.root}: there is no image under the key {name!r}")
        return bytes(content)

    def _environment(self) -> lmdb.Environment:
        status = os.stat(os.path.join(self.root, "data.mdb"))
        file = status.st_dev, status.st_ino
        if file in self._environments:
            process, environment = self._environments[file]
            if process == os.getpid():
                return environment
            environment.close()
        try:
            environment = lmdb.open(self.root, readonly=True, lock=False, readahead=False)
        except lmdb.Error as error:
            raise ImageFileError(f"{self.root}: LMDB cannot be opened ({error})") from error
        self._environments[file] = os.getpid(), environment
        return environment


_FILE_NAME = re.compile(
    rf"(.+?(?:{'|'.join(map(re.escape, IMAGE_SUFFIXES))}))(?:\s|$)", re.IGNORECASE
)


def _listed_names(path: str) -> Iterator[str]:
    """Reads the file names of a meta-info list; each may be followed by a shape and more."""
    empty = True
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(map(str.strip, lines), 1):
            # A name may contain spaces, so it ends at the suffix.
            match = _FILE_NAME.match(line)
            if match:
                empty = False
                yield match[1]
            elif line:
                raise RescaleError(
                    f"{path}: line {number} does not start with an image name: {line!r}"
                )
    if empty:
        raise RescaleError(f"{path}: lists no images")


def _check_none_missing(missing: Iterator[str], chosen: str, root: str) -> None:
    first = next(missing, None)
    if first is not None:
        more = sum(1 for _ in missing)
        raise FileNotFoundError(
            f"{chosen}: lists images that are not in {root}: {first}"
            + (f" and {more} more" if more else "")
        )
