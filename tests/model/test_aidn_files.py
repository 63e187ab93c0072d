"""Weights of AIDN in and out: forms of files, wrong ones, saving and resuming."""

import os
import pickle
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_checkpoints import Hostile
from tiny_networks import AIDN_TINY, tiny_aidn
from torch import Tensor
from training import Make, changed, model_options, same, step, test_options

from rescale_arch import AIDN
from rescale_data.weight_file import save_weights
from rescale_model.models.aidn import AIDNModel

Weights = dict[str, Tensor]


@pytest.fixture
def load(hr_folder: Path, tmp_path: Path) -> Callable[..., Weights]:
    """Loads a file as a test does and returns the network's weights."""

    def run(path: Path, **entries: Any) -> Weights:
        options = changed(
            test_options(hr_folder, path), {"path": {"pretrain_network_g": str(path)}}
        )
        options["path"] |= entries
        model = AIDNModel(model_options(options, tmp_path, is_train=False))
        weights: Weights = model.net_g.state_dict()
        return weights

    return run


# loading ----------------------------------------------------------------------------------------


def test_the_authors_form(load: Callable[..., Weights], tmp_path: Path) -> None:
    weights = tiny_aidn(1).state_dict()
    entries = {f"module.{name}": value for name, value in weights.items()}
    entries["module.jpeg.compress.l1.bias"] = torch.zeros(3)
    path = tmp_path / "authors.pth.tar"
    torch.save({"epoch": 300, "state_dict": entries}, path)
    for param_key in ("params", "params_ema", "state_dict"):
        assert same(load(path, param_key_g=param_key), weights)


def test_both_networks_of_basicsr(load: Callable[..., Weights], tmp_path: Path) -> None:
    trained, average = tiny_aidn(1).state_dict(), tiny_aidn(2).state_dict()
    path = tmp_path / "net_g_5.pth"
    torch.save({"params": trained, "params_ema": average}, path)
    assert same(load(path), trained)
    assert same(load(path, param_key_g="params"), trained)
    assert same(load(path, param_key_g="params_ema"), average)
    with pytest.raises(ValueError, match=r"net_g_5\.pth: no entry 'weights'; present: params"):
        load(path, param_key_g="weights")


def test_the_only_weights_are_taken_by_either_name(
    load: Callable[..., Weights], tmp_path: Path
) -> None:
    weights = tiny_aidn(1).state_dict()
    for key in ("params", "params_ema"):
        torch.save({key: weights}, tmp_path / "one.pth")
        for param_key in ("params", "params_ema"):
            assert same(load(tmp_path / "one.pth", param_key_g=param_key), weights)


def test_safetensors_and_bare_state_dicts(load: Callable[..., Weights], tmp_path: Path) -> None:
    weights = tiny_aidn(1).state_dict()
    save_weights(tmp_path / "net.safetensors", weights, AIDN_TINY)
    torch.save(weights, tmp_path / "bare.pth")
    for name in ("net.safetensors", "bare.pth"):
        assert same(load(tmp_path / name), weights)


def test_entries_that_do_not_match_are_listed(load: Callable[..., Weights], tmp_path: Path) -> None:
    weights = tiny_aidn(1).state_dict()
    lost = weights.pop("up_net.head.0.bias")
    weights["up_net.head.0.bais"] = lost
    weights["down_net.head.0.bias"] = torch.zeros(3)
    path = tmp_path / "odd.pth"
    torch.save({"params": weights}, path)
    with pytest.raises(ValueError) as caught:
        load(path)
    message = str(caught.value)
    assert "odd.pth does not fit AIDN" in message
    assert "1 missing: up_net.head.0.bias" in message
    assert "1 unexpected: up_net.head.0.bais" in message
    assert "down_net.head.0.bias (3,) for (8,)" in message


def test_matching_entries_are_loaded_from_a_fixed_scale(
    make_aidn: Make, tmp_path: Path, load: Callable[..., Weights]
) -> None:
    fixed = tiny_aidn(1, fixed_scale=4).state_dict()
    path = tmp_path / "x4.pth"
    torch.save({"params": fixed}, path)
    with pytest.raises(ValueError, match=r"x4\.pth does not fit AIDN: .* missing: .*sa_adapt"):
        load(path)
    fresh = make_aidn().net_g.state_dict()
    model = make_aidn(path__pretrain_network_g=str(path), path__strict_load_g=False)
    loaded = model.net_g.state_dict()
    shared = {name for name in loaded if name in fixed and fixed[name].shape == loaded[name].shape}
    assert {"down_net.head.0.weight", "up_net.body.0.body.0.weight"} <= shared < loaded.keys()
    for name, value in loaded.items():
        assert torch.equal(value, fixed[name] if name in shared else fresh[name]), name
    # the average starts where the network does, in the entries of either kind
    assert same(model.net_g_ema.state_dict(), loaded)


def test_weights_without_common_entries_are_rejected(make_aidn: Make, tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"params": {"conv.weight": torch.zeros(3, 3)}}, path)
    with pytest.raises(ValueError, match=r"other\.pth shares no entry with AIDN"):
        make_aidn(path__pretrain_network_g=str(path), path__strict_load_g=False)


def test_a_hostile_file_is_not_executed(load: Callable[..., Weights], tmp_path: Path) -> None:
    witness = tmp_path / "executed"
    pickle.loads(pickle.dumps(Hostile(witness)))
    assert witness.exists(), "it does nothing when it is trusted: this test shows nothing"
    witness.unlink()
    torch.save({"params": tiny_aidn(1).state_dict(), "x": Hostile(witness)}, tmp_path / "evil.pth")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Hostile(witness), protocol=2))
    for name in ("evil.pth", "evil.pkl"):
        with pytest.raises(ValueError, match=name):
            load(tmp_path / name)
        assert not witness.exists()


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04cut"])
def test_a_broken_file_is_named(
    load: Callable[..., Weights], tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "broken.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.pth"):
        load(tmp_path / "broken.pth")


def test_a_missing_file_is_named(load: Callable[..., Weights], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        load(tmp_path / "nowhere.pth")


# saving -----------------------------------------------------------------------------------------


def test_a_checkpoint_holds_both_networks_and_their_config(
    make_aidn: Make, tmp_path: Path, load: Callable[..., Weights]
) -> None:
    model = make_aidn()
    step(model, 1)
    model.save(0, 1)
    path = tmp_path / "models" / "net_g_1.pth"
    checkpoint = torch.load(path)
    assert checkpoint.keys() == {"config", "params", "params_ema"}
    assert checkpoint["config"] == AIDN_TINY
    assert same(checkpoint["params"], model.net_g.state_dict())
    assert same(load(path, param_key_g="params_ema"), model.net_g_ema.state_dict())
    AIDN(**checkpoint["config"]).load_state_dict(checkpoint["params"])
    model.save(-1, -1)
    assert same(load(tmp_path / "models" / "net_g_latest.pth"), model.net_g.state_dict())
    assert os.listdir(tmp_path / "training_states") == ["1.state"]


@pytest.mark.parametrize("strict", [True, False])
def test_resuming_brings_everything_back(make_aidn: Make, tmp_path: Path, strict: bool) -> None:
    model = make_aidn()
    for iteration in (1, 2, 3):
        model.update_learning_rate(iteration)
        step(model, iteration, seed=iteration)
    model.save(0, 3)
    again = make_aidn(
        path__pretrain_network_g=str(tmp_path / "models" / "net_g_3.pth"),
        path__strict_load_g=strict,  # as after a start from a fixed scale
    )
    again.resume_training(torch.load(tmp_path / "training_states" / "3.state"))
    assert same(again.net_g_ema.state_dict(), model.net_g_ema.state_dict())
    for one in (model, again):
        one.update_learning_rate(4)
        step(one, 4, seed=4)
    assert same(again.net_g.state_dict(), model.net_g.state_dict())
    assert same(again.net_g_ema.state_dict(), model.net_g_ema.state_dict())
    assert again.get_current_learning_rate() == model.get_current_learning_rate()


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Files of this process cannot grow over ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_older_files_whole(make_aidn: Make, tmp_path: Path) -> None:
    model = make_aidn()
    step(model, 1)
    for iteration in (1, -1):
        model.save(0, iteration)
    old = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    step(model, 2)
    for save, name in (
        (lambda: model.save(0, 1), "net_g_1.pth"),
        (lambda: model.save(-1, -1), "net_g_latest.pth"),
        (lambda: model.save_training_state(0, 1), "1.state"),
    ):
        with full_disk(5000), pytest.raises(OSError, match="File too large") as caught:
            save()
        assert name in str(caught.value)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == old


def test_a_folder_that_cannot_be_written_is_named(make_aidn: Make, tmp_path: Path) -> None:
    model = make_aidn()
    (tmp_path / "models").rmdir()
    with pytest.raises(FileNotFoundError, match=r"models/net_g_1\.pth"):
        model.save(0, 1)
    (tmp_path / "models").touch()
    with pytest.raises(NotADirectoryError, match=r"models/net_g_1\.pth"):
        model.save(0, 1)
    assert not list((tmp_path / "training_states").iterdir())
