"""Runs measurements, each in a process of its own so that its peak memory is its own.

This side stays free of PyTorch: a process that is started inherits the peak of the one that starts
it.
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
        label: what tables call it.
        function: ``module.function`` of this package; runs in a process of its own and returns
            numbers by name.
        arguments: its keywords; what JSON can hold.
    """

    label: str
    function: str
    arguments: Mapping[str, Any]


def measure(cases: Sequence[Case], repeats: int) -> list[Result]:
    """Measures ``cases`` in turn, ``repeats`` times over, so that a busy moment hits them alike.

    Returns:
        For each case the run in which it took the fewest ``seconds``; in place of numbers
        ``error`` where a case ran out of memory, ``failure`` where it failed otherwise.
    """
    results: list[list[Result]] = [[] for _ in cases]
    for number in range(repeats):
        for case, runs in zip(cases, results, strict=True):
            if number == 0 or "seconds" in runs[0]:
                try:
                    runs.append(run(case))
                except RuntimeError as error:  # the other cases may tell something all the same
                    print(error, file=sys.stderr, flush=True)
                    runs.append({"failure": str(error).strip().splitlines()[-1]})
                shown = ", ".join(f"{key} {_short(value)}" for key, value in runs[-1].items())
                print(f"  {case.label}: {shown}", file=sys.stderr, flush=True)
    return [min(runs, key=lambda run: float(run.get("seconds", 0))) for runs in results]


def run(case: Case) -> Result:
    """Runs one case in a process of its own.

    Raises:
        RuntimeError: it failed; the message has the end of what it said.
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
