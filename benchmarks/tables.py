"""The tables: the cases that they compare, and their rows and notes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.running import Case, Result, measure, run
from benchmarks.table import Settings, Table

_WEIGHTS = ("aidn", "aidn-small")
_HALF = {"down_unshuffle": 2}
_SIZES: Mapping[str, dict[str, int]] = {
    "64 features, 16 blocks": {},
    "64 features, 16 blocks, half": _HALF,
    "32 features, 8 blocks": {"num_feat": 32, "num_block": 8},
    "32 features, 8 blocks, half": {"num_feat": 32, "num_block": 8} | _HALF,
    "32 features, 8 blocks, half, 64": {"num_feat": 32, "num_block": 8, "down_num_feat": 64}
    | _HALF,
}


def aidn(settings: Settings) -> Iterator[Table]:
    """Round trips at 2.5, plain and ours; the loss of quality by bfloat16."""
    network = _network(settings)
    sizes = {"cpu": [(1024, 1024)], "cuda": [(1080, 1920), (2160, 3840)]}
    pairs = [(device, size) for device in settings.devices for size in sizes[device]]
    if settings.quick:
        pairs = [(device, (96, 96)) for device in settings.devices]
    for device, size in pairs:
        modes: list[tuple[str, str, bool]] = [
            ("plain", "fp32", False),
            ("ours", "fp32", False),
            ("ours", "bf16", False),
        ]
        if device == "cuda":
            modes.append(("ours", "bf16", True))
        table = Table(f"AIDN, round trip of {size[1]} x {size[0]} at 2.5, {_on(device, settings)}")
        arguments = {"size": size, "network": network, "device": device}
        results = _compare(settings, table, "aidn.round_trip", modes, arguments)
        if device == "cuda":
            _add_lower_bound(settings, table, arguments, results)
        for weights in _WEIGHTS:
            loss = run(
                Case(
                    "bf16 on images",
                    "aidn.bf16_loss",
                    {"side": 64 if settings.quick else 512, "device": device}
                    | {"weights": weights, "threads": settings.threads},
                )
            )
            table.notes.append(
                f"weights {weights}, real images: {loss['fp32']:.2f} dB in fp32, "
                f"{loss['bf16']:.2f} dB in bf16, {loss['lost']:.3f} dB lost"
            )
        yield table
        yield _network_sizes(settings, device, size)
        yield _effort(settings, device, size)


def _network_sizes(settings: Settings, device: str, size: tuple[int, int]) -> Table:
    """Round trips of networks in the sizes of the included weights, and variants."""
    table = Table(
        f"AIDN in several sizes, round trip of {size[1]} x {size[0]} at 2.5, "
        f"{_on(device, settings)}",
        notes=["half: down_net at half resolution; 64: with 64 features in down_net"],
    )
    cases = [
        Case(
            f"{name}, {precision}",
            "aidn.round_trip",
            {"kind": "ours", "precision": precision, "size": size, "device": device}
            | {"network": network}
            | {"threads": settings.threads, "repeats": 10 if device == "cuda" else 1},
        )
        for precision in ("fp32", "bf16")
        for name, network in _SIZES.items()
    ]
    _add_rows(table, cases, measure(cases, settings.repeats_on(device)), {})
    work = run(Case("work", "aidn.multiply_accumulates", {"networks": list(_SIZES.values())}))
    for index, row in enumerate(table.rows):
        for direction, counts in work.items():
            row[f"{direction} MMAC/pixel"] = counts[index % len(_SIZES)]
    return table


def _effort(settings: Settings, device: str, size: tuple[int, int]) -> Table:
    """A step of the optimization of LR images, with networks of two sizes."""
    networks = {
        "64 features, 16 blocks": {},
        "32 features, 8 blocks": _SIZES["32 features, 8 blocks"],
    }
    if settings.quick:
        networks = {"16 features, 2 blocks": {"num_feat": 16, "num_block": 2}}
    table = Table(
        f"Effort: a step for {size[1]} x {size[0]} at 2.5, {_on(device, settings)}",
        notes=["windows of the LR image, as for large images"],
    )
    cases = [
        Case(
            f"{name}, {precision}",
            "aidn.effort",
            {"precision": precision, "size": size, "device": device}
            | {"network": network, "threads": settings.threads},
        )
        for precision in ("fp32", "bf16")
        for name, network in networks.items()
    ]
    results = measure(cases, settings.repeats_on(device))
    _add_rows(table, cases, results, {"rate": "seconds/megapixel"}, ratios=False)
    return table


def vqir(settings: Settings) -> Iterator[Table]:
    """Round trips at 16, plain and ours, for both stages."""
    network: dict[str, Any] = {"factor": 16}
    if settings.quick:
        network |= {"ch": 32, "num_res_blocks": 1, "z_channels": 32, "embed_dim": 64}
    side = 96 if settings.quick else 1024
    for device in settings.devices:
        for stage in (1, 2):
            table = Table(
                f"VQIR, stage {stage}, round trip of {side} x {side} at 16, {_on(device, settings)}"
            )
            modes = [("plain", "fp32", False), ("ours", "fp32", False), ("ours", "bf16", False)]
            arguments = {
                "size": (side, side),
                "network": {**network, "stage": stage},
                "device": device,
            }
            _compare(settings, table, "vqir.round_trip", modes, arguments)
            yield table


def training(settings: Settings) -> Iterator[Table]:
    """AIDN's training step, plain and ours, and with ``down_net`` at half resolution."""
    network = _network(settings)
    for device in settings.devices:
        batch, crop = (2, 32) if settings.quick else (4, 96) if device == "cpu" else (16, 192)
        table = Table(
            f"AIDN, training step of {batch} crops of {crop} at 2.5, {_on(device, settings)}"
        )
        cases = [
            Case(
                f"{kind} {precision}{', half resolution' if options else ''}",
                "training.step",
                {"kind": kind, "precision": precision, "batch": batch, "crop": crop}
                | {"network": {**network, **options}, "device": device}
                | {"threads": settings.threads, "repeats": 20 if device == "cuda" else 2},
            )
            for kind, options in (("plain", {}), ("ours", {}), ("ours", _HALF))
            for precision in ("fp32", "bf16")
        ]
        results = measure(cases, settings.repeats_on(device))
        _add_rows(table, cases, results, {"images": "images/s"})
        yield table


def data(settings: Settings) -> Iterator[Table]:
    """Reading crops from LMDB and folder, compared with the training step; few and many images."""
    count, side, crop = (16, 96, 48) if settings.quick else (200, 480, 192)
    folder = os.path.join(settings.folder, "sub")
    run(Case("make", "data.make", {"folder": folder, "count": count, "side": side}))
    run(Case("prepare", "data.prepare", {"folder": folder, "lmdb": f"{folder}.lmdb"}))
    table = Table(f"Loading crops of {crop} from {count} images of {side} x {side}")
    reads = 64 if settings.quick else 1024
    cases = [
        Case(
            f"{name}, {workers or 'no'} workers",
            "data.read",
            {"root": root, "gt_size": crop, "count": reads, "workers": workers, "threads": 1},
        )
        for workers in (0, settings.threads)
        for name, root in (("folder", folder), ("LMDB", f"{folder}.lmdb"))
    ]
    loaded = measure(cases, settings.repeats)
    if not all("seconds" in result for result in loaded):
        table.has_failures = True
        yield table
        return
    for case, result in zip(cases, loaded, strict=True):
        milliseconds = 1000 * result["seconds"] / reads
        table.rows.append(
            {"loader": case.label, "images/s": result["images"], "ms/image": milliseconds}
        )
    for device in settings.devices:
        table.notes.append(_loader_against_step(settings, device, crop, loaded[-1]["images"]))
    yield table
    yield _many_images(settings)


def tiles(settings: Settings) -> Iterator[Table]:
    """Tiles against whole images."""
    small = settings.quick
    numbers: dict[str, dict[str, Any]] = {
        "aidn": dict(_network(settings)),
        "vqir": {"factor": 16}
        | ({"ch": 32, "num_res_blocks": 1, "z_channels": 32, "embed_dim": 64} if small else {}),
    }
    side, tile = (160, 64) if small else (1024, 512)
    for name, network in numbers.items():
        table = Table(f"{name.upper()} in tiles of {tile}, round trip, {_on('cpu', settings)}")
        sizes: list[tuple[tuple[int, int], int | None]] = [
            ((side, side), None),
            ((side, side), tile),
        ]
        if not small and name == "aidn":
            sizes.append(((4320, 7680), tile))
        cases = [
            Case(
                f"{size[1]} x {size[0]}, {'tiles' if tiled else 'whole'}",
                "tiles.round_trip",
                {"method": name, "size": size, "tile": tiled, "network": network}
                | {"precision": "bf16", "threads": settings.threads}
                | {"keep": os.path.join(settings.folder, f"{name}{index}.npz")},
            )
            for index, (size, tiled) in enumerate(sizes)
        ]
        results = measure(cases[:2], settings.repeats) + measure(cases[2:], 1)
        _add_rows(table, cases, results, {}, ratios=False)
        if all("seconds" in result for result in results[:2]):
            _add_differences(table.rows[1], _outputs(cases[0]), _outputs(cases[1]))
        yield table
    yield _tile_quality(settings)


def _tile_quality(settings: Settings) -> Table:
    """VQIR's tiles on real images, and tiles with other statistics in their group norms."""
    side, tile = (128, 64) if settings.quick else (256, 128)
    table = Table(
        f"VQIR in tiles of {tile}, {side} x {side}, vqir16-small, {_on('cpu', settings)}",
        notes=[
            "HR, PSNR: restored from the LR image of the whole; round trip: from its own LR image"
        ],
    )
    arguments = {"weights": "vqir16-small", "side": side, "tile": tile, "threads": settings.threads}
    for method, figures in run(Case("quality", "tile_quality.compare", arguments)).items():
        table.rows.append(
            {
                "": method,
                "seconds": figures["seconds"],
                "LR mean diff": figures["lr"],
                "HR mean diff": figures["hr"],
                "PSNR, dB": f"{figures['psnr']:.2f}",
                "PSNR of the round trip": f"{figures['trip']:.2f}",
            }
        )
    return table


TABLES: Mapping[str, Callable[[Settings], Iterator[Table]]] = {
    "aidn": aidn,
    "vqir": vqir,
    "training": training,
    "data": data,
    "tiles": tiles,
}


def _compare(
    settings: Settings,
    table: Table,
    function: str,
    modes: Sequence[tuple[str, str, bool]],
    arguments: Mapping[str, Any],
) -> list[Result]:
    """Measures a round trip in several modes; the first one is the reference."""
    cases: list[Case] = []
    for kind, precision, compiled in modes:
        keep = os.path.join(settings.folder, f"{len(cases)}.npz")
        mode: dict[str, Any] = {"kind": kind, "precision": precision, "keep": keep}
        if compiled:
            mode["compiled"] = True
        label = f"{kind} {precision}{' compiled' if compiled else ''}"
        repeats = 10 if arguments["device"] == "cuda" else 1
        given = {**arguments, **mode, "threads": settings.threads, "repeats": repeats}
        cases.append(Case(label, function, given))
    results = measure(cases, settings.repeats_on(arguments["device"]))
    _add_rows(table, cases, results, {})
    if "seconds" in results[0]:
        reference = _outputs(cases[0])
        for case, result, row in zip(cases, results, table.rows, strict=True):
            if case is not cases[0] and "seconds" in result:
                _add_differences(row, reference, _outputs(case))
    return results


def _add_rows(
    table: Table,
    cases: Sequence[Case],
    results: Sequence[Result],
    extras: Mapping[str, str],
    ratios: bool = True,
) -> None:
    first = results[0]
    for case, result in zip(cases, results, strict=True):
        row: dict[str, Any] = {"": case.label}
        table.rows.append(row)
        if "seconds" not in result:
            table.has_failures |= "failure" in result
            table.notes.append(f"{case.label}: {result.get('error') or result['failure']}")
            continue
        row |= {"seconds": result["seconds"], "MiB": result["mib"]}
        if ratios and "seconds" in first:
            row["times as fast"] = first["seconds"] / result["seconds"]
            row["memory share"] = result["mib"] / first["mib"] if first["mib"] else None
        row |= {title: result[key] for key, title in extras.items()}


def _add_differences(
    row: dict[str, Any], expected: Sequence[np.ndarray], given: Sequence[np.ndarray]
) -> None:
    for name, one, other in zip(("LR", "HR"), expected, given, strict=True):
        difference = np.abs(one - other)
        row[f"{name} max diff"] = float(difference.max())
        row[f"{name} mean diff"] = float(difference.mean())


def _outputs(case: Case) -> list[np.ndarray]:
    with np.load(case.arguments["keep"]) as file:
        return list(file.values())


def _add_lower_bound(
    settings: Settings, table: Table, arguments: Mapping[str, Any], results: Sequence[Result]
) -> None:
    """Adds notes that compare the fastest row with a lower bound."""
    facts = run(Case("operations", "aidn.operations", {**arguments, "threads": settings.threads}))
    best = min((r["seconds"] for r in results if "seconds" in r), default=None)
    for name in ("product", "convolution"):
        rate = facts[f"{name}_rate"]
        bound = facts["operations"] / rate
        note = (
            f"lower bound by the rate of a {name} in bf16: "
            f"{facts['operations'] / 1e12:.2f} Tflop at {rate / 1e12:.0f} Tflop/s = "
            f"{1000 * bound:.1f} ms"
        )
        if best is not None:
            note += f"; the fastest takes {best / bound:.1f} times as long"
        table.notes.append(note)


def _loader_against_step(settings: Settings, device: str, crop: int, loaded: float) -> str:
    network = _network(settings)
    step = run(
        Case(
            "step",
            "training.step",
            {"kind": "ours", "precision": "bf16", "network": network, "crop": crop}
            | {"batch": 16 if device == "cuda" else 2, "device": device}
            | {"repeats": 10 if device == "cuda" else 1, "threads": settings.threads},
        )
    )
    share = loaded / step["images"]
    verdict = "is fast enough" if share >= 1 else "is TOO SLOW: more workers are needed"
    return (
        f"AIDN's training step in bf16 ({device}) processes {step['images']:.1f} images/s; the "
        f"LMDB delivers {loaded:.0f}, {share:.2g} times as many: it {verdict}"
    )


def _many_images(settings: Settings) -> Table:
    table = Table("LMDB of small images (32 x 32)")
    for count in (100, 1_000) if settings.quick else (1_000, 100_000):
        folder = os.path.join(settings.folder, f"small{count}")
        lmdb = f"{folder}.lmdb"
        run(Case("make", "data.make", {"folder": folder, "count": count, "side": 32}))
        made = run(Case("prepare", "data.prepare", {"folder": folder, "lmdb": lmdb}))
        arguments = {"root": lmdb, "gt_size": 32, "count": 64 if settings.quick else 4096}
        read = run(Case("read", "data.read", {**arguments, "threads": 1}))
        table.rows.append(
            {
                "images": f"{count:,}",
                "preparing ms/image": made["ms_per_image"],
                "preparing MiB": made["mib"],
                "reading ms/image": 1000 / read["images"],
                "reader MiB": read["mib"],
            }
        )
    return table


def _network(settings: Settings) -> dict[str, int]:
    """Keywords of AIDN."""
    return {"num_feat": 16, "num_block": 2, "adapt_interval": 1} if settings.quick else {}


def _on(device: str, settings: Settings) -> str:
    return "GPU" if device == "cuda" else f"CPU, {settings.threads} threads"
