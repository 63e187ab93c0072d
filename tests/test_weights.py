"""Checkpoints: canonical names, strict loading, safe reading, atomic writing."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from rescale_arch import AIDN
from rescale_arch.official_weights import aidn_config, canonical_weights, load_strictly
from rescale_data.atomic import replacing
from rescale_data.weight_file import fingerprint, read_weights, save_weights

TINY: dict[str, Any] = {"num_feat": 8, "num_block": 2, "adapt_interval": 1}


@pytest.fixture
def net() -> AIDN:
    torch.manual_seed(0)
    return AIDN(**TINY)


@pytest.mark.parametrize("form", ["bare", "params", "state_dict", "module", "jpeg"])
def test_released_and_saved_forms(net: AIDN, form: str, tmp_path: Path) -> None:
    state = net.state_dict()
    constants = {"module.jpeg.compress.y_table": torch.ones(8, 8)} if form == "jpeg" else {}
    prefixed = {f"module.{name}": value for name, value in state.items()} | constants
    checkpoint: dict[str, Any] = {
        "bare": dict(state),
        "params": {"params": state, "config": TINY},
        "state_dict": {"epoch": 300, "state_dict": state},
        "module": {"state_dict": prefixed},
        "jpeg": {"state_dict": prefixed},
    }[form]
    path = tmp_path / "net.pth.tar"
    torch.save(checkpoint, path)
    weights = canonical_weights(read_weights(path))
    assert weights.keys() == state.keys()
    other = AIDN(**TINY)
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
        TINY,
        {"num_feat": 16, "num_block": 8},
        {"num_feat": 8, "num_block": 10},
        {"num_feat": 8, "num_block": 3, "num_adapt_expert": 2, "num_crm_expert": 5},
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
    save_weights(path, net.state_dict(), config=TINY, notes={"data": "none"})
    checkpoint = read_weights(path)
    assert checkpoint["config"] == TINY
    assert fingerprint(canonical_weights(checkpoint)) == fingerprint(net.state_dict())
    assert os.listdir(tmp_path) == ["net.safetensors"]
    with pytest.raises(ValueError, match=r"weights are written as \.safetensors"):
        save_weights(tmp_path / "net.pth", net.state_dict())


class Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def test_a_hostile_pickle_does_not_run(tmp_path: Path) -> None:
    marker, path = tmp_path / "ran", tmp_path / "evil.pth"
    torch.save({"params": Hostile(marker)}, path)
    with pytest.raises(ValueError, match=r"evil\.pth: no checkpoint that can be loaded safely"):
        read_weights(path)
    path.write_bytes(pickle.dumps(Hostile(marker)))
    with pytest.raises(ValueError, match=r"evil\.pth: no checkpoint that can be loaded safely"):
        read_weights(path)
    assert not marker.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_files_are_named(net: AIDN, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"net{suffix}"
    if suffix == ".pth":
        torch.save(net.state_dict(), path)
    else:
        save_weights(path, net.state_dict())
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"\x80\x02}.", os.urandom(500)):
        path.write_bytes(content)
        try:
            canonical_weights(read_weights(path))
        except ValueError as error:
            assert "\n" not in str(error)
        else:
            pytest.fail(f"{content[:20]!r} was taken for weights")
    with pytest.raises(FileNotFoundError, match="missing"):
        read_weights(tmp_path / f"missing{suffix}")


def test_fingerprint_tells_weights_apart_but_not_formats(net: AIDN) -> None:
    state = net.state_dict()
    assert fingerprint(state) == fingerprint(dict(reversed(state.items())))
    counted = {k: v + 5 if k.endswith("num_batches_tracked") else v for k, v in state.items()}
    assert fingerprint(counted) == fingerprint(state)
    changed = dict(state, **{"up_net.tail.1.bias": state["up_net.tail.1.bias"] + 1e-6})
    assert fingerprint(changed) != fingerprint(state)


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="stop"), replacing(path) as temporary:
        Path(temporary).write_bytes(b"half")
        raise RuntimeError("stop")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file.bin"]
    with replacing(path) as temporary:
        Path(temporary).write_bytes(b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file.bin"]
