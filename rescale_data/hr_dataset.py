"""HR pictures for training and validation, from a folder, a list or an LMDB.

LR pictures are not stored: the networks make theirs, and references are computed on the device.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Protocol, TypedDict

import cv2
import lmdb
import numpy as np
import torch
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
from rescale_data.name_table import NameTable

__all__ = ["HRImageDataset", "Sample"]


DTYPES = ("float32", "uint8")


class Sample(TypedDict):
    """One item of `HRImageDataset`."""

    gt: Tensor
    gt_path: str


class HRImageDataset(Dataset[Sample]):
    """HR pictures, for BasicSR's loaders and options.

    For training, random crops of `gt_size`, flipped and turned by quarters at will; a smaller
    picture is continued by reflection. For validation and tests whole pictures, cropped from the
    top left to multiples of `mod_crop`.

    Randomness comes from PyTorch's default generator, which every worker has seeded anew in every
    epoch from the main process's: so crops differ between epochs and workers, and are the same
    again after the same seed. (The generators of `random` and NumPy are not: BasicSR seeds those in
    a worker with the same numbers in every epoch.) An index may also be a pair (index, seed): then
    the seed alone decides, of which PyTorch uses the low 32 bits.

    Options:
        dataroot_gt: Folder, or a folder whose name ends in `.lmdb`, with `data.mdb` and
            `meta_info.txt` in it.
        io_backend: `{type: disk}` or `{type: lmdb}`; may be left out, as the name tells.
        meta_info_file: List of the pictures to take, relative to `dataroot_gt`, one on a line; what
            follows the file name is left unread. Default: all.
        recursive: Take the folders in a folder, too. Default: false.
        gt_size: Side of the crops in pixels. Needed for training.
        half_size_probability: Crops are taken from the picture at half its size with this
            probability (bilinear, as VQIR's second stage is trained). Default: 0.
        size_multiple: Before a crop is taken, the sides of the picture, at full size or at half,
            become multiples of this: the next smaller ones, again bilinear. Default: 1.
        use_hflip, use_rot: Flip from left to right; flip upside down and transpose. Default: false.
        mod_crop: Default: 1.
        dtype: `uint8` leaves 8-bit samples as they are, 0 to 255, for models that convert them on
            their device, as this project's do: a quarter of the bytes to copy to a GPU, and the
            same values there. Images of 16 bits become float32 all the same; training refuses
            them, since a batch has one type. Default: `float32`, for any model.

    Shape:
        `gt` (3, H, W), float32 in [0, 1], RGB, or what `dtype` says; `gt_path` is the path of the
        file, or of the LMDB with the key behind it.

    Raises:
        ValueError: For an unknown or missing option, or one with a value that does not fit; for
            validation and tests, also if two pictures differ in their suffix only.
        OSError: If pictures are missing. While reading, if one is broken, with its name.
    """

    OPTIONS: ClassVar[frozenset[str]] = frozenset(
        {
            "name", "type", "phase", "scale",
            "dataroot_gt", "io_backend", "meta_info_file", "recursive",
            "gt_size", "use_hflip", "use_rot", "mod_crop", "half_size_probability",
            "size_multiple", "dtype",
            # Not read here, but by BasicSR's loaders and runner.
            "batch_size_per_gpu", "dataset_enlarge_ratio", "num_prefetch_queue",
            "num_worker_per_gpu", "persistent_workers", "pin_memory", "prefetch_mode",
            "use_shuffle",
        }
    )  # fmt: skip

    def __init__(self, opt: Mapping[str, Any]) -> None:
        """Finds the pictures; none is read yet.

        Args:
            opt: BasicSR's options of a dataset. An option that is None counts as left out.
        """
        super().__init__()
        self.opt = dict(opt)  # BasicSR's runners read the name from it
        self.name = str(opt.get("name") or type(self).__name__)
        for problem in self.option_problems(opt):
            raise ValueError(f"{self.name}: {problem}")
        opt = {key: value for key, value in opt.items() if value is not None}
        self.crops = opt["phase"] == "train"
        self.gt_size: int = opt.get("gt_size", 1)
        self.mod_crop: int = opt.get("mod_crop", 1)
        self.size_multiple: int = opt.get("size_multiple", 1)
        self.half_size_probability: float = opt.get("half_size_probability", 0)
        self.use_hflip: bool = opt.get("use_hflip", False)
        self.use_rot: bool = opt.get("use_rot", False)
        self.dtype: str = opt.get("dtype", "float32")
        self._source = self._open_source(opt)

    @classmethod
    def option_problems(cls, opt: Mapping[str, Any]) -> Iterator[str]:
        """Yields what is wrong with options, a line each, before anything is opened."""
        for key in opt:
            if key not in cls.OPTIONS:
                near = difflib.get_close_matches(str(key), sorted(cls.OPTIONS), 1, 0)[0]
                yield f"unknown option {key!r}; the nearest is {near!r}"
        opt = {key: value for key, value in opt.items() if value is not None}
        phase = opt.get("phase")
        if phase not in ("train", "val", "test"):
            yield f"phase must be train, val or test, not {phase!r}"
        for key in ("gt_size", "mod_crop", "size_multiple"):
            value = opt.get(key, None if (key, phase) == ("gt_size", "train") else 1)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                yield f"{key} must be a whole number over 0, not {value!r}"
        value = opt.get("half_size_probability", 0)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
            yield f"half_size_probability must be a number from 0 to 1, not {value!r}"
        for key in ("use_hflip", "use_rot", "recursive"):
            if not isinstance(opt.get(key, False), bool):
                yield f"{key} must be true or false, not {opt[key]!r}"
        if opt.get("dtype", "float32") not in DTYPES:
            yield f"dtype must be {' or '.join(DTYPES)}, not {opt['dtype']!r}"
        root = opt.get("dataroot_gt")
        if not isinstance(root, str | os.PathLike) or not os.fspath(root):
            yield f"dataroot_gt must name a folder, not {root!r}"
            return
        kind, backend = _kind(root), opt.get("io_backend", {"type": _kind(root)})
        if not isinstance(backend, Mapping) or backend.get("type") not in ("disk", "lmdb"):
            yield f"io_backend must be {{type: disk}} or {{type: lmdb}}, not {backend!r}"
        elif backend["type"] != kind:
            yield (
                f"io_backend has type {backend['type']}, but the name of dataroot_gt {root} says "
                f"{kind} (the name of an LMDB ends in .lmdb)"
            )

    def __len__(self) -> int:
        """Returns the number of pictures."""
        return len(self._source.names)

    def __getitem__(self, index: int | tuple[int, int]) -> Sample:
        """Reads a picture; see the class for what a pair (index, seed) means."""
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
        # The same number of draws whatever the picture and the options are, so that one sample
        # does not change the next.
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

    def _open_source(self, opt: Mapping[str, Any]) -> _Source:
        root = _stripped(opt["dataroot_gt"])
        if not os.path.isdir(root):
            raise FileNotFoundError(f"{self.name}: dataroot_gt {root} is not a folder")
        chosen = opt.get("meta_info_file")
        if _kind(root) == "lmdb":
            return _Lmdb(root, chosen)
        folder = _Folder(root, chosen, opt.get("recursive", False))
        if not self.crops:
            self._check_distinct(folder.names)
        return folder

    def _check_distinct(self, names: NameTable) -> None:
        """Results are named as the pictures are, but for the suffix."""
        seen: dict[str, str] = {}
        for name in names:
            other = seen.setdefault(os.path.splitext(name)[0], name)
            if other != name:
                raise ValueError(
                    f"{self.name}: {name} has the same name as {other} but for the suffix, and so "
                    "would its results: rename one"
                )


def _stripped(root: str | os.PathLike[str]) -> str:
    return os.fspath(root).rstrip("/") or "/"


def _kind(root: str | os.PathLike[str]) -> str:
    return "lmdb" if _stripped(root).endswith(".lmdb") else "disk"


class _Source(Protocol):
    """Where the bytes of pictures come from."""

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
                    f"{root}: no pictures in this folder ({', '.join(IMAGE_SUFFIXES)})"
                )
        else:
            self.names = NameTable(_listed_names(chosen))
            missing = (n for n in self.names if not os.path.isfile(os.path.join(root, n)))
            _check_none_missing(missing, chosen, root)

    def read(self, name: str) -> bytes:
        with open(os.path.join(self.root, name), "rb") as file:
            return file.read()


class _Lmdb:
    """An LMDB as BasicSR has it: the key of a picture is its name up to the first dot."""

    # lmdb lets a process open a data base once only, though there may be several datasets on it;
    # and after a fork an inherited environment must not be used: thus by file, with the process.
    _environments: ClassVar[dict[tuple[int, int], tuple[int, lmdb.Environment]]] = {}

    def __init__(self, root: str, chosen: str | None) -> None:
        self.root = root
        for name in ("data.mdb", "meta_info.txt"):
            if not os.path.isfile(os.path.join(root, name)):
                raise FileNotFoundError(f"{root}: there is no {name} in this LMDB")
        with open(os.path.join(root, "meta_info.txt"), encoding="utf-8") as lines:
            self.names = NameTable(line.split(".")[0] for line in lines if line.strip())
        if not self.names:
            raise FileNotFoundError(f"{root}: no pictures in this LMDB")
        stored = self._environment().stat()["entries"]
        if stored < len(self.names):
            raise FileNotFoundError(
                f"{root}: data.mdb holds {stored} pictures, meta_info.txt lists {len(self.names)}"
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
            raise ImageFileError(f"{self.root}: there is no picture under the key {name!r}")
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
    """Reads the file names of a meta-info list; there may be a shape or more behind each."""
    empty = True
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(map(str.strip, lines), 1):
            # A name may hold spaces itself, so it is the suffix that ends it.
            match = _FILE_NAME.match(line)
            if match:
                empty = False
                yield match[1]
            elif line:
                raise ValueError(f"{path}: line {number} starts with no picture's name: {line!r}")
    if empty:
        raise ValueError(f"{path}: lists no pictures")


def _check_none_missing(missing: Iterator[str], chosen: str, root: str) -> None:
    first = next(missing, None)
    if first is not None:
        more = sum(1 for _ in missing)
        raise FileNotFoundError(
            f"{chosen}: lists pictures that are not in {root}: {first}"
            + (f" and {more} more" if more else "")
        )
