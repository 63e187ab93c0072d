"""Processing a single image file, or all images of a folder."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rescale_compat.errors import RescaleError

from rescale_app.commands.messages import UsageError, describe, print_error, print_warning
from rescale_app.distributed import Ranks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rescale_data.image_file import LRInfo
    from rescale_data.losses import Loss
    from rescale_data.side_data import SideData

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Job:
    """A file to read and the file to write."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Source:
    """An image file that was read.

    Attributes:
        path: the file.
        target: the file to write.
        pixels: (H, W, 3) RGB, uint8 or uint16.
        side_data: side data that is kept in the output.
        losses: contents that are not.
    """

    path: Path
    target: Path
    pixels: NDArray[Any]
    side_data: SideData
    losses: list[Loss]


@dataclass(frozen=True)
class Result:
    """The output for a file.

    Attributes:
        pixels: (H, W, 3) RGB, uint8 or uint16.
        side_data: side data to write.
        losses: contents that are lost, for a warning.
        info: record of an LR file.
        remark: message to print, also for folders.
        quality: quality of the file, if it differs from ``--quality``.
    """

    pixels: NDArray[Any]
    side_data: SideData
    losses: Sequence[Loss]
    info: LRInfo | None = None
    remark: str = ""
    quality: int | None = None


def find_jobs(args: argparse.Namespace, name: Callable[[str], str] = str) -> list[Job]:
    """Finds the files to read and write, and checks them before PyTorch is loaded.

    Args:
        args: the command's arguments.
        name: function of the input's name, without suffix, that returns the output's.

    Raises:
        UsageError: input and output do not match.
        OSError: the input or a folder does not exist.
        ValueError: the input folder contains no images.
    """
    source, output = args.input, args.output
    if args.quality is not None and args.format == "png":
        raise UsageError("--quality requires --format jpg or webp, not png")
    is_lossy = args.quality is not None or getattr(args, "max_bytes", None) is not None
    suffix = f".{args.format or ('jpg' if is_lossy else 'png')}"
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or folder")
    if not source.is_dir():
        if output.is_dir():
            output = output / f"{name(source.stem)}{suffix}"
        check_target(source, output)
        kind = output.suffix.lower().removeprefix(".").replace("jpeg", "jpg")
        if args.format not in (None, kind):
            raise UsageError(f"{output}: is not a {args.format} file, as --format requires")
        if kind == "png" and args.quality is not None:
            raise UsageError(f"{output}: --quality requires a .jpg or .webp file, not .png")
        return [Job(source, output)]
    check_folder(source, output)
    return [
        Job(path, output / f"{name(path.stem)}{suffix}") for path in find_images(source, output)
    ]


def check_folder(source: Path, output: Path) -> None:
    """Checks that the images of the folder ``source`` can be written to ``output``.

    Raises:
        UsageError: it is a file, or ``source`` itself.
    """
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output}: is a file, but the input {source} is a folder")
    if output.resolve() == source.resolve():
        raise UsageError(f"{output}: is the input folder; its images would be replaced")


def find_images(folder: Path, output: Path | None = None) -> list[Path]:
    """Lists the images of a folder, which may also contain ``output``.

    Raises:
        OSError: the folder cannot be read.
        ValueError: it contains no images.
    """
    from rescale_data.image_file import list_images

    sources = list_images(folder)
    if not sources:
        others = _other_files(folder, output)
        there = f" (not read: {others})" if others else ""
        raise RescaleError(f"{folder}: no images in this folder{there}")
    return sources


def read_source(job: Job, args: argparse.Namespace) -> Source:
    """Reads an image; ``--strip`` drops its EXIF.

    Raises:
        ImageFileError: the file is not an image.
        ValueError: the output format does not support its transparency.
    """
    from rescale_data.image_file import decode_image
    from rescale_data.losses import Loss, side_data_and_losses

    data = job.source.read_bytes()
    pixels = decode_image(data, str(job.source))
    side_data, losses = side_data_and_losses(data)
    if args.strip:
        side_data = replace(side_data, exif=None)
        losses = [loss for loss in losses if loss not in (Loss.METADATA, Loss.EXIF)]
    is_jpeg = job.target.suffix.lower() in (".jpg", ".jpeg")
    if side_data.alpha is not None and is_jpeg and args.background is None:
        raise RescaleError(
            "has transparency, which a JPEG file cannot hold: specify --background (as white), "
            "or write PNG or WebP"
        )
    return Source(job.source, job.target, pixels, side_data, losses)


def over_background(
    pixels: NDArray[Any], side_data: SideData, args: argparse.Namespace
) -> tuple[NDArray[Any], SideData]:
    """Composites a transparent image over the color of ``--background``, if given."""
    from rescale_data.side_data import flattened

    if side_data.alpha is None or args.background is None:
        return pixels, side_data
    return flattened(pixels, side_data.alpha, args.background), replace(side_data, alpha=None)


def check_target(source: Path, target: Path) -> None:
    """Checks that an image file can be written to ``target``.

    Raises:
        UsageError: the suffix is unsupported, or the target is a folder or ``source`` itself.
        FileNotFoundError: its folder does not exist.
    """
    if target.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"{target}: expected a file name that ends in {', '.join(_SUFFIXES)}")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target.parent}: no such folder")
    if target.resolve() == source.resolve():
        raise UsageError(f"{target}: is the input file, which would be replaced")
    if target.is_dir():
        raise UsageError(f"{target}: is a folder: expected a file name")


def convert_all(
    jobs: list[Job],
    convert: Callable[[Source], Result],
    args: argparse.Namespace,
    ranks: Ranks,
) -> int:
    """Converts every file; errors, including write errors, are reported without stopping.

    Returns:
        The exit code: 1 if any file failed.
    """
    from tqdm import tqdm

    from rescale_data.image_file import write_image

    many = args.input.is_dir()
    if many:
        args.output.mkdir(parents=True, exist_ok=True)
    written = failures = kept = 0
    first: dict[Path, Path] = {}  # target -> its source, for all processes
    for job in jobs:
        first.setdefault(job.target, job.source)
    share = ranks.share(jobs)
    losses: dict[Loss, list[Path]] = {}
    hinted = getattr(args, "hint_name", False)
    present = _files_beside(share)
    without_hints = {_without_hint(path) for path in present} if hinted else set()
    # A bar is shown on a terminal and for a folder only; tqdm.write below does not break it.
    for job in tqdm(share, unit="image", disable=None if many and ranks.is_first else True):
        try:
            if first[job.target] != job.source:
                raise RescaleError(
                    f"would be written to {job.target}, as would {first[job.target]}"
                )
            if args.skip_existing and (job.target.is_file() or job.target in without_hints):
                kept += 1
                continue
            result = convert(read_source(job, args))
            target = job.target
            if hinted and result.info is not None:
                target = _with_hint(target, result.info)
            appeared = target not in present and target.is_file()
            if appeared and args.skip_existing:
                kept += 1
                continue
            write_image(
                target,
                result.pixels,
                quality=args.quality if result.quality is None else result.quality,
                info=result.info,
                side_data=result.side_data,
            )
        except (RescaleError, OSError, MemoryError) as error:
            if os.environ.get("RESCALE_DEBUG") == "1":
                raise
            print_error(describe(error, job.source))
            failures += 1
            continue
        written += 1
        if appeared:
            print_warning(f"{target}: was created during this run and is replaced")
        for loss in result.losses:
            losses.setdefault(loss, []).append(job.source)
        if result.remark:
            tqdm.write(f"{job.source}: {result.remark}")
    for loss, sources in losses.items():  # one line for each kind, however many files are affected
        more = f" and {len(sources) - 1} more" if len(sources) > 1 else ""
        print_warning(f"{sources[0]}{more}: {loss.value}")
    written, failures, kept = ranks.total(written, failures, kept)
    if ranks.is_first:
        if many:
            print(_summary(args, len(jobs), written, failures, kept))
        elif kept:
            print(f"{args.input}: skipped, {jobs[0].target} already exists")
    return 1 if failures else 0


def _files_beside(jobs: Sequence[Job]) -> set[Path]:
    """All entries of the folders that are written to."""
    folders = {job.target.parent for job in jobs}
    return {folder / name for folder in folders for name in os.listdir(folder)}


def _with_hint(path: Path, info: LRInfo) -> Path:
    from rescale_data.lr_info import name_with_hint

    return path.with_name(f"{name_with_hint(path.stem, info)}{path.suffix}")


def _without_hint(path: Path) -> Path:
    from rescale_data.lr_info import name_without_hint

    return path.with_name(f"{name_without_hint(path.stem)}{path.suffix}")


def _summary(args: argparse.Namespace, images: int, written: int, failures: int, kept: int) -> str:
    """Summarizes the results for a folder."""
    text = f"{written} of {images} images written to {args.output}"
    if failures:
        text += f", {failures} failed"
    if kept:
        text += f", {kept} skipped that already exist"
    others = _other_files(args.input, args.output)
    return f"{text}\nnot read: {others}" if others else text


def _other_files(folder: Path, output: Path | None) -> str:
    """Counts entries of ``folder`` other than images: ``2 .gif, 1 without a suffix, 1 subfolder``.

    Hidden entries and ``output`` are not counted.
    """
    from rescale_data.image_file import IMAGE_SUFFIXES

    suffixes: Counter[str] = Counter()
    subfolders = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                is_output = output is not None and output.exists() and output.samefile(entry.path)
                subfolders += not is_output
            elif not entry.name.lower().endswith(IMAGE_SUFFIXES):
                suffixes[Path(entry.name).suffix.lower() or "without a suffix"] += 1
    counts = [f"{count} {suffix}" for suffix, count in sorted(suffixes.items())]
    if subfolders:
        counts.append(f"{subfolders} subfolder{'s' if subfolders > 1 else ''}")
    return ", ".join(counts)
