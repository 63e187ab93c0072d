"""Results of the page as HTML."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from rescale_app.html.components import Layer, comparison
from rescale_app.html.rendering import bytes_text, count_text, number_text, render, size_text
from rescale_app.lr_image import scale_text
from rescale_app.page.jobs import Status
from rescale_app.page.restoring import Restored
from rescale_app.page.round_trip import JpegTrip, PngTrip
from rescale_app.quality import Quality
from rescale_arch.architecture import find_architecture

_ENOUGH_SECONDS, _ENOUGH_DONE = 2.0, 0.05  # for an estimate of the time left


def png_html(trip: PngTrip, weights: str) -> Markup:
    """The round trip through a PNG file; ``weights`` is the display name."""
    lr_size = (trip.lr.pixels.shape[0], trip.lr.pixels.shape[1])
    small = f"{bytes_text(trip.lr_file)}, {size_text(lr_size)}"
    network = find_architecture(trip.lr.info.network).title
    return _trip_html(
        trip,
        trip,
        lr_size,
        heading=f"{count_text(trip.original_bytes)} \N{RIGHTWARDS ARROW} {small}",
        kind="PNG",
        press="restore-png",
        panes=True,
        facts={
            "Original": f"{size_text(trip.size)}, {count_text(trip.original_bytes)}",
            "Scale": scale_text(trip.lr.info.scale),
            "Restored with": f"{weights}: {network}, weights {trip.lr.info.weights}",
            "Effort": _effort_text(trip.effort),
            "LR fidelity": f"PSNR {number_text(trip.lr_psnr, 2)} dB RGB, "
            f"{number_text(trip.lr_psnr_y, 2)} dB Y against the bicubic LR image",
            "Time": f"{trip.seconds[0]:.2f} s down, {trip.seconds[1]:.2f} s up",
        },
    )


def jpeg_html(trip: PngTrip, jpeg: JpegTrip, weights: str) -> Markup:
    """The same round trip through a JPEG file."""
    lr_size = (jpeg.lr.pixels.shape[0], jpeg.lr.pixels.shape[1])
    network = find_architecture(jpeg.lr.info.network).title
    return _trip_html(
        trip,
        jpeg,
        lr_size,
        heading=f"As JPEG of quality {jpeg.jpeg_quality}: {bytes_text(jpeg.lr_file)}",
        kind="JPEG",
        press="restore-jpeg",
        panes=False,
        facts={
            "Restored with": f"{weights}: {network}, weights {jpeg.lr.info.weights}",
            "Effort": _effort_text(jpeg.effort),
        },
    )


def pending_html() -> Markup:
    """In place of the round trip through a JPEG file, until it is known."""
    return render("pending.html")


def restored_html(result: Restored, weights: str) -> Markup:
    """Comparison, record and file of a restored image; ``weights`` is the display name."""
    layers = [
        Layer("lr", "Small image", url(result.lr_file), enlarged=True),
        Layer("restored", "Restored", url(result.file)),
    ]
    if result.created_by is None:
        created = "unknown: the file has no record"
    else:
        network, mark = result.created_by
        created = f"{find_architecture(network).title}, weights {mark}"
    facts = {
        "Scale": "fixed" if result.scale is None else scale_text(result.scale),
        "Created by": created,
        "Restored with": weights,
        "Time": f"{result.seconds:.2f} s",
    }
    return render(
        "restored.html",
        warning=result.warning,
        name=result.name,
        heading=f"{size_text(result.lr_size)} \N{RIGHTWARDS ARROW} {size_text(result.size)}",
        file=result.file,
        comparison=comparison(layers, result.size, "lr", "restored", keep="restored"),
        facts=facts,
        url=url,
    )


def status_html(
    status: Status, start: float = 0.0, share: float = 1.0, seconds_before: float = 0.0
) -> Markup:
    """Progress of a job: a bar, its percentage and the time left.

    Args:
        status: state of the job.
        start: completed fraction of the whole before this job.
        share: its part of the whole.
        seconds_before: time that was spent before it.
    """
    done = start + share * status.done
    if status.ahead:
        text = f"Waiting for {status.ahead} other{'s' if status.ahead > 1 else ''}"
    else:
        left = time_left(done, seconds_before + status.seconds)
        text = ", ".join(filter(None, [status.step or "Starting", left]))
    return render("status.html", percent=math.floor(100 * done), text=text)


def time_left(done: float, seconds: float) -> str:
    """The time that a computation will probably still take; empty if it is too early to tell.

    Args:
        done: completed fraction.
        seconds: time since it started.
    """
    if done < _ENOUGH_DONE or seconds < _ENOUGH_SECONDS:
        return ""
    left = seconds * (1 - done) / done
    if left >= 90:
        return f"about {round(left / 60)} min left"
    step = 5 if left >= 10 else 1
    return f"about {max(step, step * round(left / step))} s left"


def gain_text(quality: Quality, bicubic: Quality) -> str:
    """The gain over bicubic, in words: ``restored at 38.1 dB, 4.2 dB better than bicubic``."""
    restored = f"restored at {number_text(quality.psnr_y, 1)} dB"
    gain = quality.psnr_y - bicubic.psnr_y
    if math.isnan(gain) or round(gain, 1) == 0:
        return f"{restored}, like bicubic"
    word = "better" if gain > 0 else "worse"
    return f"{restored}, {number_text(abs(gain), 1)} dB {word} than bicubic"


def url(file: Path) -> str:
    """URL of a workspace file, relative to the page."""
    return f"gradio_api/file={quote(str(file))}"


def _trip_html(
    trip: PngTrip, through: PngTrip | JpegTrip, lr_size: tuple[int, int], **values: Any
) -> Markup:
    """Comparison and metrics of the round trip ``through`` a file of the original of ``trip``."""
    views = {name: url(file) for name, file in through.views.items()}
    layers = [
        Layer("bicubic", "Bicubic", views["bicubic"]),
        Layer("restored", "Restored", views["restored"]),
        Layer("hr", "Original", url(trip.hr_file)),
        Layer("lr", "Small image", url(through.lr_file), enlarged=True),
        Layer("restored_errors", "Error, restored", views["restored_errors"], errors=True),
        Layer("bicubic_errors", "Error, bicubic", views["bicubic_errors"], errors=True),
    ]
    return render(
        "round_trip.html",
        name=trip.name,
        gain=gain_text(through.quality, through.bicubic_quality),
        lr_file=through.lr_file,
        lr_size=lr_size,
        comparison=comparison(
            layers, trip.size, "bicubic", "restored", panes=values["panes"], keep=values["kind"]
        ),
        figures=[
            ("Restored", _cells(through.quality), True),
            ("Bicubic", _cells(through.bicubic_quality), False),
        ],
        url=url,
        **values,
    )


def _effort_text(steps: int) -> str:
    return f"{steps} step{'' if steps == 1 else 's'} of optimization" if steps else "none"


def _cells(quality: Quality) -> list[str]:
    return [
        number_text(quality.psnr_y, 2),
        number_text(quality.ssim_y, 4),
        number_text(quality.psnr, 2),
        number_text(quality.ssim, 4),
    ]
