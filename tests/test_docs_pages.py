"""What the documentation refers to exists, and what it quotes is up to date."""

import json
import re
import runpy
from pathlib import Path

import pytest
import yaml
from documentation import PAGES, ROOT


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", page.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        path = page.parent / target if target else page
        assert path.exists(), f"{page.name}: {target}"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
            slugs = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
            assert anchor in slugs, f"{page.name}: {target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_of_the_project_exist(page: Path) -> None:
    rooms = "rescale_(?:app|arch|compat|data|model)|tests|benchmarks|docs|options|tools"
    for path in re.findall(rf"`((?:{rooms})/[\w./-]+)`", page.read_text()):
        assert (ROOT / path).exists(), f"{page.name}: {path}"


def test_the_option_reference_is_up_to_date() -> None:
    generator = runpy.run_path(str(ROOT / "docs" / "generate_options.py"))
    page = (ROOT / "docs" / "options.md").read_text()
    assert page == generator["reference"](), "run: python docs/generate_options.py"


def test_every_option_has_a_line_of_text() -> None:
    page = (ROOT / "docs" / "options.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \| [^|]+ \| [^|]* \| (.*) \|$", page, re.M)
    assert len(rows) > 100
    assert [name for name, text in rows if not text] == []


def test_conda_installs_the_same_packages() -> None:
    text = (ROOT / "environment.yml").read_text()
    assert {"pytorch>=2.4", "torchvision", "pip"} <= set(yaml.safe_load(text)["dependencies"])
    commands = [line.strip("# ") for line in text.splitlines() if line.startswith("#   ")]
    readme = (ROOT / "README.md").read_text()
    assert len(commands) == 2
    for command in commands:
        assert f"\n{command}\n" in readme


def test_the_citation_names_both_papers() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    readme = " ".join((ROOT / "README.md").read_text().split())
    titles = [reference["title"] for reference in citation["references"]]
    assert len(titles) == 2
    for title in titles:
        assert f"*{title}*" in readme


def test_the_readme_quotes_what_was_measured() -> None:
    """Time and memory of README.md are those of a results file in the repository."""
    section = (ROOT / "README.md").read_text().partition("\n## Speed and memory\n")[2]
    section = section.partition("\n## ")[0]
    (path,) = re.findall(r"\((benchmarks/results/[\w.-]+\.json)\)", section)
    measured = {
        (f"{row['seconds']:.1f}", f"{row['MiB']:.0f}")
        for table in json.loads((ROOT / path).read_text())["tables"]
        for row in table["rows"]
        if "MiB" in row
    }
    quoted = re.findall(r"([\d.]+) s, (\d+) MiB", section)
    assert len(quoted) >= 12
    assert set(quoted) <= measured
