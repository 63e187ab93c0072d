"""Losses of VQIR in both stages, against their definitions."""

import rescale_compat  # noqa: F401  must precede basicsr

import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from basicsr.losses.basic_loss import L1Loss
from torch import Tensor, nn
from torch.nn import functional as F
from training import Make, same, step, weights_of
from vq_training import FEATURES, VQ

from rescale_arch import VQIR, imresize
from rescale_arch.vqir.network import Levels, Recovered
from rescale_model.losses import EdgeLoss
from rescale_model.models.vqir import VQIRModel
from rescale_model.training.critic import Critic


def twin(model: VQIRModel) -> VQIR:
    """A network with the same weights, in training mode."""
    net = model.net_g
    assert isinstance(net, VQIR)
    torch.manual_seed(9)
    copy = VQIR(net.factor, net.stage, **VQ)  # type: ignore[arg-type]
    copy.load_state_dict(net.state_dict())
    return copy.train()


def reference(hr: Tensor, reduction: int) -> Tensor:
    return imresize(hr, (hr.shape[-2] // reduction, hr.shape[-1] // reduction))


@pytest.mark.parametrize("factor", [16, 32])
def test_losses_of_stage_1(make_vqir: Make, factor: int) -> None:
    model = make_vqir(1, network_g__factor=factor)
    net = twin(model)
    torch.manual_seed(0)
    hr = torch.rand(2, 3, 64, 64)
    recovered = net(hr)  # draws the same noise as the model below
    assert isinstance(recovered, Recovered)
    step(model, 1, size=64)
    log = model.get_current_log()
    # on images in [-1, 1] squared differences are four times those in [0, 1]
    guide = 0.5 * 4 * F.mse_loss(recovered.lr, reference(hr, factor))
    assert log["l_guide"] == pytest.approx(guide.item(), rel=1e-4)
    code = F.mse_loss(recovered.zb, recovered.zq)
    assert log["l_code"] == pytest.approx(code.item(), rel=1e-4)
    x, y = recovered.zb.flatten(2), recovered.zq.flatten(2)
    gram = F.mse_loss(x.mT @ x / x.shape[-1], y.mT @ y / y.shape[-1])
    assert log["l_gram"] == pytest.approx(gram.item(), rel=1e-4)
    assert log.keys() == {"l_guide", "l_code", "l_gram"}


class Distance(nn.Module):
    """Stands in for a perceptual loss."""

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        return 3 * (pred - target).square().sum()


@pytest.mark.parametrize("perceptual", [False, True])
def test_losses_of_stage_2(make_vqir: Make, perceptual: bool) -> None:
    model = make_vqir(2)
    if perceptual:
        model.cri_percep = Distance()
    net = twin(model)
    torch.manual_seed(0)
    hr = torch.rand(2, 3, 32, 32)
    levels = net(hr)
    assert isinstance(levels, Levels)
    targets = [hr, reference(hr, 2), reference(hr, 4)]
    critic = build_network(model.opt["network_d"]).train()
    critic.load_state_dict(model.net_d.state_dict())
    score = critic(2 * levels.full - 1)
    step(model, 1)
    log = model.get_current_log()
    pairs = list(zip(levels, targets, strict=True))
    l1 = torch.stack([2 * F.l1_loss(x, y) for x, y in pairs]).sum()
    edge = torch.stack([EdgeLoss(0.05)(x, y) for x, y in pairs]).sum()
    assert log["l_pix"] == pytest.approx(l1.item(), rel=1e-4)
    assert log["l_edge"] == pytest.approx(edge.item(), rel=1e-4)
    assert log["l_gan"] == pytest.approx(-0.1 * score.mean().item(), rel=1e-4)
    assert ("l_percep" in log) == perceptual
    if perceptual:
        distance = 3 * (levels.full - hr).square().sum()
        assert log["l_percep"] == pytest.approx(distance.item(), rel=1e-4)
    assert {"l_d_real", "l_d_fake"} <= log.keys()


def test_stage_2_first_learns_without_the_discriminator(make_vqir: Make) -> None:
    perceptual = {"type": "GradientLoss", "loss_weight": 0.1}
    model = make_vqir(
        2, train__gan_start=3, train__feature_opt=FEATURES, train__percep_opt=perceptual
    )
    before = weights_of(model.net_d)
    for iteration in (1, 2):
        step(model, iteration)
        assert model.get_current_log().keys() == {"l_pix", "l_edge", "l_percep"}
        assert same(model.net_d.state_dict(), before)
    step(model, 3)
    log = model.get_current_log()
    assert {"l_gan", "l_feat", "l_d_real", "l_d_fake"} <= log.keys()
    assert log["l_feat"] > 0
    assert not same(model.net_d.state_dict(), before)


def test_feature_matching_of_stage_2(make_vqir: Make) -> None:
    """On images in [-1, 1], as the discriminator is given, and without effect on its own step."""
    plain, model = make_vqir(2), make_vqir(2, train__feature_opt=FEATURES)
    seen = [plain.net_d.state_dict(), model.net_d.state_dict()]
    assert same(*seen)
    critic = build_network(model.opt["network_d"]).train().requires_grad_(False)
    critic.load_state_dict(model.net_d.state_dict())
    torch.manual_seed(0)
    hr = torch.rand(2, 3, 32, 32)
    restored = twin(model)(hr).full
    _, expected = Critic(critic, L1Loss(2.0))(
        2 * restored - 1, 2 * hr - 1, torch.autocast("cpu", enabled=False)
    )
    for one in (plain, model):
        step(one, 1)
    assert model.get_current_log()["l_feat"] == pytest.approx(expected["l_feat"].item(), rel=1e-4)
    assert same(model.net_d.state_dict(), plain.net_d.state_dict())
    assert not same(model.net_g.state_dict(), plain.net_g.state_dict())


def test_the_discriminator_learns_what_is_real(make_vqir: Make) -> None:
    model = make_vqir(2, train__optim_d__lr=5e-3, train__optim_g__lr=0.0)
    logs = []
    for iteration in range(1, 31):
        step(model, iteration)
        logs.append(model.get_current_log())
    assert logs[0]["l_d_real"] + logs[0]["l_d_fake"] == pytest.approx(2, abs=0.5)
    assert logs[-1]["l_d_real"] + logs[-1]["l_d_fake"] < 1


@pytest.mark.parametrize("stage", [1, 2])
def test_training_lowers_the_losses(make_vqir: Make, stage: int) -> None:
    model = make_vqir(stage)
    logs = []
    for iteration in range(1, 21):
        step(model, iteration)
        logs.append(model.get_current_log())
    for name in ("l_guide", "l_gram") if stage == 1 else ("l_pix", "l_edge"):
        assert logs[-1][name] < 0.95 * logs[0][name], name


@pytest.mark.parametrize("stage", [1, 2])
def test_half_precision(make_vqir: Make, stage: int) -> None:
    model = make_vqir(stage, train__precision="bf16")
    step(model, 1)
    assert all(np.isfinite(value) for value in model.get_current_log().values())
    assert all(value.dtype != torch.bfloat16 for value in model.net_g.state_dict().values())
