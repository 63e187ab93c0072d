"""Weights: canonical names, strict loading, damaged files, fingerprints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_checkpoints import lightning_checkpoint
from tiny_networks import AIDN_TINY

from rescale_arch import AIDN
from rescale_arch.aidn.architecture import aidn_config
from rescale_arch.checkpoints import canonical_weights, load_strictly
from rescale_data.weight_file import fingerprint, read_weights, save_weights


@pytest.fixture
def net() -> AIDN:
    torch.manual_seed(0)
    return AIDN(**AIDN_TINY)


@pytest.mark.parametrize("form", ["bare", "params", "state_dict", "module", "jpeg"])
def test_released_and_saved_forms(net: AIDN, form: str, tmp_path: Path) -> None:
    state = net.state_dict()
    constants = {"module.jpeg.compress.y_table": torch.ones(8, 8)} if form == "jpeg" else {}
    prefixed = {f"module.{name}": value for name, value in state.items()} | constants
    checkpoint: dict[str, Any] = {
        "bare": dict(state),
        "params": {"params": state, "config": AIDN_TINY},
        "state_dict": {"epoch": 300, "state_dict": state},
        "module": {"state_dict": prefixed},
        "jpeg": {"state_dict": prefixed},
    }[form]
    path = tmp_path / "net.pth.tar"
    torch.save(checkpoint, path)
    weights = canonical_weights(read_weights(path))
    assert weights.keys() == state.keys()
    other = AIDN(**AIDN_TINY)
    load_strictly(other, weights, str(path))
    assert fingerprint(other.state_dict()) == fingerprint(state)


def test_averaged_weights_come_first_and_a_key_decides(net: AIDN) -> None:
    average = {name: value + 1 for name, value in net.state_dict().items()}
    checkpoint = {"params": net.state_dict(), "params_ema": average}
    name = "up_net.head.0.bias"
    assert torch.equal(canonical_weights(checkpoint)[name], average[name])
    assert torch.equal(canonical_weights(checkpoint, "params")[name], net.state_dict()[name])
    with pytest.raises(ValueError, match="no entry 'weights'; present: params, params_ema"):
        canonical_weights(checkpoint, "weights")


@pytest.mark.parametrize(
    "config",
    [
        AIDN_TINY,
        {"num_feat": 16, "num_block": 8},
        {"num_feat": 8, "num_block": 10},
        {"num_feat": 8, "num_block": 3, "num_adapt_expert": 2, "num_crm_expert": 5},
        {"num_feat": 8, "num_block": 2, "down_unshuffle": 2, "down_num_feat": 16},
        {"num_feat": 16, "num_block": 4, "down_unshuffle": 3},
        {"num_feat": 8, "num_block": 2, "down_num_feat": 16, "fixed_scale": 2},
        {"num_feat": 8, "num_block": 2, "fixed_scale": 2},
        {"num_feat": 8, "num_block": 2, "fixed_scale": 3},
        {"num_feat": 8, "num_block": 1, "fixed_scale": 4},
    ],
)
def test_config_is_read_from_the_shapes(config: dict[str, Any]) -> None:
    torch.manual_seed(0)
    net = AIDN(**config).eval()
    twin = AIDN(**aidn_config(net.state_dict())).eval()
    load_strictly(twin, net.state_dict(), "twin")
    hr = torch.rand(1, 3, 24, 24)
    scale = config.get("fixed_scale", 2.5)
    with torch.inference_mode():
        for ours, theirs in zip(twin(hr, scale), net(hr, scale), strict=True):
            assert torch.equal(ours, theirs)


def test_foreign_weights_are_refused() -> None:
    with pytest.raises(ValueError, match=r"not the weights of an AIDN; present: conv\.weight"):
        aidn_config({"conv.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="not a state dict; present: epoch"):
        canonical_weights({"epoch": 3})


def test_strict_loading_lists_everything_and_loads_nothing(net: AIDN) -> None:
    before = fingerprint(net.state_dict())
    weights = {name: value + 1 for name, value in net.state_dict().items()}
    del weights["up_net.head.0.bias"]
    weights["extra"] = torch.zeros(1)
    weights["up_net.tail.1.bias"] = torch.zeros(4)
    with pytest.raises(ValueError, match=r"some\.pth does not fit AIDN") as caught:
        load_strictly(net, weights, "some.pth")
    assert "1 missing: up_net.head.0.bias" in str(caught.value)
    assert "1 unexpected: extra" in str(caught.value)
    assert "up_net.tail.1.bias (4,) for (3,)" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert fingerprint(net.state_dict()) == before


def test_safetensors_round_trip(net: AIDN, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_weights(path, net.state_dict(), config=AIDN_TINY, notes={"data": "none"})
    checkpoint = read_weights(path)
    assert checkpoint["config"] == AIDN_TINY
    assert fingerprint(canonical_weights(checkpoint)) == fingerprint(net.state_dict())
    assert os.listdir(tmp_path) == ["net.safetensors"]
    with pytest.raises(ValueError, match=r"weights are written as \.safetensors"):
        save_weights(tmp_path / "net.pth", net.state_dict())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_files_are_named(net: AIDN, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"net{suffix}"
    if suffix == ".pth":
        torch.save(net.state_dict(), path)
    else:
        save_weights(path, net.state_dict())
    whole = path.read_bytes()
    contents = [whole[: len(whole) // 2], b"", b"\x80\x02}.", os.urandom(500)]
    if suffix == ".pth":  # a zip file whose directory is said to be before its start
        contents.append(whole[:-50] + b"\xff" * 8 + whole[-42:])
    for content in contents:
        path.write_bytes(content)
        try:
            canonical_weights(read_weights(path))
        except ValueError as error:
            assert "\n" not in str(error)
        else:
            pytest.fail(f"{content[:20]!r} was taken for weights")
    with pytest.raises(FileNotFoundError, match="missing"):
        read_weights(tmp_path / f"missing{suffix}")


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file whose reading fails")
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_cannot_be_read_is_an_error_of_the_system(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"net{suffix}"
    path.symlink_to("/proc/self/mem")  # can be opened; reading its start is an input/output error
    with pytest.raises(OSError, match=rf"net{suffix}") as caught:
        read_weights(path)
    assert "checkpoint" not in str(caught.value)


LITTLE_MEMORY = """
import resource, sys
import torch
from rescale_data.weight_file import read_weights
torch.zeros(10) + 1  # what PyTorch needs for itself
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
size = int(status["VmSize"].split()[0]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size + int(sys.argv[2]),) * 2)
try:
    read_weights(sys.argv[1])
except MemoryError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of memory")
@pytest.mark.parametrize("form", ["zip.pth", "legacy.pth", "lightning.ckpt", "net.safetensors"])
def test_too_little_memory_is_not_blamed_on_the_file(tmp_path: Path, form: str) -> None:
    path, weights = tmp_path / form, {"w": torch.zeros(10**7)}
    if form == "lightning.ckpt":
        lightning_checkpoint(path, dict(weights))
    elif form == "net.safetensors":
        save_weights(path, weights)
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=form == "zip.pth")
    # safetensors maps its file into memory twice
    for room in (10 * 2**20, 50 * 2**20) if form == "net.safetensors" else (10 * 2**20,):
        result = subprocess.run(
            [sys.executable, "-c", LITTLE_MEMORY, path, str(room)], capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith(f"{path}: not enough memory to load it"), result


def test_fingerprint_tells_weights_apart_but_not_formats(net: AIDN) -> None:
    state = net.state_dict()
    assert fingerprint(state) == fingerprint(dict(reversed(state.items())))
    counted = {k: v + 5 if k.endswith("num_batches_tracked") else v for k, v in state.items()}
    assert fingerprint(counted) == fingerprint(state)
    changed = dict(state, **{"up_net.tail.1.bias": state["up_net.tail.1.bias"] + 1e-6})
    assert fingerprint(changed) != fingerprint(state)
