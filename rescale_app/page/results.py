"""Results of the page as HTML."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from rescale_app.html.components import Layer, comparison, sentence
from rescale_app.html.rendering import bytes_text, number_text, render, size_text
from rescale_app.page.round_trip import Restored, RoundTrip, scale_text
from rescale_app.quality import Quality
from rescale_arch.architecture import find_architecture


def round_trip_html(trip: RoundTrip) -> Markup:
    """Comparison, metrics and files of a round trip."""
    result = trip.comparison
    network = find_architecture(result.lr.info.network).title
    by_jpeg = f"{network} from JPEG {trip.jpeg_quality}"
    errors = "Errors: "
    layers = [
        Layer("hr", "Original", url(trip.hr_file)),
        Layer("restored", network, url(trip.views["restored"])),
        Layer("bicubic", "Bicubic", url(trip.views["bicubic"])),
        Layer("jpeg", by_jpeg, url(trip.views["jpeg"])),
        Layer("lr", "LR, enlarged", url(trip.lr_file), enlarged=True),
        Layer("errors", errors + network, url(trip.views["errors"]), errors=True),
        Layer("bicubic_errors", errors + "bicubic", url(trip.views["bicubic_errors"]), errors=True),
        Layer("jpeg_errors", errors + by_jpeg, url(trip.views["jpeg_errors"]), errors=True),
    ]
    size = (result.hr.shape[0], result.hr.shape[1])
    lr_size = (result.lr.pixels.shape[0], result.lr.pixels.shape[1])
    rows = [
        (f"{network}, LR as PNG", result.quality, trip.lr_file),
        (f"{network}, LR as JPEG {trip.jpeg_quality}", trip.jpeg, trip.jpeg_file),
        ("Bicubic in both directions", result.bicubic_quality, None),
        (f"Bicubic, LR as JPEG {trip.jpeg_quality}", trip.bicubic_jpeg, None),
    ]
    return render(
        "round_trip.html",
        warning="",
        comparison=comparison(layers, size, "hr", "restored", panes=True, keep="round trip"),
        figures=_figures(rows),
        facts={
            "Original": f"{size_text(size)}, {bytes_text(trip.hr_file)} as PNG",
            "LR": f"{size_text(lr_size)}, {bytes_text(trip.lr_file)} as PNG, "
            f"{bytes_text(trip.jpeg_file)} as JPEG {trip.jpeg_quality}",
            "Scale": scale_text(result.lr.info),
            "LR fidelity": f"PSNR {number_text(result.lr_psnr, 2)} dB RGB, "
            f"{number_text(result.lr_psnr_y, 2)} dB Y against the bicubic LR image",
            "Time": f"{result.seconds_down:.2f} s down, {result.seconds_up:.2f} s up",
        },
        lr_file=trip.lr_file,
        lr_size=lr_size,
        downloads=[
            (trip.lr_file, "LR as PNG"),
            (trip.jpeg_file, f"LR as JPEG {trip.jpeg_quality}"),
        ],
        url=url,
    )


def restored_html(result: Restored) -> Markup:
    """Comparison, record and file of a restored image."""
    info = result.info
    layers = [
        Layer("lr", "LR, enlarged", url(result.lr_file), enlarged=True),
        Layer("restored", "Restored", url(result.file)),
    ]
    return render(
        "round_trip.html",
        warning=sentence(result.warning),
        comparison=comparison(layers, info.size, "lr", "restored", keep="restored"),
        figures=[],
        facts={
            "LR": size_text(result.lr_size),
            "Restored": f"{size_text(info.size)}, {bytes_text(result.file)} as PNG",
            "Scale": scale_text(info),
            "Created by": f"{find_architecture(info.network).title}, weights {info.weights}",
            "Restored by": result.weights,
            "Time": f"{result.seconds:.2f} s",
        },
        lr_file=result.lr_file,
        lr_size=result.lr_size,
        downloads=[(result.file, "Restored image")],
        url=url,
    )


def url(file: Path) -> str:
    """URL of a workspace file, relative to the page."""
    return f"gradio_api/file={quote(str(file))}"


def _figures(rows: list[tuple[str, Quality, Path | None]]) -> list[tuple[str, list[str], bool]]:
    best = max(quality.psnr_y for _, quality, _ in rows)
    return [
        (
            name,
            [
                number_text(quality.psnr_y, 2),
                number_text(quality.ssim_y, 4),
                number_text(quality.psnr, 2),
                number_text(quality.ssim, 4),
                bytes_text(file) if file else "",
            ],
            quality.psnr_y == best,
        )
        for name, quality, file in rows
    ]
