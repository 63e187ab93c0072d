"""Several processes on the CPU, by ``torchrun``."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from training import changed, command, logged, test, test_options, train_options, write_options

from rescale_arch import AIDN
from rescale_data.prepare import build_lmdb

pytestmark = pytest.mark.slow


def torchrun(folder: Path, kind: str, options: dict[str, Any]) -> None:
    path = write_options(folder / f"{kind}.yml", options)
    result = command(
        folder,
        *("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
        *("-m", "rescale_app.cli", kind, "-opt", path, "--launcher", "pytorch"),
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("ema_decay", [0, 0.5])
def test_two_processes_agree_with_one(tmp_path: Path, pictures: Path, ema_decay: float) -> None:
    build_lmdb(pictures, tmp_path / "train.lmdb")
    options = changed(
        train_options(tmp_path / "train.lmdb", pictures),
        {
            "train: total_iter": 6,
            "train: ema_decay": ema_decay,
            "train: optim_g: lr": 1e-2,
            "val: val_freq": 100,
            "logger: save_checkpoint_freq": 6,
            "manual_seed": ...,  # the ranks have to agree on one themselves
        },
    )
    torchrun(tmp_path, "train", options)
    experiment = tmp_path / "experiments" / "small"
    assert list(logged(experiment)) == list(range(1, 7))
    assert len(list(experiment.glob("train_*.log"))) == 1
    models = {path.name for path in (experiment / "models").iterdir()}
    assert models == {"net_g_6.pth", "net_g_latest.pth"}
    assert [path.name for path in (experiment / "training_states").iterdir()] == ["6.state"]

    # what the two have validated is what was saved, batch statistics included
    weights = experiment / "models" / "net_g_latest.pth"
    assert torch.load(weights)["params"]["down_net.sa_adapt.0.mask.1.num_batches_tracked"] == 6
    key = "params_ema" if ema_decay else "params"
    tests = changed(test_options(pictures, weights), {"path: param_key_g": key})
    alone = test(tmp_path, tests)
    in_training = experiment / "visualization" / "whole" / "metrics_6.json"
    summaries = [json.loads(path.read_text()) for path in (in_training, alone / "metrics.json")]
    assert [row["image"] for row in summaries[0]["images"]] == [
        "astronaut", "chelsea", "coffee", "rocket"
    ]  # fmt: skip
    for name, value in summaries[1]["mean"]["x2.5"].items():
        assert summaries[0]["mean"]["x2.5"][name] == pytest.approx(value, rel=1e-5), name


def test_two_processes_test_as_one_does(tmp_path: Path, pictures: Path) -> None:
    weights = tmp_path / "net.pth"
    torch.save(AIDN(num_feat=8, num_block=2, adapt_interval=1).state_dict(), weights)
    options = test_options(pictures, weights)
    torchrun(tmp_path, "test", options | {"name": "two"})
    two = tmp_path / "results" / "two" / "visualization" / "whole"
    one = test(tmp_path, options | {"name": "one"})
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}
    for path in one.iterdir():
        if path.suffix in (".csv", ".json"):
            assert (two / path.name).read_text() == path.read_text(), path.name
