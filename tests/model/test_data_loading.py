"""How a run loads its data: formats, workers, and few images."""

from pathlib import Path
from typing import Any

import pytest
import torch
from training import Options, changed, logged, train

from rescale_data.weight_file import fingerprint
from rescale_model import runner


def test_images_in_eight_bits_train_the_same_network(
    thirty_iterations: Options, tmp_path: Path
) -> None:
    results = []
    for dtype in ("float32", "uint8"):
        changes = {f"datasets: {phase}: dtype": dtype for phase in ("train", "val")}
        short = {"name": dtype, "train: total_iter": 4, "val: val_freq": 4}
        train(tmp_path, changed(thirty_iterations, changes | short))
        experiment = tmp_path / "experiments" / dtype
        weights = torch.load(experiment / "models" / "net_g_latest.pth")["params"]
        metrics = experiment / "visualization" / "whole" / "metrics_4.json"
        results.append((fingerprint(weights), metrics.read_text()))
    assert results[0] == results[1]


@pytest.mark.parametrize("given", [{}, {"persistent_workers": False, "pin_memory": False}])
def test_defaults_of_data_loading(
    given: Options, four_iterations: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = runner.create_train_val_dataloader
    found = []

    def create(*args: Any) -> Any:
        found.extend([(loaders := original(*args))[0].persistent_workers, loaders[0].pin_memory])
        return loaders

    monkeypatch.setattr(runner, "create_train_val_dataloader", create)
    changes = {"num_worker_per_gpu": 1, **given}
    train(
        tmp_path, changed(four_iterations, {f"datasets: train: {k}": v for k, v in changes.items()})
    )
    assert found == [not given, False]
    for on_gpu in (False, True):
        dataset = {"num_worker_per_gpu": 0, **given}
        runner._set_loading_defaults(dataset, on_gpu)
        assert dataset["pin_memory"] == (on_gpu and not given)
        assert not dataset["persistent_workers"]


def test_a_thread_that_prefetches_has_no_persistent_workers(
    four_iterations: Options, tmp_path: Path
) -> None:
    """They share one iterator across epochs, which the threads of two epochs would use at once."""
    changes: Options = {"num_worker_per_gpu": 1, "prefetch_mode": "cpu"}
    runner._set_loading_defaults(changes, on_gpu=True)
    assert not changes["persistent_workers"]
    changes["persistent_workers"] = True
    options = changed(four_iterations, {f"datasets: train: {k}": v for k, v in changes.items()})
    with pytest.raises(
        ValueError, match="persistent_workers: true is not supported with prefetch_mode: cpu"
    ):
        train(tmp_path, options)


@pytest.mark.parametrize("batch", [2, 3])
def test_training_with_small_datasets_reaches_the_last_iteration(
    four_iterations: Options, tmp_path: Path, batch: int
) -> None:
    # four images: with a batch of three, an epoch is one batch, not the two that it rounds up to
    changes = {
        "datasets: train: dataset_enlarge_ratio": 1,
        "datasets: train: batch_size_per_gpu": batch,
        "train: total_iter": 13,
        "logger: save_checkpoint_freq": 13,
    }
    train(tmp_path, changed(four_iterations, changes))
    assert list(logged(tmp_path / "experiments" / "small")) == list(range(1, 14))


def test_fewer_images_than_a_batch(four_iterations: Options, tmp_path: Path) -> None:
    changes = {
        "datasets: train: dataset_enlarge_ratio": 1,
        "datasets: train: batch_size_per_gpu": 5,
    }
    with pytest.raises(ValueError, match="datasets: train: 4 images do not fill a batch of 5"):
        train(tmp_path, changed(four_iterations, changes))
    assert not list(tmp_path.rglob("*.pth"))
