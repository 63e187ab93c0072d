"""Reports of tests, parsed, and the tests that they are made from."""

import base64
import math
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import training
from training import changed

from rescale_app import cli
from rescale_data.image_file import decode_image, read_image

ODD = "odd <i>&'\" name"
SCALES = {"x1.5": 1.5, "x2.5": 2.5, "x1.5x3": [1.5, 3]}
METRICS = {
    "psnr_y": {"type": "calculate_psnr", "test_y_channel": True},
    "ssim": {"type": "calculate_ssim"},
    "lr_psnr": {"type": "calculate_psnr", "image": "lr"},
    "bicubic_psnr_y": {"type": "calculate_psnr", "test_y_channel": True, "image": "bicubic"},
}
LAYERS = [
    "Original", "Restored x2.5", "Bicubic x2.5", "Error: Restored x2.5", "Error: Bicubic x2.5",
    "LR x2.5",
]  # fmt: skip


@dataclass
class Part:
    """A crop or the article of an image: its texts, dividers and tables."""

    text: list[str] = field(default_factory=list)
    dividers: list[list[dict[str, str | None]]] = field(default_factory=list)
    tables: list[list[list[str]]] = field(default_factory=list)


class Report(HTMLParser):
    """A parsed report."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.whole = Part()
        self.articles: list[Part] = []
        self.crops: list[Part] = []
        self.attributes: list[tuple[str, str]] = []
        self.plots: list[str] = []
        self._open: list[Part] = [self.whole]
        self._in_cell = False
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]
        given = dict(attrs)
        for found, parts in (
            (tag == "article", self.articles),
            (given.get("class") == "crop", self.crops),
        ):
            if found:
                self._open.append(Part())
                parts.append(self._open[-1])
        for part in self._open:
            if tag == "rescale-compare":
                part.dividers.append([])
            elif tag == "img":
                part.dividers[-1].append(given)
            elif tag == "table":
                part.tables.append([])
            elif tag == "tr":
                part.tables[-1].append([])
            elif tag in ("th", "td"):
                part.tables[-1][-1].append("")
        self._in_cell = tag in ("th", "td")
        if tag == "svg":
            self.plots.append(given["aria-label"] or "")

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = False
        is_crop = self._open[-1] in self.crops
        if tag == ("figure" if is_crop else "article") and len(self._open) > 1:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        for part in self._open:
            part.text.append(data)
            if part.tables and part.tables[-1] and part.tables[-1][-1] and self._in_cell:
                part.tables[-1][-1][-1] += data


def pixels(layer: dict[str, str | None]) -> np.ndarray:
    return decode_image(file_of(layer), "layer")


def file_of(layer: dict[str, str | None]) -> bytes:
    head, _, content = (layer["src"] or "").partition(",")
    assert head == "data:image/png;base64"
    return base64.b64decode(content, validate=True)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.mean((a.astype(np.float64) - b) ** 2)
    return 10 * math.log10(255**2 / error) if error else math.inf


def run_test(folder: Path, weights: str, **changes: Any) -> Path:
    """The results of a test of what is in ``folder / "data"``, run in ``folder``."""
    options = training.test_options(Path("data"), Path(weights))
    changes = {"val: scales": list(SCALES.values()), "val: metrics": METRICS} | changes
    return training.test(folder, changed(options, changes)).parents[1]


def reported(*arguments: object) -> Report:
    """The page of a report that must succeed."""
    assert cli.main(["report", *map(str, arguments)]) == 0
    results = Path(str(arguments[0]))
    return Report(results / "report.html")


def original(tested: Path, image: str) -> np.ndarray:
    whole = read_image(tested / "data" / f"{image}.png")
    height, width = (side // 12 * 12 for side in whole.shape[:2])
    return whole[:height, :width]


def images_folder(results: Path) -> Path:
    return results / "visualization" / "whole"
