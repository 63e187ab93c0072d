"""Options are checked before anything runs, and all problems are reported at once."""

import re
from pathlib import Path
from typing import Any

import pytest
from training import Check, changed, model_options

import rescale_model  # noqa: F401  registers
from rescale_model.models.aidn import AIDNModel


def test_valid_options_pass(
    valid_train: dict[str, Any], valid_test: dict[str, Any], check: Check
) -> None:
    check(valid_train)
    check(valid_test, is_train=False)
    check(changed(valid_train, {"val": None}))
    check(
        changed(valid_train, {"train: jpeg": {"quality": [75, 75], "chroma": [444], "real": False}})
    )
    check(
        changed(valid_train, {"train: scales": ..., "manual_seed": None, "train: total_iter": 5e5})
    )


@pytest.mark.parametrize("name", ["data.mdb", "meta_info.txt"])
def test_half_an_lmdb_is_named(
    name: str, valid_train: dict[str, Any], check: Check, tmp_path: Path
) -> None:
    (tmp_path / "half.lmdb").mkdir()
    (tmp_path / "half.lmdb" / ({"data.mdb", "meta_info.txt"} - {name}).pop()).touch()
    root = str(tmp_path / "half.lmdb")
    with pytest.raises(ValueError, match=rf"datasets: train: dataroot_gt: no such .*/{name}$"):
        check(changed(valid_train, {"datasets: train: dataroot_gt": root}))


@pytest.mark.parametrize(
    ("section", "key", "wrong"),
    [
        ("", "manual_seed", "manual_sed"),
        ("datasets: train: ", "gt_size", "gt_siz"),
        ("datasets: train: ", "use_hflip", "use_flip"),
        ("datasets: val: ", "dataroot_gt", "dataroot_tg"),
        ("network_g: ", "num_feat", "num_feats"),
        ("path: ", "pretrain_network_g", "pretrained_network_g"),
        ("train: ", "ema_decay", "ema_dekay"),
        ("train: optim_g: ", "betas", "beta"),
        ("train: scheduler: ", "gamma", "gama"),
        ("train: scales: ", "integer_iter", "integer_iters"),
        ("val: ", "val_freq", "val_frequ"),
        ("val: ", "metrics", "metric"),
        ("val: metrics: psnr_y: ", "test_y_channel", "test_y_chanel"),
        ("val: metrics: lr_psnr: ", "image", "imag"),
        ("logger: ", "print_freq", "print_frek"),
        ("logger: wandb: ", "project", "projekt"),
    ],
)
def test_a_misspelled_key_is_named_with_the_nearest(
    valid_train: dict[str, Any], check: Check, section: str, key: str, wrong: str
) -> None:
    value: Any = valid_train
    for name in f"{section}{key}".split(": "):
        value = value[name]
    with pytest.raises(ValueError) as caught:
        check(changed(valid_train, {f"{section}{key}": ..., f"{section}{wrong}": value}))
    assert f"{section}{wrong} is unknown (nearest known: {key})" in str(caught.value)


@pytest.mark.parametrize("loss", ["pixel_opt", "guide_opt"])
def test_a_misspelled_key_of_a_loss(valid_train: dict[str, Any], check: Check, loss: str) -> None:
    with pytest.raises(ValueError, match=rf"{loss}: loss_wait is unknown .*loss_weight"):
        check(changed(valid_train, {f"train: {loss}: loss_wait": 1}))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train: revive_codes", 5, "VQGANModel, not of AIDNModel"),
        ("train: gan_opt", None, "VQGANModel and VQIRRefineModel, not of AIDNModel"),
        ("val: cost_size", 64, "BenchmarkModel, not of AIDNModel"),
        ("color_order", "rgb", "VQIRModel and VQIRRefineModel, not of AIDNModel"),
        ("datasets: val: sets", ["Set5"], "BenchmarkDataset, not of HRImageDataset"),
    ],
)
def test_an_option_of_another_class_is_misplaced(
    valid_train: dict[str, Any], check: Check, key: str, value: Any, message: str
) -> None:
    with pytest.raises(ValueError) as caught:
        check(changed(valid_train, {key: value}))
    assert str(caught.value).endswith(f"options.yml: {key} is an option of {message}")


def test_an_option_that_is_none_counts_as_omitted(
    valid_train: dict[str, Any], tmp_path: Path
) -> None:
    nothing = {"train: ema_decay": None, "train: precision": None, "val: protocol": None}
    start = {"path: pretrain_network_g": None}
    model = AIDNModel(model_options(changed(valid_train, nothing | start), tmp_path, is_train=True))
    assert model.ema_decay == 0
    assert model.opt["train"]["precision"] == "fp32"
    assert model.evaluation is not None and model.evaluation.protocol == "8bit"


def test_testing_needs_weights(valid_test: dict[str, Any], check: Check) -> None:
    with pytest.raises(ValueError, match="pretrain_network_g is missing"):
        check(changed(valid_test, {"path: pretrain_network_g": None}), is_train=False)
    with pytest.raises(ValueError, match="datasets: train: expected the names test"):
        datasets = {"train": valid_test["datasets"]["test_1"]}
        check(changed(valid_test, {"datasets": datasets}), is_train=False)


def test_all_problems_are_reported_at_once(valid_train: dict[str, Any], check: Check) -> None:
    wrong = {"val: protokol": "8bit", "train: scales: hihg": 3, "network_g: type": "AIND"}
    with pytest.raises(ValueError) as caught:
        check(changed(valid_train, wrong))
    assert len(str(caught.value).split("; ")) == len(wrong)
    for name in ("protokol", "hihg", "AIND"):
        assert name in str(caught.value)


def test_models_without_declarations_are_not_checked(
    valid_train: dict[str, Any], check: Check
) -> None:
    check(changed(valid_train, {"model_type": "SRModel", "train: perceptual_opt": {}}))


@pytest.mark.parametrize(
    ("forced", "message"),
    [
        ("train:totl_iter=5", "train: totl_iter is unknown (nearest known: total_iter)"),
        ("trian:total_iter=5", "--force_yml trian:total_iter=5: there is no section trian"),
        ("train:total_iter:x=5", "there is no section train:total_iter"),
        ("train:total_iter", "--force_yml train:total_iter: "),
        ("name=a=b", "--force_yml name=a=b: "),
        ("val:scales=[1.5,", "--force_yml val:scales=[1.5,: "),
        ("val:scales=[9]", "val: scales: scale 9"),
        ("train:warmup_iter=-1", "train: warmup_iter is a string"),  # to BasicSR, too
    ],
)
def test_forced_options_are_checked(
    valid_train: dict[str, Any], check: Check, forced: str, message: str
) -> None:
    check(valid_train, forced=("train:total_iter=5", "val:scales=[1.5, 3]"))
    with pytest.raises(ValueError, match=re.escape(message)):
        check(valid_train, forced=(forced,))
