"""``rescale weights``: inspecting files, and importing those of others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_checkpoints import Hostile, lightning_checkpoint
from safetensors import safe_open
from torch import Tensor, nn

from rescale_app import Rescaler
from rescale_app.cli import main
from rescale_app.included_weights import included_weights
from rescale_app.weight_import import import_weights, load_weights
from rescale_arch import AIDN, VQGAN, VQIR
from rescale_arch.checkpoints import canonical_weights
from rescale_arch.vqgan.architecture import swap_color_order
from rescale_data.weight_file import fingerprint, read_weights, save_weights

SMALL: dict[str, Any] = {"num_feat": 8, "num_block": 4, "num_adapt_expert": 2}
BOOK: dict[str, Any] = {
    "ch": 32,
    "ch_mult": (1, 1, 1, 1, 1),
    "num_res_blocks": 1,
    "z_channels": 32,
    "embed_dim": 32,
    "n_embed": 32,
}


def prefixed(net: nn.Module, **constants: Tensor) -> dict[str, Tensor]:
    """As `DataParallel` names its entries."""
    entries = {**net.state_dict(), **constants}
    return {f"module.{name}": value for name, value in entries.items()}


def released(kind: str, folder: Path) -> tuple[Path, nn.Module]:
    """A file as the networks' authors, BasicSR or this project write it, and its network."""
    torch.manual_seed(1)
    if kind == "vqgan":
        net: nn.Module = VQGAN(**BOOK)
        lost = {"loss.discriminator.main.0.weight": torch.zeros(1)}
        path = folder / "last.ckpt"
        lightning_checkpoint(path, {**net.state_dict(), **lost})
    elif kind.startswith("vqir"):
        stage = int(kind[-1])
        net = VQIR(16, stage, **BOOK)  # type: ignore[arg-type]
        unused = {"refine.refine_out.0.temb_proj.weight": torch.zeros(4, 4)} if stage == 2 else {}
        path = folder / f"stage{stage}.pth"
        torch.save({"params": {**net.state_dict(), **unused}}, path)
    elif kind == "basicsr":
        net = AIDN(**SMALL, res_scale=0.5)
        first = {name: value + 1 for name, value in net.state_dict().items()}
        path = folder / "net_g_latest.pth"
        config = {**SMALL, "res_scale": 0.5}
        torch.save({"config": config, "params": first, "params_ema": net.state_dict()}, path)
    else:
        net = AIDN(**SMALL)
        constants = {"jpeg.compress.y_table": torch.ones(8, 8)} if kind == "aidn+" else {}
        path = folder / f"{kind}.pth.tar"
        torch.save({"epoch": 3, "state_dict": prefixed(net, **constants)}, path)
    return path, net


@pytest.mark.parametrize("kind", ["aidn", "aidn+", "basicsr", "vqgan", "vqir1", "vqir2"])
@pytest.mark.parametrize("half", [False, True])
def test_released_files_are_imported(
    kind: str, half: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, net = released(kind, tmp_path)
    target = tmp_path / "out.safetensors"
    assert main(["weights", "import", str(path), str(target), *(["--fp16"] if half else [])]) == 0
    said = capsys.readouterr().out
    checkpoint = read_weights(target)
    stored = canonical_weights(checkpoint)
    expected = {
        name: value.half() if half and value.is_floating_point() else value
        for name, value in net.state_dict().items()
    }
    assert stored.keys() == expected.keys()
    assert all(torch.equal(stored[name], value) for name, value in expected.items())
    assert ("float16" if half else "float32") in said and fingerprint(stored) in said
    rebuilt = type(net)(**checkpoint["config"])
    rebuilt.load_state_dict(stored)
    assert checkpoint["config"].get("jpeg_quality") == (90 if kind == "aidn+" else None)
    assert checkpoint["config"].get("res_scale") == {"basicsr": 0.5, "aidn": 1, "aidn+": 1}.get(
        kind
    )
    with safe_open(target, framework="pt") as file:
        assert file.metadata()["imported_from"] == path.name
    title = {"vqgan": "VQGAN", "aidn+": "AIDN+"}.get(kind, "AIDN")
    assert (f"VQIR x16, stage {kind[-1]}" if "vqir" in kind else title) in said
    assert {file.name for file in tmp_path.iterdir()} == {path.name, target.name}


def test_an_imported_file_restores_like_the_first(tmp_path: Path) -> None:
    path, _ = released("basicsr", tmp_path)
    target = tmp_path / "out.safetensors"
    import_weights(path, target)
    image = torch.rand(20, 24, 3).numpy()
    first, second = Rescaler(path), Rescaler(target)
    assert first.fingerprint == second.fingerprint
    assert (first.downscale(image, 2).pixels == second.downscale(image, 2).pixels).all()


def test_a_key_chooses(tmp_path: Path) -> None:
    path, _ = released("basicsr", tmp_path)
    target = tmp_path / "out.safetensors"
    assert main(["weights", "import", str(path), str(target), "--key", "params"]) == 0
    checkpoint = torch.load(path)
    assert fingerprint(load_weights(target).weights) == fingerprint(checkpoint["params"])
    assert fingerprint(load_weights(path).weights) == fingerprint(checkpoint["params_ema"])


def test_bgr_weights_become_rgb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, net = released("vqir1", tmp_path)
    target = tmp_path / "out.safetensors"
    command = ["weights", "import", str(path), str(target), "--color-order", "bgr"]
    assert main(command) == 0
    written = load_weights(target).weights
    assert fingerprint(written) == fingerprint(swap_color_order(net.state_dict()))
    assert fingerprint(written) != fingerprint(net.state_dict())
    path, _ = released("aidn", tmp_path)
    command[2] = str(path)
    assert main(command) == 1
    assert "AIDN is trained on RGB images" in capsys.readouterr().err


def test_entries_that_share_memory_are_imported(tmp_path: Path) -> None:
    net = AIDN(**SMALL)
    flat = torch.cat([value.flatten().float() for value in net.state_dict().values()])
    entries, start = {}, 0
    for name, value in net.state_dict().items():
        part = flat[start : start + value.numel()].view(value.shape)
        entries[name] = part if value.is_floating_point() else value
        start += value.numel()
    torch.save(entries, tmp_path / "flat.pth")
    written = import_weights(tmp_path / "flat.pth", tmp_path / "out.safetensors")
    assert fingerprint(written.weights) == fingerprint(net.state_dict())


def broken(kind: str, folder: Path) -> tuple[list[str], str]:
    """Arguments of an import that must fail, and its message."""
    path, net = released("aidn", folder)
    entries = net.state_dict()
    out = str(folder / "out.safetensors")
    match kind:
        case "missing file":
            return [str(folder / "none.pth"), out], "none.pth: No such file"
        case "missing entry":
            del entries["up_net.head.0.bias"]
            torch.save(entries, path)
            return [str(path), out], "1 missing: up_net.head.0.bias"
        case "another shape":
            torch.save({**entries, "up_net.head.0.bias": torch.zeros(9)}, path)
            return [str(path), out], "up_net.head.0.bias (9,) for (8,)"
        case "another network":
            torch.save(nn.Conv2d(3, 3, 3).state_dict(), path)
            return (
                [str(path), out],
                "not the weights of any known network (AIDN, VQGAN, ",
            )
        case "unknown keyword":
            torch.save({"params": entries, "config": {"width": 3}}, path)
            return [str(path), out], "AIDN has no keyword width"
        case "no config":
            torch.save({"params": entries, "config": [1]}, path)
            return [str(path), out], "its config is a list"
        case "no key":
            return [str(path), out, "--key", "params"], "no entry 'params'; present: epoch"
        case "too large":
            torch.save({**entries, "up_net.head.0.bias": torch.full((8,), 1e6)}, path)
            return [str(path), out, "--fp16"], "up_net.head.0.bias exceeds the range of float16"
        case "another suffix":
            return [str(path), str(folder / "out.pth")], "out.pth: the name must end in"
        case "the source":
            save_weights(out, entries)
            return [out, out], "is the file to import"
        case _:
            return [str(path), str(folder / "no" / "out.safetensors")], "No such file or directory"


@pytest.mark.parametrize(
    "kind",
    [
        "missing file", "missing entry", "another shape", "another network", "unknown keyword",
        "no config", "no key", "too large", "another suffix", "the source", "no folder",
    ],
)  # fmt: skip
def test_import_errors_are_reported_in_a_line(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, reason = broken(kind, tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert main(["weights", "import", *arguments]) == 1
    said = capsys.readouterr().err
    assert said.startswith("rescale: error: ") and said.count("\n") == 1
    assert reason in said
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("command", ["import", "info"])
def test_a_hostile_pickle_does_not_run(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marker, path = tmp_path / "ran", tmp_path / "evil.pth"
    torch.save({"params": Hostile(marker)}, path)
    out = [str(tmp_path / "out.safetensors")] if command == "import" else []
    assert main(["weights", command, str(path), *out]) == 1
    assert "evil.pth: not a checkpoint that can be loaded safely" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["evil.pth"]


def test_a_file_that_does_not_read_back_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = released("aidn", tmp_path)

    def wrong(target: str, weights: dict[str, Tensor], *rest: Any) -> None:
        save_weights(target, {**weights, "up_net.head.0.bias": torch.zeros(8)}, *rest)

    monkeypatch.setattr("rescale_app.weight_import.save_weights", wrong)
    with pytest.raises(OSError, match=r"out\.safetensors: the written file differs"):
        import_weights(path, tmp_path / "out.safetensors")
    assert os.listdir(tmp_path) == [path.name]


# what there is ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["aidn", "aidn+", "basicsr", "vqgan", "vqir2"])
def test_info_shows_the_contents_of_a_file(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, net = released(kind, tmp_path)
    assert main(["weights", "info", str(path)]) == 0
    lines = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    lines = {name: value.strip() for name, value in lines.items()}
    assert lines["fingerprint"] == fingerprint(net.state_dict())
    assert lines["parameters"] == f"{sum(p.numel() for p in net.parameters()):,}"
    assert lines["precision"] == "float32"
    assert lines["file"].startswith(f"{path} (")
    number = {"vqgan": "n_embed=32", "vqir2": "stage=2", "basicsr": "res_scale=0.5"}
    assert number.get(kind, "num_adapt_expert=2") in lines["constructor"]


def test_included_weights_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "list"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "network", "parameters", "size", "fingerprint"]
    assert [line.split()[0] for line in lines] == included_weights()
    assert ["(default)" in line for line in lines] == [True] + [False] * (len(lines) - 1)
    assert Rescaler(device="cpu").fingerprint in lines[0]


def test_included_weights_have_names(capsys: pytest.CaptureFixture[str]) -> None:
    name = included_weights()[0]
    assert main(["weights", "info", name]) == 0
    said = capsys.readouterr().out
    assert Rescaler(name, device="cpu").fingerprint in said
    assert "title:" in said and "data:" in said
    assert main(["weights", "info", "aidn-tiny"]) == 1
    assert (
        f"aidn-tiny: no such weights file, and not the name of included weights (available: {name}"
        in (capsys.readouterr().err)
    )


def test_an_installation_without_weights(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rescale_app.commands.weights.included_weights", list)
    assert main(["weights", "list"]) == 0
    assert capsys.readouterr().out == "this installation includes no weights\n"


@pytest.mark.parametrize("arguments", [[], ["drop"], ["import", "a.pth"], ["info"]])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1
