"""Training of VQIR in both stages: what is frozen, averaged, saved and resumed."""

from pathlib import Path

import pytest
import torch
from training import Make, same, step, weights_of
from vq_training import FEATURES

from rescale_arch import VQIR

TRAINED = {1: "icrm", 2: "refine"}


@pytest.mark.parametrize("stage", [1, 2])
def test_only_the_stages_part_is_trained_and_averaged(make_vqir: Make, stage: int) -> None:
    model = make_vqir(stage, train__ema_decay=0.9)
    net, average = model.net_g, model.net_g_ema
    before = weights_of(net)
    assert same(average.state_dict(), before)
    expected = {name: value.clone() for name, value in average.named_parameters()}
    for iteration in (1, 2, 3):
        step(model, iteration, seed=iteration)
        for name, value in net.named_parameters():
            if name.startswith(f"{TRAINED[stage]}."):
                expected[name].mul_(0.9).add_(value.detach(), alpha=0.1)

    own = [name for name, _ in net.named_parameters() if name.startswith(f"{TRAINED[stage]}.")]
    for name, value in net.named_parameters():
        trained = name in own
        assert value.requires_grad == trained, name
        assert (value.grad is not None) == trained, name
        assert trained or torch.equal(value, before[name]), name
    # in so narrow a network a few units are dead
    alive = [
        name for name in own if model.optimizer_g.state[net.get_parameter(name)]["exp_avg"].any()
    ]
    assert len(alive) > 0.7 * len(own)
    assert not any(torch.equal(net.get_parameter(name), before[name]) for name in alive)

    groups = model.optimizer_g.param_groups
    assert [id(p) for p in groups[0]["params"]] == [id(net.get_parameter(name)) for name in own]
    assert len(model.optimizer_g.state) == len(own)

    for name, value in average.named_parameters():
        if name in own:
            torch.testing.assert_close(value, expected[name])
            assert value is not net.get_parameter(name)
            assert not value.requires_grad
        else:
            assert value is net.get_parameter(name), f"{name} is kept twice"
    assert net.training and not average.training
    assert not any(part.training for name, part in net.named_children() if name != TRAINED[stage])


def test_the_generators_step_leaves_the_discriminator_alone(make_vqir: Make) -> None:
    model = make_vqir(2, train__optim_d__lr=0.0)
    before = {name: value.clone() for name, value in model.net_d.named_parameters()}
    step(model, 1)
    assert all(torch.equal(value, before[name]) for name, value in model.net_d.named_parameters())
    model = make_vqir(2, train__optim_d__lr=1e-3)
    step(model, 1)
    changes = [not torch.equal(v, before[name]) for name, v in model.net_d.named_parameters()]
    # as long as all of it is within the hinge, the last bias is drawn both ways alike
    assert sum(changes) >= len(changes) - 1


@pytest.mark.parametrize("stage", [1, 2])
def test_one_file_restores(make_vqir: Make, load_vqir: Make, tmp_path: Path, stage: int) -> None:
    model = make_vqir(stage, train__ema_decay=0.9)
    step(model, 1)
    model.save(0, 1)
    path = tmp_path / "models" / "net_g_1.pth"
    checkpoint = torch.load(path)
    assert checkpoint.keys() == {"config", "params", "params_ema"}
    net = VQIR(**checkpoint["config"])
    for key, source in (("params", model.net_g), ("params_ema", model.net_g_ema)):
        net.load_state_dict(checkpoint[key])
        assert same(net.state_dict(), source.state_dict())
        assert same(
            load_vqir(stage, path, path__param_key_g=key).net_g.state_dict(), source.state_dict()
        )
    for name, value in checkpoint["params"].items():
        once = value.data_ptr() == checkpoint["params_ema"][name].data_ptr()
        assert once == (not name.startswith(f"{TRAINED[stage]}.")), name
    names = {entry.name for entry in (tmp_path / "models").iterdir()}
    assert names == ({"net_g_1.pth"} if stage == 1 else {"net_g_1.pth", "net_d_1.pth"})


@pytest.mark.parametrize("stage", [1, 2])
def test_resuming_brings_everything_back(make_vqir: Make, tmp_path: Path, stage: int) -> None:
    losses = {"train__feature_opt": FEATURES, "train__gan_start": 2} if stage == 2 else {}
    model = make_vqir(stage, train__ema_decay=0.9, **losses)
    for iteration in (1, 2):
        model.update_learning_rate(iteration)
        step(model, iteration, seed=iteration)
    model.save(0, 2)
    path = {
        # BasicSR puts the saved files into the options; what training started from stays there
        "pretrain_network_vqgan": "/no/longer/there.ckpt",
        "pretrain_network_g": str(tmp_path / "models" / "net_g_2.pth"),
        "pretrain_network_d": str(tmp_path / "models" / "net_d_2.pth"),
        "resume_state": str(tmp_path / "training_states" / "2.state"),
    }
    again = make_vqir(stage, path=path, train__ema_decay=0.9, **losses)
    again.resume_training(torch.load(path["resume_state"]))
    for one in (model, again):
        one.update_learning_rate(3)
        step(one, 3, seed=3)
    assert ("l_feat" in model.get_current_log()) == (stage == 2)
    nets = ["net_g", "net_g_ema", *(["net_d"] if stage == 2 else [])]
    for name in nets:
        assert same(getattr(again, name).state_dict(), getattr(model, name).state_dict()), name
