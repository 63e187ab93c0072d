"""A compact sequence of names, for datasets with millions of files."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np


class NameTable(Sequence[str]):
    """A sequence of strings, stored in two arrays.

    A list of strings takes several times the memory. Moreover, Python stores the reference count of
    a string in the string itself, so that a forked data loading process soon copies the whole list;
    the arrays stay shared between processes.

    Args:
        names: consumed one by one.
    """

    def __init__(self, names: Iterable[str]) -> None:
        content = bytearray()
        ends = array("q", [0])
        for name in names:
            content += name.encode("utf-8", "surrogateescape")  # like file names
            ends.append(len(content))
        self._content = np.frombuffer(bytes(content), np.uint8)
        self._ends = np.frombuffer(ends, np.int64)

    def __len__(self) -> int:
        """The number of names."""
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> NameTable: ...
    def __getitem__(self, index: int | slice) -> str | NameTable:
        """A name, or for a slice a table of names."""
        if isinstance(index, slice):
            return NameTable(self[number] for number in range(*index.indices(len(self))))
        number = range(len(self))[index]  # allows negative numbers; raises IndexError
        start, end = self._ends[number : number + 2].tolist()
        return self._content[start:end].tobytes().decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        """Yields the names in order."""
        return (self[number] for number in range(len(self)))
