"""The report as one HTML file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from rescale_app.page.widget import notice, script, style
from rescale_app.report import tables
from rescale_app.report.originals import Originals, find
from rescale_app.report.pictures import all_pictures, crop_figure
from rescale_app.report.plot import plots
from rescale_app.report.results import BICUBIC, Outcome, Results
from rescale_app.report.worst_crops import Crop, without_overlap, worst_crops
from rescale_data.atomic import replacing
from rescale_data.image_file import read_image

# Nothing is loaded from anywhere, whatever the names in the results are.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def write_report(
    results: Results, path: Path, hr_folders: Sequence[Path], *, crops: int, limit: int
) -> list[str]:
    """Writes the report; one picture at a time is in memory.

    Args:
        results: of a test run.
        path: file to write; an existing one is replaced.
        hr_folders: as for `find`.
        crops: number of places to show that came out worst.
        limit: bytes that the pictures may take, without the crops.

    Returns:
        What is missing on the page, and why.

    Raises:
        ValueError: the originals have other sizes than what was restored.
        OSError: a picture is broken, or the file cannot be written.
    """
    originals, worst, remarks = _compare(results, hr_folders, crops)
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(_head(results))
        file.writelines(notice(f"{remark}.", "warning") for remark in remarks)
        file.write(
            "<section id='figures'><h2>Figures</h2><p class='soft'>Means over the pictures.</p>"
        )
        file.writelines(tables.means(results))
        file.write("<div class='plots'>")
        file.writelines(f"<figure>{svg}</figure>" for svg in plots(results))
        file.write("</div></section>")
        file.writelines(_worst_places(worst))
        order = f", lowest {escape(results.main_metric)} first" if results.main_metric else ""
        file.write(
            f"<section id='pictures'><h2>Pictures</h2><p class='soft'>All of them{order}.</p>"
        )
        file.writelines(all_pictures(results, originals, limit, remarks))
        file.write(f"</section></main><script>{script()}</script></body></html>\n")
    return remarks


def _compare(
    results: Results, folders: Sequence[Path], most: int
) -> tuple[dict[str, Originals], list[Crop], list[str]]:
    """The originals of each set, the places that came out worst, and remarks."""
    saved = [outcome for outcome in results.outcomes if outcome.restored.is_file()]
    missing = len(results.outcomes) - len(saved)
    remarks = []
    if not saved:
        remarks.append(f"{results.folder}: the test saved no pictures; save_img: true does")
    elif missing:
        remarks.append(f"{results.folder}: {missing} restored pictures are missing")
    found: dict[str, Originals] = {}
    worst: list[Crop] = []
    by_set: dict[str, dict[str, list[Outcome]]] = {}
    for outcome in saved:
        by_set.setdefault(outcome.set, {}).setdefault(outcome.image, []).append(outcome)
    for name, by_image in by_set.items():
        try:
            found[name] = find(results, name, folders)
        except FileNotFoundError as error:
            remarks.append(f"{name}: no originals, say where they are by --hr: {error}")
            continue
        for image, original in found[name]:
            in_picture: list[Crop] = []
            for outcome in by_image.pop(image, []):
                restored = read_image(outcome.restored)
                if restored.shape != original.shape:
                    raise ValueError(
                        f"{outcome.restored}: is {restored.shape[1]}x{restored.shape[0]}, but the "
                        f"original in {found[name].root}, cropped as for the test, is "
                        f"{original.shape[1]}x{original.shape[0]}: say by --hr where the right "
                        "ones are"
                    )
                if outcome.method != BICUBIC:
                    in_picture += worst_crops(original, restored, outcome, most)
                    in_picture = without_overlap(_by_error(in_picture), most)
            worst = _by_error(worst + in_picture)[:most]
        if by_image:
            remarks.append(
                f"{name}: {found[name].root} has no original of {', '.join(by_image)}: say by --hr "
                "where they are"
            )
    return found, worst, remarks


def _by_error(crops: Sequence[Crop]) -> list[Crop]:
    return sorted(crops, key=lambda crop: -crop.error)


def _head(results: Results) -> Iterator[str]:
    name = escape(results.name)
    own_style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    yield (
        "<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'>"
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{name}, test report</title><style>{style()}{own_style}</style></head><body><main>"
        f"<header><p class='soft'>Test of {escape(results.date)}</p><h1>{name}</h1>"
        "<nav><a href='#figures'>Figures</a> <a href='#worst'>Worst places</a> "
        "<a href='#pictures'>Pictures</a></nav></header><dl class='rescale-facts'>"
    )
    for title, fact in _facts(results).items():
        yield f"<dt>{title}</dt><dd>{escape(fact)}</dd>"
    yield "</dl>"


def _facts(results: Results) -> dict[str, str]:
    options, val = results.options, results.options["val"]
    facts = {}
    if results.is_benchmark:
        facts["Methods"] = ", ".join(results.costs)
        facts["Weights"] = ", ".join(map(str, val["weights"]))
        facts["LR files"] = ", ".join(results.values("lr_file"))
    else:
        network = dict(options["network_g"])
        facts["Network"] = ", ".join(
            [network.pop("type"), *(f"{key} {value}" for key, value in network.items())]
        )
        facts["Weights"] = str(options["path"].get("pretrain_network_g"))
        quality = f", quality {val.get('lr_quality', 90)}"
        facts["LR pictures"] = {
            None: "8-bit, not by way of a file",
            "png": "by way of PNG files",
            "jpeg": f"by way of JPEG files{quality}",
        }[val.get("lr_format")]
    pictures = {(outcome.set, outcome.image) for outcome in results.outcomes}
    facts["Pictures"] = ", ".join(
        f"{name} ({sum(of_set == name for of_set, _ in pictures)})"
        for name in results.values("set")
    )
    facts["Scales"] = ", ".join(results.values("scale"))
    if val.get("protocol") == "float":
        facts["Protocol"] = "float: restored pictures are scored unrounded"
    return facts


def _worst_places(crops: Sequence[Crop]) -> Iterator[str]:
    yield "<section id='worst'><h2>Worst places</h2>"
    if crops:
        yield (
            "<p class='soft'>Where the squared error is largest, over all pictures and scales; "
            "every place is shown once, as it came out worst. Original on the left, restored on "
            "the right; the figure is the PSNR of the crop (RGB).</p><div class='crops'>"
        )
        yield from map(crop_figure, crops)
        yield "</div>"
    else:
        yield "<p class='soft'>None are shown: no errors, or no pictures to find them in.</p>"
    yield "</section>"
