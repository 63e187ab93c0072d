"""Number of processor cores available to this process."""

from __future__ import annotations

import os
import sys


def usable_cores() -> int:
    """The number of cores that this process may run on; the machine may have more."""
    if sys.version_info >= (3, 13):
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
