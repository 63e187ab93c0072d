"""Trainings of a VQGAN from option files, and how these are checked."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from runs import copy_basicsr, torchrun
from training import Check, changed, command, model_options, test, train, write_options
from vq_training import FEATURES, VQGAN_TINY, WITHOUT_GAN, vqgan_options

from rescale_arch import VQGAN
from rescale_data.hr_dataset import HRImageDataset
from rescale_data.weight_file import read_weights
from rescale_model.models.vqgan import VQGANModel


def test_options_are_checked(hr_folder: Path, check: Check) -> None:
    options = vqgan_options(hr_folder, hr_folder)
    options = changed(options, {"datasets: train: io_backend: type": "disk"})
    check(options)
    check(changed(options, WITHOUT_GAN))
    lpips = {"type": "LPIPSLoss", "backbone": "vgg16.pth"}
    check(changed(options, {"train: percep_opt": lpips}))
    for changes, message in (
        ({"train: optim_d: type": "Adamm"}, "train: optim_d: type 'Adamm' is unknown .*Adam"),
        ({"train: codebook_opt: betta": 1}, r"codebook_opt: betta is unknown .*: beta\)"),
        ({"train: gan_opt: type": "GANLos"}, r"gan_opt: type 'GANLos' .*: GANLoss\)"),
        ({"network_d: num_features": 8}, r"network_d: num_features is unknown"),
        ({"train: feature_opt": {"type": "L1Los"}}, r"feature_opt: type 'L1Los' .*: L1Loss\)"),
        ({"train: gan_stat": 8}, r"train: gan_stat is unknown .*gan_start"),
        ({"path: pretrain_network_d": "no.pth"}, "path: pretrain_network_d: no such file"),
    ):
        with pytest.raises(ValueError, match=message):
            check(changed(options, changes))


def test_training_from_an_option_file_and_resuming_it(hr_folder: Path, tmp_path: Path) -> None:
    options = changed(
        vqgan_options(hr_folder, hr_folder),
        {
            "datasets: train: io_backend: type": "disk",
            "train: total_iter": 4,
            "train: gan_start": 2,
            "train: revive_codes": 3,
            "val: val_freq": 4,
            "val: save_img": True,
            "logger: save_checkpoint_freq": 2,
        },
    )
    train(tmp_path, options)
    experiment = tmp_path / "experiments" / "vqgan"
    shown = experiment / "visualization" / "whole"
    images = {path.name for path in shown.rglob("*.png")}
    assert "coffee_vq_hr_4.png" in images and len(images) == 4
    train(tmp_path, changed(options, {"train: total_iter": 6}), "--auto_resume")
    state = torch.load(experiment / "training_states" / "6.state")
    steps = [
        {int(entry["step"]) for entry in optimizer["state"].values()}
        for optimizer in state["optimizers"]
    ]
    assert steps == [{6}, {5}]
    net = VQGAN(**VQGAN_TINY)
    net.load_state_dict(read_weights(experiment / "models" / "net_g_latest.pth")["params"])
    logs = "".join(path.read_text() for path in experiment.glob("train_*.log"))
    for name in ("l_gan", "l_d", "codes_used", "perplexity"):
        assert f" {name}: " in logs


@pytest.mark.slow
def test_training_with_basicsrs_own_script(hr_folder: Path, tmp_path: Path) -> None:
    copy_basicsr(tmp_path)
    options = changed(
        vqgan_options(hr_folder, hr_folder),
        {
            "datasets: train: io_backend: type": "disk",
            "train: total_iter": 2,
            "val": None,
            "logger: save_checkpoint_freq": 1,
        },
    )
    path = write_options(tmp_path / "train.yml", options)
    result = command(tmp_path, "basicsr/train.py", "-opt", path)
    assert result.returncode == 0, result.stderr
    models = tmp_path / "experiments" / "vqgan" / "models"
    longer = changed(
        options,
        {
            "name": "further",
            "path: pretrain_network_g": str(models / "net_g_2.pth"),
            "path: pretrain_network_d": str(models / "net_d_2.pth"),
        },
    )
    path = write_options(tmp_path / "train.yml", longer)
    result = command(tmp_path, "basicsr/train.py", "-opt", path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "experiments" / "further" / "models" / "net_d_2.pth").is_file()


@pytest.mark.slow
def test_two_processes_train_one_network(hr_folder: Path, tmp_path: Path) -> None:
    options = changed(
        vqgan_options(hr_folder, hr_folder),
        {
            "datasets: train: io_backend: type": "disk",
            "train: total_iter": 4,
            "train: gan_start": 2,
            "train: feature_opt": dict(FEATURES),
            "train: revive_codes": 2,
            "train: ema_decay": 0,
            "val: val_freq": 4,
            "val: precision": "fp32",  # in bf16, another number of threads may choose other codes
        },
    )
    torchrun(tmp_path, "train", options)
    experiment = tmp_path / "experiments" / "vqgan"
    # Each rank has validated half of the images with the network that it has itself.
    alone = changed(
        options,
        {
            "name": "alone",
            "datasets": {"test_1": options["datasets"]["val"]},
            "path: pretrain_network_g": str(experiment / "models" / "net_g_latest.pth"),
            "path: param_key_g": "params",
        },
    )
    for key in ("train", "logger", "network_d"):
        del alone[key]
    del alone["val"]["val_freq"]
    folders = [experiment / "visualization" / "whole" / "metrics_4.json"]
    folders.append(test(tmp_path, alone) / "metrics.json")
    rows = [json.loads(path.read_text())["images"] for path in folders]
    assert len(rows[0]) == len(rows[1]) == 4
    for ours, theirs in zip(*rows, strict=True):
        assert ours["image"] == theirs["image"]
        assert ours["psnr"] == pytest.approx(theirs["psnr"], rel=1e-5)


@pytest.mark.slow
def test_a_short_training_learns_to_reconstruct(hr_folder: Path, tmp_path: Path) -> None:
    options = changed(
        vqgan_options(hr_folder, hr_folder),
        {
            "network_g: n_embed": 64,
            "train: gan_start": 181,
            "train: gan_opt: loss_weight": 0.1,
            "train: revive_codes": 50,
            "train: ema_decay": 0,
        },
    )
    torch.manual_seed(0)
    model = VQGANModel(model_options(options, tmp_path, is_train=True))
    source = {"name": "crops", "dataroot_gt": str(hr_folder)}
    crops = HRImageDataset({**source, "phase": "train", "gt_size": 64, "use_hflip": True})
    whole = SimpleNamespace(dataset=HRImageDataset({**source, "phase": "val"}))
    model.validation(whole, 0, None)
    before = model.metric_results["psnr_vq"]
    for iteration in range(1, 201):
        model.update_learning_rate(iteration)
        model.feed_data({"gt": torch.stack([crops[i]["gt"] for i in range(4)])})
        model.optimize_parameters(iteration)
        log = model.get_current_log() if iteration % 50 == 0 else {}
    model.validation(whole, 200, None)
    assert model.metric_results["psnr_vq"] > before + 3
    assert log["codes_used"] > 0.4 and log["perplexity"] > 12
