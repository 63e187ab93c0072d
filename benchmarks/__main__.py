"""Measures speed and memory; prints tables, and writes them as JSON and as a plot."""

from __future__ import annotations

import argparse
import datetime
import json
import re
import tempfile
from pathlib import Path

from benchmarks.plot import plot
from benchmarks.running import Case, run
from benchmarks.table import Settings
from benchmarks.tables import TABLES
from rescale_data.cores import usable_cores

_RESULTS = Path(__file__).with_name("results")


def main(arguments: list[str] | None = None) -> int:
    """Runs the selected tables; returns 0 if none of the measurements failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only",
        metavar="NAMES",
        help=f"comma-separated tables: {', '.join(TABLES)} (default: all)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny networks, to check that everything runs"
    )
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), help="(default: the CPU, and a GPU if available)"
    )
    parser.add_argument("--threads", type=int, default=usable_cores(), help="(default: all cores)")
    parser.add_argument(
        "--repeats",
        type=int,
        default=2,
        help="number of rounds of measurements (default: %(default)s)",
    )
    parser.add_argument(
        "--out", type=Path, default=_RESULTS, help="folder for the JSON file (default: %(default)s)"
    )
    parser.add_argument("--name", help="name of the JSON file (default: machine and date)")
    given = parser.parse_args(arguments)
    names = given.only.split(",") if given.only else list(TABLES)
    for name in names:
        if name not in TABLES:
            parser.error(
                f"argument --only: {name!r} is unknown: expected one of {', '.join(TABLES)}"
            )

    machine = run(Case("machine", "machine.describe", {}))
    devices = ["cpu", "cuda"] if machine["gpu"] else ["cpu"]
    if given.device and given.device not in devices:
        parser.error("argument --device: PyTorch finds no GPU")
    print(", ".join(f"{key} {value}" for key, value in machine.items()), flush=True)
    tables = []
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            quick=given.quick,
            threads=given.threads,
            repeats=1 if given.quick else given.repeats,
            devices=[given.device] if given.device else devices,
            folder=folder,
        )
        for name in names:
            for table in TABLES[name](settings):
                print(f"\n{table}", flush=True)
                tables.append(table)

    given.out.mkdir(parents=True, exist_ok=True)
    processor = machine["gpu"] or f"{machine['processor']} {given.threads} threads"
    label = given.name or f"{processor} {datetime.date.today()}"
    path = given.out / f"{re.sub(r'[^A-Za-z0-9]+', '-', label).strip('-').lower()}.json"
    content = {
        "machine": machine,
        "date": str(datetime.date.today()),
        "threads": given.threads,
        "quick": given.quick,
        "tables": [table.as_json() for table in tables],
    }
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
    print(f"\nWritten: {path}")
    if plot(tables, path.with_suffix(".png")):
        print(f"Written: {path.with_suffix('.png')}")
    return int(any(table.has_failures for table in tables))


if __name__ == "__main__":
    raise SystemExit(main())
