"""The report as a single HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rescale_compat.errors import RescaleError

from markupsafe import Markup

from rescale_app.html.components import script, style
from rescale_app.html.rendering import stream
from rescale_app.report import tables
from rescale_app.report.headings import headings
from rescale_app.report.images import all_images, crop_figure
from rescale_app.report.originals import Originals, find
from rescale_app.report.plot import plots
from rescale_app.report.results import BICUBIC, Outcome, Results
from rescale_app.report.worst_crops import Crop, without_overlap, worst_crops
from rescale_data.atomic import replacing
from rescale_data.image_file import read_image


def write_report(
    results: Results, path: Path, hr_folders: Sequence[Path], *, crops: int, limit: int
) -> list[str]:
    """Writes the report; only one image is in memory at a time.

    Args:
        results: of a test run.
        path: file to write; an existing file is replaced.
        hr_folders: as for `find`.
        crops: number of crops with the largest errors to show.
        limit: maximum size of the images in bytes, without the crops.

    Returns:
        Messages about what is missing in the report, and why.

    Raises:
        ValueError: the originals and the restored images differ in size.
        OSError: an image is broken, or the file cannot be written.
    """
    originals, worst, remarks = _compare(results, hr_folders, crops)
    own_style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(
            stream(
                "report.html",
                results=results,
                style=style() + Markup(own_style),
                script=script(),
                facts=_facts(results),
                remarks=[f"{remark}." for remark in remarks],
                means=tables.means(results),
                main_heading=headings(results.metrics).get(results.main_metric or ""),
                costs=tables.costs(results),
                plots=map(Markup, plots(results)),
                crops=list(map(crop_figure, worst)),
                images=all_images(results, originals, limit, remarks),
            )
        )
    return remarks


def _compare(
    results: Results, folders: Sequence[Path], most: int
) -> tuple[dict[str, Originals], list[Crop], list[str]]:
    """The originals of each set, the crops with the largest errors, and remarks."""
    saved = [outcome for outcome in results.outcomes if outcome.restored.is_file()]
    missing = len(results.outcomes) - len(saved)
    remarks = []
    if not saved:
        remarks.append(f"{results.folder}: the test saved no images; set save_img: true")
    elif missing:
        remarks.append(f"{results.folder}: {missing} restored images are missing")
    found: dict[str, Originals] = {}
    worst: list[Crop] = []
    by_set: dict[str, dict[str, list[Outcome]]] = {}
    for outcome in saved:
        by_set.setdefault(outcome.set, {}).setdefault(outcome.image, []).append(outcome)
    for name, by_image in by_set.items():
        try:
            found[name] = find(results, name, folders)
        except FileNotFoundError as error:
            remarks.append(f"{name}: originals not found, specify their folder with --hr: {error}")
            continue
        for image, original in found[name]:
            in_image: list[Crop] = []
            for outcome in by_image.pop(image, []):
                restored = read_image(outcome.restored)
                if restored.shape != original.shape:
                    raise RescaleError(
                        f"{outcome.restored}: is {restored.shape[1]}x{restored.shape[0]}, but the "
                        f"original in {found[name].root}, cropped as for the test, is "
                        f"{original.shape[1]}x{original.shape[0]}: specify the right "
                        "folder with --hr"
                    )
                if outcome.method != BICUBIC:
                    in_image += worst_crops(original, restored, outcome, most)
                    in_image = without_overlap(_by_error(in_image), most)
            worst = _by_error(worst + in_image)[:most]
        if by_image:
            remarks.append(
                f"{name}: {found[name].root} has no original of {', '.join(by_image)}: specify "
                "the folder with --hr"
            )
    return found, worst, remarks


def _by_error(crops: Sequence[Crop]) -> list[Crop]:
    return sorted(crops, key=lambda crop: -crop.error)


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
        facts["LR images"] = {
            None: "8-bit, not stored in a file",
            "png": "through PNG files",
            "jpeg": f"through JPEG files{quality}",
        }[val.get("lr_format")]
    images = {(outcome.set, outcome.image) for outcome in results.outcomes}
    facts["Images"] = ", ".join(
        f"{name} ({sum(of_set == name for of_set, _ in images)})" for name in results.values("set")
    )
    facts["Scales"] = ", ".join(results.values("scale"))
    if val.get("protocol") == "float":
        facts["Protocol"] = "float: restored images are evaluated unrounded"
    return facts
