"""Process of a single measurement: calls a function of this package and prints the result."""

from __future__ import annotations

import importlib
import json
import sys

import torch


def main(function: str, arguments: str) -> None:
    """Calls ``module.function`` with JSON keywords; prints the result as a line of JSON."""
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
