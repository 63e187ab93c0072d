"""The pages of the documentation: their blocks, their commands, and images to try them with."""

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from skimage import data

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLE = ROOT / "docs" / "extending.md"  # has its own data and files
OTHERS = [page for page in PAGES if page != EXAMPLE]


def blocks(page: Path, *languages: str) -> Iterator[tuple[str | None, str]]:
    """The fenced blocks in a language, each with the file name on the line above it, if any."""
    pattern = r"(?:^`([\w./]+)`:\n\n)?^```(\w+)\n(.*?)^```$"
    for name, language, content in re.findall(pattern, page.read_text(), re.M | re.S):
        if language in languages:
            yield name or None, content


def block_commands(page: Path) -> list[list[str]]:
    """The lines of shell blocks, in words and without comments."""
    lines = (
        line
        for _, content in blocks(page, "sh", "bash")
        for line in content.replace("\\\n", " ").splitlines()
    )
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def inline_commands(page: Path) -> list[list[str]]:
    """Complete commands in running text: more than a name, and without ".."."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    found = re.findall(r"`(rescale [^`]+|python (?:(?:basicsr|docs)/|-m rescale)[^`]+)`", prose)
    commands = [shlex.split(code) for code in found]
    return [
        words
        for words in commands
        if (len(words) > 2 or words[0] == "python") and ".." not in words
    ]


def option_file(words: Sequence[str]) -> str | None:
    return words[words.index("-opt") + 1] if "-opt" in words else None


def forced(words: Sequence[str]) -> list[str]:
    if "--force_yml" not in words:
        return []
    values = words[words.index("--force_yml") + 1 :]
    return list(values[: next((i for i, v in enumerate(values) if v.startswith("-")), None)])


def trains(words: Sequence[str]) -> bool:
    return "train" in words or any(word.endswith("/train.py") for word in words)


def hr_image(name: str, height: int, width: int) -> np.ndarray:
    """The top left of an image that scikit-image includes, (height, width, 3) of uint8."""
    return np.ascontiguousarray(getattr(data, name)()[:height, :width])
