"""Option files: those of the project, and what is no option file or does harm."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from training import PLUGIN, changed, write_options

import rescale_model  # noqa: F401  registers
from rescale_model.options import check_options, read_options

OPTION_FILES = sorted((Path(__file__).parents[2] / "options").glob("*/*.yml"))


@pytest.mark.parametrize("path", OPTION_FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_option_files_are_valid_except_for_the_data(path: Path, tmp_path: Path) -> None:
    options = read_options(str(path))
    assert options["plugin"] == "rescale_model.register"
    lmdb = tmp_path / "data.lmdb"
    lmdb.mkdir()
    for name in ("data.mdb", "meta_info.txt"):
        (lmdb / name).touch()
    for dataset in options["datasets"].values():
        in_lmdb = dataset.get("io_backend") == {"type": "lmdb"}
        dataset["dataroot_gt"] = str(lmdb if in_lmdb else tmp_path)
    for key, value in options["path"].items():
        if key.startswith("pretrain_network") and value:
            options["path"][key] = str(tmp_path)
    check_options(
        str(write_options(tmp_path / path.name, changed(options, {"plugin": ...}))),
        is_train=path.parent.name == "train",
    )


def test_there_are_options_for_training_and_for_testing() -> None:
    assert {path.parent.name for path in OPTION_FILES} == {"train", "test"}


def test_no_code_in_the_file_is_executed(valid_train: dict[str, Any], tmp_path: Path) -> None:
    witness = tmp_path / "executed"
    path = tmp_path / "hostile.yml"
    path.write_text(
        yaml.safe_dump(valid_train) + f'evil: !!python/object/apply:os.system ["touch {witness}"]\n'
    )
    yaml.unsafe_load(path.read_text())
    assert witness.exists(), "the file does nothing when it is trusted: this test shows nothing"
    witness.unlink()
    for reader in (read_options, lambda path: check_options(path, is_train=True)):
        with pytest.raises(ValueError, match=r"hostile\.yml: .*os\.system"):
            reader(str(path))
        assert not witness.exists()


@pytest.mark.parametrize(
    "content",
    [b"- a list", b"", b"name: [open", b"name: \xff\xfe", b"day: 2001-13-01", b"{a: 1}: 2\n? [b]"],
)
def test_a_file_that_is_not_an_option_file(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "odd.yml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"odd\.yml: "):
        check_options(str(path), is_train=True)


def test_a_missing_file() -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        check_options("nowhere.yml", is_train=True)


def test_the_plugin_line_is_accepted(valid_train: dict[str, Any], tmp_path: Path) -> None:
    path = write_options(tmp_path / "options.yml", valid_train)
    assert path.read_text().startswith(PLUGIN)
    assert read_options(str(path)) == {**valid_train, "plugin": "rescale_model.register"}
