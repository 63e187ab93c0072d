"""The process of one measurement: calls a function of this package and prints what it returns."""

from __future__ import annotations

import importlib
import json
import sys

import torch


def main(function: str, arguments: str) -> None:
    """Runs ``module.function`` with JSON keywords; the last line printed is JSON."""
    module, name = function.split(".")
    keywords = json.loads(arguments)
    threads = keywords.pop("threads", None)
    if threads:
        torch.set_num_threads(threads)
    try:
        result = getattr(importlib.import_module(f"benchmarks.{module}"), name)(**keywords)
    except torch.OutOfMemoryError:
        result = {"error": "out of memory"}
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
