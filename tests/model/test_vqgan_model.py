"""Training a VQGAN: the use of its codes, files, and validation."""

import pickle
from pathlib import Path
from types import SimpleNamespace

import rescale_compat  # noqa: F401  must precede basicsr

import numpy as np
import pytest
import torch
from basicsr.metrics.psnr_ssim import calculate_psnr
from foreign_checkpoints import lightning_checkpoint
from torch import Tensor
from training import Make, same
from vq_training import FEATURES, VQGAN_TINY, logged_step

from rescale_arch import VQGAN
from rescale_data.hr_dataset import HRImageDataset
from rescale_data.image_file import read_image
from rescale_data.weight_file import read_weights
from rescale_model.models.vqgan import CodeUsage

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


def test_the_log_covers_the_steps_since_the_previous_line(make_vqgan: Make) -> None:
    model = make_vqgan(gan=False, train__optim_g={"type": "SGD", "lr": 0.0})
    alone = logged_step(model, 1, seed=1)
    for seed in (2, 3):
        torch.manual_seed(seed)
        model.feed_data({"gt": torch.rand(2, 3, 32, 32)})
        model.optimize_parameters(seed)
    assert model.get_current_log()["codes_used"] >= logged_step(model, 4, seed=3)["codes_used"]
    assert logged_step(model, 5, seed=1)["codes_used"] == alone["codes_used"]
    assert "codes_used" not in model.get_current_log()


def test_unused_codes_are_replaced_by_features_and_used_ones_stay(make_vqgan: Make) -> None:
    model = make_vqgan(gan=False, train__revive_codes=3, train__optim_g={"type": "SGD", "lr": 0.0})
    book = model.net_g.quantize.embedding.weight

    def is_feature(codes: Tensor) -> Tensor:
        vectors = model.z.permute(0, 2, 3, 1).reshape(-1, 32)
        return (codes[:, None] == vectors).all(2).any(1)

    old = book.detach().clone()
    logged_step(model, 1)  # a new network's: from the first batch
    live = torch.bincount(model.indices.flatten(), minlength=32) > 0
    assert 0 < live.sum() < 32
    assert torch.equal(book[live], old[live])
    assert is_feature(book[~live]).all()
    old = book.detach().clone()
    used = torch.zeros(32, dtype=torch.bool)
    for iteration in (2, 3, 4):
        assert torch.equal(book, old)
        logged_step(model, iteration, seed=iteration)
        used |= torch.bincount(model.indices.flatten(), minlength=32) > 0
    assert torch.equal(book[used], old[used])
    assert is_feature(book[~used]).all() and not is_feature(old[~used]).any()


def test_codes_are_not_replaced_by_default_and_after_loading(
    make_vqgan: Make, tmp_path: Path
) -> None:
    still = {"type": "SGD", "lr": 0.0}
    torch.manual_seed(9)
    net = VQGAN(**VQGAN_TINY)
    torch.save({"params": net.state_dict()}, tmp_path / "net.pth")
    path = str(tmp_path / "net.pth")
    for options in ({}, {"path__pretrain_network_g": path, "train__revive_codes": 5}):
        model = make_vqgan(gan=False, train__optim_g=still, **options)
        before = model.net_g.quantize.embedding.weight.detach().clone()
        logged_step(model, 1)
        assert torch.equal(model.net_g.quantize.embedding.weight, before)


# files ------------------------------------------------------------------------------------------


def test_the_authors_checkpoint_is_a_start(make_vqgan: Make, tmp_path: Path) -> None:
    torch.manual_seed(9)
    net = VQGAN(**VQGAN_TINY)
    path = tmp_path / "last.ckpt"
    entries = {**net.state_dict(), "loss.perceptual_loss.lin0.model.1.weight": torch.zeros(1)}
    lightning_checkpoint(path, entries)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    model = make_vqgan(path__pretrain_network_g=str(path))
    assert same(model.net_g.state_dict(), net.state_dict())
    assert same(model.net_g_ema.state_dict(), net.state_dict())
    with pytest.raises(ValueError, match=r"last\.ckpt does not fit VQGAN: .*of another shape"):
        make_vqgan(path__pretrain_network_g=str(path), network_g__n_embed=16)


@pytest.mark.parametrize("gan", [True, False])
def test_resuming_brings_everything_back(make_vqgan: Make, tmp_path: Path, gan: bool) -> None:
    losses = {"train__feature_opt": FEATURES, "train__gan_start": 2} if gan else {}
    model = make_vqgan(gan=gan, **losses)
    for iteration in (1, 2, 3):
        model.update_learning_rate(iteration)
        logged_step(model, iteration, seed=iteration)
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
    again = make_vqgan(gan=gan, **losses, **paths)
    again.resume_training(torch.load(tmp_path / "training_states" / "3.state"))
    for one in (model, again):
        one.update_learning_rate(4)
        logged_step(one, 4, seed=4)
    assert same(again.net_g.state_dict(), model.net_g.state_dict())
    assert same(again.net_g_ema.state_dict(), model.net_g_ema.state_dict())
    if gan:
        assert same(again.net_d.state_dict(), model.net_d.state_dict())


# validation -------------------------------------------------------------------------------------


def test_validation_scores_the_reconstruction(make_vqgan: Make, hr_folder: Path) -> None:
    model = make_vqgan(gan=False, train__ema_decay=0)
    dataset = HRImageDataset({"name": "whole", "phase": "val", "dataroot_gt": str(hr_folder)})
    model.validation(SimpleNamespace(dataset=dataset), 1, None)
    net = VQGAN(**VQGAN_TINY).eval()
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
def test_only_the_reconstruction_can_be_evaluated(make_vqgan: Make, image: str) -> None:
    with pytest.raises(ValueError, match=f"image is '{image}': expected one of hr"):
        make_vqgan(val__metrics={"psnr": {"type": "calculate_psnr", "image": image}})
