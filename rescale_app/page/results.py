"""Results of the page as HTML."""

from __future__ import annotations

import math
from html import escape
from pathlib import Path
from urllib.parse import quote

from rescale_app.page.round_trip import Restored, RoundTrip, scale_text
from rescale_app.page.widget import Layer, comparison, notice
from rescale_app.rescaler import Quality

NETWORKS = {"aidn": "AIDN", "vqir16": "VQIR 16", "vqir32": "VQIR 32"}


def round_trip_html(trip: RoundTrip) -> str:
    """Comparison, figures and files of a round trip."""
    result = trip.comparison
    network = NETWORKS[result.lr.info.network]
    by_jpeg = f"{network} from JPEG {trip.jpeg_quality}"
    errors = "Errors: "
    size = (result.hr.shape[0], result.hr.shape[1])
    view = comparison(
        [
            Layer("hr", "Original", url(trip.hr_file)),
            Layer("restored", network, url(trip.views["restored"])),
            Layer("bicubic", "Bicubic", url(trip.views["bicubic"])),
            Layer("jpeg", by_jpeg, url(trip.views["jpeg"])),
            Layer("lr", "LR, enlarged", url(trip.lr_file), enlarged=True),
            Layer("errors", errors + network, url(trip.views["errors"]), errors=True),
            Layer(
                "bicubic_errors", errors + "bicubic", url(trip.views["bicubic_errors"]), errors=True
            ),
            Layer("jpeg_errors", errors + by_jpeg, url(trip.views["jpeg_errors"]), errors=True),
        ],
        size,
        "hr",
        "restored",
        panes=True,
        keep="round trip",
    )
    lr_size = (result.lr.pixels.shape[0], result.lr.pixels.shape[1])
    rows = [
        (f"{network}, LR as PNG", result.quality, trip.lr_file),
        (f"{network}, LR as JPEG {trip.jpeg_quality}", trip.jpeg, trip.jpeg_file),
        ("Bicubic both ways", result.bicubic_quality, None),
        (f"Bicubic, LR as JPEG {trip.jpeg_quality}", trip.bicubic_jpeg, None),
    ]
    facts = {
        "Original": f"{size_text(size)}, {bytes_text(trip.hr_file)} as PNG",
        "LR": f"{size_text(lr_size)}, {bytes_text(trip.lr_file)} as PNG, "
        f"{bytes_text(trip.jpeg_file)} as JPEG {trip.jpeg_quality}",
        "Scale": scale_text(result.lr.info),
        "LR fidelity": f"PSNR {_decibel(result.lr_psnr)} RGB, {_decibel(result.lr_psnr_y)} Y "
        "against bicubic's LR",
        "Time": f"{result.seconds_down:.2f} s down, {result.seconds_up:.2f} s up",
    }
    return (
        f"{view}<div class='rescale-columns'><div>{_figures(rows)}{_facts(facts)}</div>"
        f"<div>{_true_size(trip.lr_file, lr_size)}"
        f"<p class='rescale-links'>{_download(trip.lr_file, 'LR as PNG')}"
        f"{_download(trip.jpeg_file, f'LR as JPEG {trip.jpeg_quality}')}</p></div></div>"
    )


def restored_html(result: Restored) -> str:
    """Comparison, record and file of a restored picture."""
    info = result.info
    view = comparison(
        [
            Layer("lr", "LR, enlarged", url(result.lr_file), enlarged=True),
            Layer("restored", "Restored", url(result.file)),
        ],
        info.size,
        "lr",
        "restored",
        keep="restored",
    )
    facts = {
        "LR": size_text(result.lr_size),
        "Restored": f"{size_text(info.size)}, {bytes_text(result.file)} as PNG",
        "Scale": scale_text(info),
        "Made by": f"{NETWORKS[info.network]}, weights {info.weights}",
        "Restored by": result.weights,
        "Time": f"{result.seconds:.2f} s",
    }
    warning = notice(result.warning, "warning") if result.warning else ""
    return (
        f"{warning}{view}<div class='rescale-columns'><div>{_facts(facts)}</div><div>"
        f"{_true_size(result.lr_file, result.lr_size)}"
        f"<p class='rescale-links'>{_download(result.file, 'Restored picture')}</p></div></div>"
    )


def url(file: Path) -> str:
    """Where the page serves a file of its workspace, relative to the page."""
    return f"gradio_api/file={quote(str(file))}"


def size_text(size: tuple[int, int]) -> str:
    """(height, width) as people write it: ``640 x 480``, with the width first."""
    return f"{size[1]} \N{MULTIPLICATION SIGN} {size[0]}"


def bytes_text(file: Path) -> str:
    """Size of a file in KB or MB, of 1000 or a million bytes."""
    size = file.stat().st_size
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} KB"


def _figures(rows: list[tuple[str, Quality, Path | None]]) -> str:
    best = max(quality.psnr_y for _, quality, _ in rows)
    body = "".join(
        f"<tr{' class=best' if quality.psnr_y == best else ''}><th scope='row'>{escape(name)}</th>"
        f"<td>{_number(quality.psnr_y, 2)}</td><td>{quality.ssim_y:.4f}</td>"
        f"<td>{_number(quality.psnr, 2)}</td><td>{quality.ssim:.4f}</td>"
        f"<td>{bytes_text(file) if file else ''}</td></tr>"
        for name, quality, file in rows
    )
    return (
        "<div class='rescale-scroll'><table class='rescale-figures'><thead><tr><th>Restored</th>"
        "<th>PSNR Y</th><th>SSIM Y</th><th>PSNR RGB</th><th>SSIM RGB</th><th>LR file</th></tr>"
        f"</thead><tbody>{body}</tbody></table></div>"
    )


def _facts(facts: dict[str, str]) -> str:
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items()
    )
    return f"<dl class='rescale-facts'>{rows}</dl>"


def _true_size(file: Path, size: tuple[int, int]) -> str:
    return (
        "<figure class='rescale-true-size'><div class='rescale-scroll' tabindex='0'>"
        f"<img src='{escape(url(file))}' width='{size[1]}' height='{size[0]}' alt='LR picture'>"
        f"</div><figcaption>LR at true size, {size_text(size)}</figcaption></figure>"
    )


def _download(file: Path, text: str) -> str:
    return (
        f"<a class='rescale-link' href='{escape(url(file))}' download='{escape(file.name)}'>"
        f"{escape(text)}<small>{bytes_text(file)}</small></a>"
    )


def _decibel(value: float) -> str:
    return f"{_number(value, 2)} dB"


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "\N{INFINITY}"
