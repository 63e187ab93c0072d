"""Runs each measurement in a separate process, to measure its peak memory.

This module does not import PyTorch, since a child process inherits the peak memory of its parent.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Result = dict[str, Any]
_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@dataclass(frozen=True)
class Case:
    """A measurement.

    Attributes:
        label: its name in tables.
        function: ``module.function`` of this package; runs in a separate process and returns a
            dictionary of numbers.
        arguments: its keywords, which JSON must be able to represent.
    """

    label: str
    function: str
    arguments: Mapping[str, Any]


def measure(cases: Sequence[Case], repeats: int) -> list[Result]:
    """Measures all ``cases`` in turn, ``repeats`` times, so that other load affects all alike.

    Returns:
        For each case, the run with the lowest ``seconds``. Instead of numbers, it has ``error`` if
        the case ran out of memory, or ``failure`` if it failed otherwise.
    """
    results: list[list[Result]] = [[] for _ in cases]
    for number in range(repeats):
        for case, runs in zip(cases, results, strict=True):
            if number == 0 or "seconds" in runs[0]:
                try:
                    runs.append(run(case))
                except RuntimeError as error:  # continue with the other cases
                    print(error, file=sys.stderr, flush=True)
                    runs.append({"failure": str(error).strip().splitlines()[-1]})
                shown = ", ".join(f"{key} {_short(value)}" for key, value in runs[-1].items())
                print(f"  {case.label}: {shown}", file=sys.stderr, flush=True)
    return [min(runs, key=lambda run: float(run.get("seconds", 0))) for runs in results]


def run(case: Case) -> Result:
    """Runs one case in a separate process.

    Raises:
        RuntimeError: it failed; the message contains the end of its output.
    """
    child = subprocess.run(
        [sys.executable, "-m", "benchmarks.child", case.function, json.dumps(dict(case.arguments))],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(case.arguments.get("threads", 1))},
    )
    lines = child.stdout.strip().splitlines()
    if child.returncode or not lines:
        raise RuntimeError(f"{case.label}: exit status {child.returncode}\n{child.stderr[-4000:]}")
    result: Result = json.loads(lines[-1])
    return result


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
