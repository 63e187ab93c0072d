"""Training a VQGAN: losses and their weights, the discriminator, the codebook, files."""

import json
import pickle
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from shutil import copytree
from typing import Any

import rescale_compat  # noqa: F401  must precede basicsr

import numpy as np
import pytest
import torch
from basicsr.archs.discriminator_arch import UNetDiscriminatorSN
from basicsr.metrics.psnr_ssim import calculate_psnr
from foreign_checkpoints import lightning_checkpoint
from torch import Tensor
from torch.nn import functional as F
from training import (
    changed,
    command,
    model_options,
    test,
    train,
    train_options,
    write_options,
)

from rescale_arch import VQGAN
from rescale_data.hr_dataset import HRImageDataset
from rescale_data.image_file import read_image
from rescale_data.weight_file import read_weights
from rescale_model.models.vqgan import CodeUsage, VQGANModel
from rescale_model.options import check_options

NETWORK: dict[str, Any] = {
    "type": "VQGAN",
    "ch": 32,
    "ch_mult": [1, 1, 1, 1, 1],
    "num_res_blocks": 1,
    "attn_resolutions": [],
    "z_channels": 32,
    "embed_dim": 32,
    "n_embed": 32,
}
CONFIG = {key: value for key, value in NETWORK.items() if key != "type"}
ADAM = {"type": "Adam", "lr": 1e-3, "betas": [0.5, 0.9]}
Make = Callable[..., VQGANModel]


def vqgan_options(lmdb: Path, hr_folder: Path) -> dict[str, Any]:
    return changed(
        train_options(lmdb, hr_folder),
        {
            "name": "vqgan",
            "model_type": "VQGANModel",
            "network_g": dict(NETWORK),
            "network_d": {"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 8},
            "train: scales": ...,
            "train: guide_opt": ...,
            "train: optim_g": dict(ADAM),
            "train: optim_d": dict(ADAM),
            "train: codebook_opt": {"type": "CodeBookLoss"},
            "train: gan_opt": {"type": "GANLoss", "gan_type": "hinge", "loss_weight": 0.8},
            "val: scales": ...,
            "val: metrics": {"psnr": {"type": "calculate_psnr"}},
        },
    )


WITHOUT_GAN: dict[str, Any] = {"network_d": ..., "train: gan_opt": ..., "train: optim_d": ...}


@pytest.fixture
def make(hr_folder: Path, tmp_path: Path) -> Make:
    """Builds a model that trains, with changed options."""

    def build(gan: bool = True, **changes: Any) -> VQGANModel:
        options = vqgan_options(hr_folder, hr_folder)
        torch.manual_seed(0)
        named = {name.replace("__", ": "): value for name, value in changes.items()}
        options = changed(changed(options, {} if gan else WITHOUT_GAN), named)
        return VQGANModel(model_options(options, tmp_path, is_train=True))

    return build


def step(model: VQGANModel, iteration: int, seed: int = 0) -> dict[str, float]:
    torch.manual_seed(seed)
    model.feed_data({"gt": torch.rand(2, 3, 32, 32)})
    model.optimize_parameters(iteration)
    return model.get_current_log()


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# losses -----------------------------------------------------------------------------------------


def test_losses_are_on_the_papers_range(make: Make) -> None:
    model = make(gan=False, train__codebook_opt={"type": "CodeBookLoss", "beta": 0.5})
    net = VQGAN(**CONFIG)
    net.load_state_dict(model.net_g.state_dict())
    log = step(model, 1)
    out = net(model.gt)
    mean_squares = (out.z - out.codes).square().mean().item()
    assert log["l_pix"] == pytest.approx(2 * (out.restored - model.gt).abs().mean().item(), 1e-4)
    assert log["l_codebook"] == pytest.approx(1.5 * mean_squares, 1e-4)
    assert log.keys() == {"l_pix", "l_codebook", "codes_used", "perplexity"}


def test_the_perceptual_loss_sees_images_in_0_to_1(make: Make) -> None:
    model = make(train__percep_opt={"type": "MSELoss", "loss_weight": 10.0})
    net = VQGAN(**CONFIG)
    net.load_state_dict(model.net_g.state_dict())
    log = step(model, 1)
    expected = 10 * (net(model.gt).restored - model.gt).square().mean().item()
    assert log["l_percep"] == pytest.approx(expected, 1e-4)


def test_missing_lpips_weights_are_reported_when_the_model_is_built(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "lpips", object())
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no backbone weights at"):
        make(train__percep_opt={"type": "LPIPSLoss"})


@pytest.mark.parametrize("adaptive", [True, False])
def test_gan_loss_and_its_weight(make: Make, adaptive: bool) -> None:
    model = make(train__adaptive_weight=adaptive)
    net, net_d = VQGAN(**CONFIG), UNetDiscriminatorSN(3, 8)
    net.load_state_dict(model.net_g.state_dict())
    net_d.load_state_dict(model.net_d.state_dict())
    before = {name: value.clone() for name, value in model.net_d.named_parameters()}
    log = step(model, 1)

    restored = net(model.gt).restored
    raw = -net_d(restored).mean()
    pixel = 2 * (restored - model.gt).abs().mean()
    norms = [
        torch.autograd.grad(of, net.decoder.conv_out.weight, retain_graph=True)[0].norm()
        for of in (pixel, raw)
    ]
    weight = 0.8 * (norms[0] / (norms[1] + 1e-4)).item() if adaptive else 0.8
    assert log["gan_weight"] == pytest.approx(weight, rel=1e-3)
    assert log["l_gan"] == pytest.approx(weight * raw.item(), rel=1e-3)
    # the discriminator's step; its spectral norms have advanced by one step
    judgements = net_d(torch.cat([model.gt, restored.detach()]))
    real, fake = judgements.chunk(2)
    loss = (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
    assert log["l_d"] == pytest.approx(loss.item(), rel=1e-3)
    assert log["out_d_real"] == pytest.approx(real.mean().item(), rel=1e-3)
    still = [
        name for name, value in model.net_d.named_parameters() if torch.equal(value, before[name])
    ]
    assert set(still) <= {"conv9.bias"}  # which moves both judgements alike


def test_the_network_is_moved_by_the_sum_of_its_losses(make: Make) -> None:
    sgd = {"type": "SGD", "lr": 1.0}
    model = make(train__optim_g=sgd)
    net, net_d = VQGAN(**CONFIG), UNetDiscriminatorSN(3, 8)
    net.load_state_dict(model.net_g.state_dict())
    net_d.load_state_dict(model.net_d.state_dict())
    log = step(model, 1)
    out = net(model.gt)
    loss = 2 * (out.restored - model.gt).abs().mean()
    loss = loss + log["gan_weight"] * -net_d(out.restored).mean()
    loss = loss + 0.25 * F.mse_loss(out.z, out.codes.detach())
    loss = loss + F.mse_loss(out.codes, out.z.detach())
    loss.backward()
    for (name, now), then in zip(model.net_g.named_parameters(), net.parameters(), strict=True):
        assert then.grad is not None
        torch.testing.assert_close(now, then - then.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_the_discriminator_starts_when_it_is_to(make: Make) -> None:
    model = make(train__gan_start=3)
    before = {name: value.clone() for name, value in model.net_d.state_dict().items()}
    for iteration in (1, 2):
        assert "l_gan" not in step(model, iteration)
        assert same(model.net_d.state_dict(), before)
    assert {"l_gan", "l_d", "gan_weight"} <= step(model, 3).keys()
    assert not same(model.net_d.state_dict(), before)


FEATURES = {"type": "L1Loss", "loss_weight": 2.0}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_feature_matching_starts_with_the_discriminator(make: Make, precision: str) -> None:
    model = make(train__gan_start=2, train__feature_opt=FEATURES, train__precision=precision)
    assert "l_feat" not in step(model, 1)
    log = step(model, 2)
    assert log["l_feat"] > 0
    assert model.step.logged["l_feat"].dtype == torch.float32


def test_feature_matching_moves_the_network_and_not_the_discriminator(make: Make) -> None:
    plain, matching = make(), make(train__feature_opt=FEATURES)
    logs = [step(model, 1) for model in (plain, matching)]
    assert logs[1].pop("l_feat") > 0
    assert logs[1] == pytest.approx(logs[0], rel=1e-4)
    assert same(matching.net_d.state_dict(), plain.net_d.state_dict())
    assert not same(matching.net_g.state_dict(), plain.net_g.state_dict())


def test_feature_matching_without_a_discriminator_is_refused(make: Make) -> None:
    with pytest.raises(ValueError, match="option train: feature_opt requires a discriminator"):
        make(gan=False, train__feature_opt=FEATURES)


def test_half_precision_keeps_weights_and_losses_in_full(make: Make) -> None:
    logs = []
    for precision in ("fp32", "bf16"):
        model = make(train__precision=precision)
        logs.append(step(model, 1))
        for net in (model.net_g, model.net_d):
            assert {value.dtype for value in net.state_dict().values()} == {torch.float32}
        assert model.step.logged["l_gan"].dtype == torch.float32
    full, half = logs
    assert half["l_pix"] != full["l_pix"]
    for name in ("l_pix", "l_codebook", "l_d"):
        assert half[name] == pytest.approx(full[name], rel=0.1), name


@pytest.mark.parametrize("missing", ["network_d", "train: gan_opt", "train: optim_d"])
def test_half_a_discriminator_is_refused(make: Make, missing: str) -> None:
    with pytest.raises(ValueError, match=f"option {missing} is missing: a discriminator requires"):
        make(**{missing.replace(": ", "__"): None})


# codebook ---------------------------------------------------------------------------------------


def test_usage() -> None:
    usage = CodeUsage(8, torch.device("cpu"))
    usage.add(torch.tensor([[[0, 0], [0, 0]]]))
    assert (usage.share(), usage.perplexity()) == (1 / 8, 1)
    usage.add(torch.tensor([[[1, 1], [1, 1]]]))
    assert (usage.share(), usage.perplexity()) == (2 / 8, pytest.approx(2))
    usage.add(torch.tensor([[[1, 1], [1, 7]]]))
    assert usage.share() == 3 / 8
    assert 2 < usage.perplexity() < 3
    usage.clear()
    usage.add(torch.arange(8))
    assert (usage.share(), usage.perplexity()) == (1, pytest.approx(8))


def test_the_log_covers_the_steps_since_the_previous_line(make: Make) -> None:
    model = make(gan=False, train__optim_g={"type": "SGD", "lr": 0.0})
    alone = step(model, 1, seed=1)
    for seed in (2, 3):
        torch.manual_seed(seed)
        model.feed_data({"gt": torch.rand(2, 3, 32, 32)})
        model.optimize_parameters(seed)
    assert model.get_current_log()["codes_used"] >= step(model, 4, seed=3)["codes_used"]
    assert step(model, 5, seed=1)["codes_used"] == alone["codes_used"]
    assert "codes_used" not in model.get_current_log()


def test_unused_codes_are_replaced_by_features_and_used_ones_stay(make: Make) -> None:
    model = make(gan=False, train__revive_codes=3, train__optim_g={"type": "SGD", "lr": 0.0})
    book = model.net_g.quantize.embedding.weight

    def is_feature(codes: Tensor) -> Tensor:
        vectors = model.z.permute(0, 2, 3, 1).reshape(-1, 32)
        return (codes[:, None] == vectors).all(2).any(1)

    old = book.detach().clone()
    step(model, 1)  # a new network's: from the first batch
    live = torch.bincount(model.indices.flatten(), minlength=32) > 0
    assert 0 < live.sum() < 32
    assert torch.equal(book[live], old[live])
    assert is_feature(book[~live]).all()
    old = book.detach().clone()
    used = torch.zeros(32, dtype=torch.bool)
    for iteration in (2, 3, 4):
        assert torch.equal(book, old)
        step(model, iteration, seed=iteration)
        used |= torch.bincount(model.indices.flatten(), minlength=32) > 0
    assert torch.equal(book[used], old[used])
    assert is_feature(book[~used]).all() and not is_feature(old[~used]).any()


def test_codes_are_not_replaced_by_default_and_after_loading(make: Make, tmp_path: Path) -> None:
    still = {"type": "SGD", "lr": 0.0}
    torch.manual_seed(9)
    net = VQGAN(**CONFIG)
    torch.save({"params": net.state_dict()}, tmp_path / "net.pth")
    path = str(tmp_path / "net.pth")
    for options in ({}, {"path__pretrain_network_g": path, "train__revive_codes": 5}):
        model = make(gan=False, train__optim_g=still, **options)
        before = model.net_g.quantize.embedding.weight.detach().clone()
        step(model, 1)
        assert torch.equal(model.net_g.quantize.embedding.weight, before)


# files ------------------------------------------------------------------------------------------


def test_the_authors_checkpoint_is_a_start(make: Make, tmp_path: Path) -> None:
    torch.manual_seed(9)
    net = VQGAN(**CONFIG)
    path = tmp_path / "last.ckpt"
    entries = {**net.state_dict(), "loss.perceptual_loss.lin0.model.1.weight": torch.zeros(1)}
    lightning_checkpoint(path, entries)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    model = make(path__pretrain_network_g=str(path))
    assert same(model.net_g.state_dict(), net.state_dict())
    assert same(model.net_g_ema.state_dict(), net.state_dict())
    with pytest.raises(ValueError, match=r"last\.ckpt does not fit VQGAN: .*of another shape"):
        make(path__pretrain_network_g=str(path), network_g__n_embed=16)


@pytest.mark.parametrize("gan", [True, False])
def test_resuming_brings_everything_back(make: Make, tmp_path: Path, gan: bool) -> None:
    losses = {"train__feature_opt": FEATURES, "train__gan_start": 2} if gan else {}
    model = make(gan=gan, **losses)
    for iteration in (1, 2, 3):
        model.update_learning_rate(iteration)
        step(model, iteration, seed=iteration)
    model.save(0, 3)
    models = tmp_path / "models"
    assert {path.name for path in models.iterdir()} == (
        {"net_g_3.pth", "net_d_3.pth"} if gan else {"net_g_3.pth"}
    )
    checkpoint = read_weights(models / "net_g_3.pth")
    VQGAN(**checkpoint["config"]).load_state_dict(checkpoint["params"])
    paths = {"path__pretrain_network_g": str(models / "net_g_3.pth")}
    if gan:
        paths["path__pretrain_network_d"] = str(models / "net_d_3.pth")
    again = make(gan=gan, **losses, **paths)
    again.resume_training(torch.load(tmp_path / "training_states" / "3.state"))
    for one in (model, again):
        one.update_learning_rate(4)
        step(one, 4, seed=4)
    assert same(again.net_g.state_dict(), model.net_g.state_dict())
    assert same(again.net_g_ema.state_dict(), model.net_g_ema.state_dict())
    if gan:
        assert same(again.net_d.state_dict(), model.net_d.state_dict())


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
    net = VQGAN(**CONFIG)
    net.load_state_dict(read_weights(experiment / "models" / "net_g_latest.pth")["params"])
    logs = "".join(path.read_text() for path in experiment.glob("train_*.log"))
    for name in ("l_gan", "l_d", "codes_used", "perplexity"):
        assert f" {name}: " in logs


@pytest.mark.slow
def test_training_with_basicsrs_own_script(hr_folder: Path, tmp_path: Path) -> None:
    spec = find_spec("basicsr")
    assert spec is not None and spec.submodule_search_locations
    copytree(spec.submodule_search_locations[0], tmp_path / "basicsr")
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
    path = write_options(tmp_path / "train.yml", options)
    result = command(
        tmp_path,
        *("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
        *("-m", "rescale_app.cli", "train", "-opt", path, "--launcher", "pytorch"),
    )
    assert result.returncode == 0, result.stderr
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


def test_options_are_checked(hr_folder: Path, tmp_path: Path) -> None:
    options = vqgan_options(hr_folder, hr_folder)
    options = changed(options, {"datasets: train: io_backend: type": "disk"})

    def check(changes: dict[str, Any]) -> None:
        path = write_options(tmp_path / "options.yml", changed(options, changes))
        check_options(str(path), is_train=True)

    check({})
    check(WITHOUT_GAN)
    check({"train: percep_opt": {"type": "LPIPSLoss", "backbone": "vgg16.pth"}})
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
            check(changes)


# validation -------------------------------------------------------------------------------------


class Loader:
    def __init__(self, dataset: HRImageDataset) -> None:
        self.dataset = dataset


def test_validation_scores_the_reconstruction(make: Make, hr_folder: Path) -> None:
    model = make(gan=False, train__ema_decay=0)
    dataset = HRImageDataset({"name": "whole", "phase": "val", "dataroot_gt": str(hr_folder)})
    model.validation(Loader(dataset), 1, None)
    net = VQGAN(**CONFIG).eval()
    net.load_state_dict(model.net_g.state_dict())
    scores = []
    for path in sorted(hr_folder.iterdir()):
        hr = read_image(path)
        with torch.inference_mode():
            out = net(torch.from_numpy(hr).permute(2, 0, 1)[None] / 255).restored[0]
        restored = (out.clamp(0, 1) * 255).round().permute(1, 2, 0).numpy().astype(np.uint8)
        scores.append(calculate_psnr(restored, hr, crop_border=16))
    assert model.metric_results == {"psnr_vq": pytest.approx(np.mean(scores), abs=0.01)}


@pytest.mark.parametrize("image", ["lr", "bicubic"])
def test_only_the_reconstruction_can_be_evaluated(make: Make, image: str) -> None:
    with pytest.raises(ValueError, match=f"image is '{image}': expected one of hr"):
        make(val__metrics={"psnr": {"type": "calculate_psnr", "image": image}})


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
    whole = Loader(HRImageDataset({**source, "phase": "val"}))
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
