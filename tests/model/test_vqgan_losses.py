"""Losses of a VQGAN and their weights, and its discriminator."""

import sys
from pathlib import Path

import rescale_compat  # noqa: F401  must precede basicsr

import pytest
import torch
from basicsr.archs.discriminator_arch import UNetDiscriminatorSN
from torch.nn import functional as F
from training import Make, same
from vq_training import FEATURES, VQGAN_TINY, logged_step

from rescale_arch import VQGAN


def test_losses_are_on_the_papers_range(make_vqgan: Make) -> None:
    model = make_vqgan(gan=False, train__codebook_opt={"type": "CodeBookLoss", "beta": 0.5})
    net = VQGAN(**VQGAN_TINY)
    net.load_state_dict(model.net_g.state_dict())
    log = logged_step(model, 1)
    out = net(model.gt)
    mean_squares = (out.z - out.codes).square().mean().item()
    assert log["l_pix"] == pytest.approx(2 * (out.restored - model.gt).abs().mean().item(), 1e-4)
    assert log["l_codebook"] == pytest.approx(1.5 * mean_squares, 1e-4)
    assert log.keys() == {"l_pix", "l_codebook", "codes_used", "perplexity"}


def test_the_perceptual_loss_sees_images_in_0_to_1(make_vqgan: Make) -> None:
    model = make_vqgan(train__percep_opt={"type": "MSELoss", "loss_weight": 10.0})
    net = VQGAN(**VQGAN_TINY)
    net.load_state_dict(model.net_g.state_dict())
    log = logged_step(model, 1)
    expected = 10 * (net(model.gt).restored - model.gt).square().mean().item()
    assert log["l_percep"] == pytest.approx(expected, 1e-4)


def test_missing_lpips_weights_are_reported_when_the_model_is_built(
    make_vqgan: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "lpips", object())
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no backbone weights at"):
        make_vqgan(train__percep_opt={"type": "LPIPSLoss"})


@pytest.mark.parametrize("adaptive", [True, False])
def test_gan_loss_and_its_weight(make_vqgan: Make, adaptive: bool) -> None:
    model = make_vqgan(train__adaptive_weight=adaptive)
    net, net_d = VQGAN(**VQGAN_TINY), UNetDiscriminatorSN(3, 8)
    net.load_state_dict(model.net_g.state_dict())
    net_d.load_state_dict(model.net_d.state_dict())
    before = {name: value.clone() for name, value in model.net_d.named_parameters()}
    log = logged_step(model, 1)

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


def test_the_network_is_moved_by_the_sum_of_its_losses(make_vqgan: Make) -> None:
    sgd = {"type": "SGD", "lr": 1.0}
    model = make_vqgan(train__optim_g=sgd)
    net, net_d = VQGAN(**VQGAN_TINY), UNetDiscriminatorSN(3, 8)
    net.load_state_dict(model.net_g.state_dict())
    net_d.load_state_dict(model.net_d.state_dict())
    log = logged_step(model, 1)
    out = net(model.gt)
    loss = 2 * (out.restored - model.gt).abs().mean()
    loss = loss + log["gan_weight"] * -net_d(out.restored).mean()
    loss = loss + 0.25 * F.mse_loss(out.z, out.codes.detach())
    loss = loss + F.mse_loss(out.codes, out.z.detach())
    loss.backward()
    for (name, now), then in zip(model.net_g.named_parameters(), net.parameters(), strict=True):
        assert then.grad is not None
        torch.testing.assert_close(now, then - then.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_the_discriminator_starts_when_it_is_to(make_vqgan: Make) -> None:
    model = make_vqgan(train__gan_start=3)
    before = {name: value.clone() for name, value in model.net_d.state_dict().items()}
    for iteration in (1, 2):
        assert "l_gan" not in logged_step(model, iteration)
        assert same(model.net_d.state_dict(), before)
    assert {"l_gan", "l_d", "gan_weight"} <= logged_step(model, 3).keys()
    assert not same(model.net_d.state_dict(), before)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_feature_matching_starts_with_the_discriminator(make_vqgan: Make, precision: str) -> None:
    model = make_vqgan(train__gan_start=2, train__feature_opt=FEATURES, train__precision=precision)
    assert "l_feat" not in logged_step(model, 1)
    log = logged_step(model, 2)
    assert log["l_feat"] > 0
    assert model.step.logged["l_feat"].dtype == torch.float32


def test_feature_matching_moves_the_network_and_not_the_discriminator(make_vqgan: Make) -> None:
    plain, matching = make_vqgan(), make_vqgan(train__feature_opt=FEATURES)
    logs = [logged_step(model, 1) for model in (plain, matching)]
    assert logs[1].pop("l_feat") > 0
    assert logs[1] == pytest.approx(logs[0], rel=1e-4)
    assert same(matching.net_d.state_dict(), plain.net_d.state_dict())
    assert not same(matching.net_g.state_dict(), plain.net_g.state_dict())


def test_feature_matching_without_a_discriminator_is_refused(make_vqgan: Make) -> None:
    with pytest.raises(ValueError, match="option train: feature_opt requires a discriminator"):
        make_vqgan(gan=False, train__feature_opt=FEATURES)


def test_half_precision_keeps_weights_and_losses_in_full(make_vqgan: Make) -> None:
    logs = []
    for precision in ("fp32", "bf16"):
        model = make_vqgan(train__precision=precision)
        logs.append(logged_step(model, 1))
        for net in (model.net_g, model.net_d):
            assert {value.dtype for value in net.state_dict().values()} == {torch.float32}
        assert model.step.logged["l_gan"].dtype == torch.float32
    full, half = logs
    assert half["l_pix"] != full["l_pix"]
    for name in ("l_pix", "l_codebook", "l_d"):
        assert half[name] == pytest.approx(full[name], rel=0.1), name


@pytest.mark.parametrize("missing", ["network_d", "train: gan_opt", "train: optim_d"])
def test_half_a_discriminator_is_refused(make_vqgan: Make, missing: str) -> None:
    with pytest.raises(ValueError, match=f"option {missing} is missing: a discriminator requires"):
        make_vqgan(**{missing.replace(": ", "__"): None})
