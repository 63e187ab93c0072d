"""Safe reading of checkpoints that contain objects of classes that are not installed.

Trainers such as PyTorch Lightning pickle their callbacks and configurations together with the
weights, and ``torch.load(weights_only=True)`` rejects the whole file because of them. Here, every
name in a pickle resolves either to an entry of a short list or to a placeholder that ignores all
operations; nothing is imported or looked up, so a malicious pickle has nothing to call.
"""

from __future__ import annotations

import io
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_STORAGES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
}
# Modules of the standard library that occur in configurations. Other names of the standard library
# do not belong in a checkpoint; they would only serve to run code.
_USUAL_MODULES = {"argparse", "collections", "datetime", "enum", "pathlib", "typing"}
_USUAL_BUILTINS = {
    "bool", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "object", "set",
    "slice", "str", "tuple",
}  # fmt: skip


def read_foreign_checkpoint(path: str) -> Any:
    """Reads a file written by ``torch.save`` in PyTorch's zip format.

    Args:
        path: the file.

    Returns:
        The contents: containers, numbers, strings, and tensors on the CPU; any other object is
        replaced by an empty placeholder.

    Raises:
        pickle.UnpicklingError: the file is damaged, or refers to names that no checkpoint needs.
        OSError: the file cannot be read.
        MemoryError: there is not enough memory.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _Unpickler(archive).load()
    except (pickle.UnpicklingError, OSError, MemoryError):
        raise
    except Exception as error:  # a handcrafted pickle can raise anything
        raise pickle.UnpicklingError(f"{type(error).__name__}: {error}") from error


class _Unpickler(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile) -> None:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise pickle.UnpicklingError("not in PyTorch's zip format")
        super().__init__(io.BytesIO(archive.read(pickles[0])))
        self._archive = archive
        self._root = pickles[0].removesuffix("data.pkl")
        if f"{self._root}byteorder" in archive.namelist():
            order = archive.read(f"{self._root}byteorder").decode()
            if order != sys.byteorder:
                raise pickle.UnpicklingError(f"written on a machine with {order} byte order")

    def find_class(self, module: str, name: str) -> Any:
        """Resolves a name in the pickle without importing anything."""
        full_name = f"{module}.{name}"
        if full_name == "collections.OrderedDict":
            return OrderedDict
        if full_name in ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"):
            return _RebuildTensor()
        if full_name == "torch._utils._rebuild_parameter":
            return _RebuildParameter()
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        root = module.partition(".")[0]
        if root in ("__builtin__", "builtins"):  # the former in pickles of protocol 2
            refused = name not in _USUAL_BUILTINS
        elif full_name == "_codecs.encode":  # bytes in pickles of protocol 2
            refused = False
        else:
            refused = root in sys.stdlib_module_names and root not in _USUAL_MODULES
        if refused:
            raise pickle.UnpicklingError(f"it refers to {full_name}")
        # A new class each time, so that a pickle cannot modify one that is used elsewhere.
        return type("Placeholder", (_Placeholder,), {})

    def persistent_load(self, pid: Any) -> Tensor:
        """The storage that ``pid`` refers to, as a one-dimensional tensor."""
        kind, dtype, key, _, size = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(size, int):
            raise pickle.UnpicklingError(f"it refers to {kind!r}, which is unsupported")
        content = bytearray(self._archive.read(f"{self._root}data/{key}"))
        if not content and size == 0:
            return torch.empty(0, dtype=dtype)
        return torch.frombuffer(content, dtype=dtype, count=size)


class _RebuildTensor:
    """``torch._utils._rebuild_tensor_v2``, without attributes that a pickle could set."""

    __slots__ = ()

    def __call__(
        self, storage: Tensor, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any
    ) -> Tensor:
        if not isinstance(storage, Tensor):
            raise pickle.UnpicklingError("it has a tensor without a storage")
        return torch.as_strided(storage, size, stride, offset)  # raises if out of bounds


class _RebuildParameter:
    """``torch._utils._rebuild_parameter``, but returns a plain tensor."""

    __slots__ = ()

    def __call__(self, data: Tensor, *_: Any) -> Tensor:
        return data


class _Placeholder:
    """Replaces an object of an unknown class, and discards all data that unpickling passes to it.

    It accepts every way of unpickling: a call or ``__new__``, then ``__setstate__``, ``append``,
    ``extend``, ``add`` or item assignment.
    """

    def __new__(cls, *_: Any, **__: Any) -> _Placeholder:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass

    def __setitem__(self, _: Any, __: Any) -> None:
        pass

    def append(self, _: Any) -> None:
        pass

    def extend(self, _: Any) -> None:
        pass

    def add(self, _: Any) -> None:
        pass
