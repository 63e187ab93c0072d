"""Training of AIDN: what a step does, the moving average, a teacher, and wrong options."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_networks import tiny_aidn
from torch.utils._python_dispatch import TorchDispatchMode
from training import Make, same, step

from rescale_arch import VQGAN
from rescale_arch.bicubic import bicubic_lr
from rescale_data.weight_file import save_weights
from rescale_model.training.random_jpeg import RandomJPEG
from rescale_model.training.scale_schedule import ScaleSchedule

# a step -----------------------------------------------------------------------------------------


def test_a_step_uses_the_scale_of_its_iteration(make_aidn: Make) -> None:
    model = make_aidn()
    schedule = ScaleSchedule(seed=3, integer_iter=2)
    for iteration in (1, 2, 3, 40):
        step(model, iteration)
        log = model.get_current_log()
        assert log["scale"] == schedule(iteration)
        assert {"l_pix", "l_guide"} <= log.keys()


def test_losses_are_those_of_the_recipe(make_aidn: Make) -> None:
    model = make_aidn(train__pixel_opt={"type": "L1Loss", "loss_weight": 2.0})
    net = tiny_aidn(0)
    net.load_state_dict(model.net_g.state_dict())
    step(model, 5)
    hr = model.gt
    net.train()
    lr, restored = net(hr, model.scale)
    guide = bicubic_lr(hr, model.scale)
    log = model.get_current_log()
    assert log["l_pix"] == pytest.approx(2 * (restored - hr).abs().mean().item(), rel=1e-5)
    assert log["l_guide"] == pytest.approx((lr - guide).square().mean().item(), rel=1e-5)


def test_a_step_uses_the_jpeg_of_its_iteration(make_aidn: Make) -> None:
    options = {"quality": [30, 90], "chroma": [444, 420]}
    model = make_aidn(network_g__jpeg_quality=90, train__jpeg=options)
    jpeg = RandomJPEG((30, 90), (444, 420), seed=3)
    net = tiny_aidn(0, jpeg_quality=90)
    for iteration in (1, 2, 40):
        net.load_state_dict(model.net_g.state_dict())
        step(model, iteration)
        setting = jpeg.setting(iteration)
        _, restored = net(model.gt, model.scale, jpeg.channel(setting))
        log = model.get_current_log()
        assert (log["jpeg"], log["chroma"]) == (setting.quality, setting.chroma)
        assert log["l_pix"] == pytest.approx((restored - model.gt).abs().mean().item(), rel=1e-5)
        assert model.step_note() == f"scale {model.scale:g}, {setting}"


def test_without_the_option_the_jpeg_is_that_of_the_network(make_aidn: Make) -> None:
    model = make_aidn(network_g__jpeg_quality=90)
    net = tiny_aidn(0, jpeg_quality=90)
    net.load_state_dict(model.net_g.state_dict())
    step(model, 1)
    _, restored = net(model.gt, model.scale)
    log = model.get_current_log()
    assert log["l_pix"] == pytest.approx((restored - model.gt).abs().mean().item(), rel=1e-5)
    assert not {"jpeg", "chroma"} & log.keys()


def test_random_jpeg_is_for_a_network_with_jpeg(make_aidn: Make) -> None:
    with pytest.raises(ValueError, match="option train: jpeg requires netw"):
        make_aidn(train__jpeg={})


@pytest.mark.parametrize("schedule", [[[7, 0], [3, 10]], {7: 0, 3: 10}])
def test_the_guide_weight_follows_its_schedule(make_aidn: Make, schedule: Any) -> None:
    model = make_aidn(
        train__guide_weights=schedule,
        train__scales={"low": 2, "high": 2},
        train__optim_g={"type": "SGD", "lr": 0.0},
    )
    losses = {}
    for iteration in (1, 2, 3, 6, 7):
        step(model, iteration)
        losses[iteration] = model.get_current_log()["l_guide"]
    expected = {1: 1, 2: 1, 3: 10, 6: 10, 7: 0}
    assert losses == pytest.approx({at: losses[1] * weight for at, weight in expected.items()})


def test_a_fixed_scale_needs_no_schedule(make_aidn: Make) -> None:
    model = make_aidn(network_g__fixed_scale=3, network_g__adapt_interval=..., val__scales=None)
    step(model, 1)
    assert model.get_current_log()["scale"] == 3
    assert model.validation_cases() == {"x3": (3.0, 3.0)}


def test_any_optimizer_of_torch(make_aidn: Make) -> None:
    model = make_aidn(train__optim_g={"type": "AdamW", "lr": 1e-3, "weight_decay": 0.1})
    assert type(model.optimizer_g) is torch.optim.AdamW
    assert model.optimizer_g.param_groups[0]["weight_decay"] == 0.1
    before = model.net_g.down_net.head[0].weight.clone()
    step(model, 1)
    assert not torch.equal(model.net_g.down_net.head[0].weight, before)


def test_half_precision_keeps_the_weights_in_full(make_aidn: Make) -> None:
    full, half = make_aidn(), make_aidn(train__precision="bf16")
    for model in (full, half):
        step(model, 5)
    assert all(value.dtype != torch.bfloat16 for value in half.net_g.state_dict().values())
    assert half.get_current_log()["l_pix"] != full.get_current_log()["l_pix"]
    assert half.get_current_log()["l_pix"] == pytest.approx(
        full.get_current_log()["l_pix"], rel=0.05
    )


# the average ------------------------------------------------------------------------------------


def test_the_average_follows_and_batch_statistics_are_copied(make_aidn: Make) -> None:
    model = make_aidn(train__ema_decay=0.9)
    assert same(model.net_g.state_dict(), model.net_g_ema.state_dict())
    average = {name: value.clone() for name, value in model.net_g_ema.named_parameters()}
    for iteration in (1, 2):
        step(model, iteration, seed=iteration)
        for name, value in model.net_g.named_parameters():
            average[name].mul_(0.9).add_(value.detach(), alpha=0.1)
    for name, value in model.net_g_ema.named_parameters():
        torch.testing.assert_close(value, average[name])
    trained, averaged = dict(model.net_g.named_buffers()), dict(model.net_g_ema.named_buffers())
    assert same(trained, averaged)
    assert {int(v) for name, v in averaged.items() if name.endswith("num_batches_tracked")} == {2}
    assert not same(model.net_g.state_dict(), model.net_g_ema.state_dict())
    assert not model.net_g_ema.training


def test_the_average_takes_a_few_kernels_however_many_tensors_there_are(make_aidn: Make) -> None:
    class Count(TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, func: Any, _: Any, args: Any, kwargs: Any = None) -> Any:
            self.calls += "detach" not in str(func)
            return func(*args, **(kwargs or {}))

    model = make_aidn(train__ema_decay=0.9)
    assert len(list(model.net_g.parameters())) > 50
    with Count() as count:
        model.model_ema(0.9)
    assert count.calls == 3  # parameters, batch statistics, their numbers of batches


# other networks to start from -------------------------------------------------------------------


def test_a_network_grows_from_a_smaller_one(make_aidn: Make, tmp_path: Path) -> None:
    small = tiny_aidn(1)
    path = tmp_path / "small.safetensors"
    save_weights(path, small.state_dict())
    model = make_aidn(network_g__num_feat=16, path__pretrain_network_small=str(path))
    hr = torch.rand(1, 3, 20, 30)
    for net in (model.net_g, model.net_g_ema):
        restored = net.eval()(hr, 2.5)[1]
        torch.testing.assert_close(restored, small.eval()(hr, 2.5)[1], rtol=0, atol=1e-5)


FAST = {"network_g__down_unshuffle": 2, "network_g__down_num_feat": 16}


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    path = tmp_path / "teacher.safetensors"
    save_weights(path, tiny_aidn(1).state_dict())
    return path


def test_only_down_net_learns_from_the_teacher_at_first(make_aidn: Make, teacher: Path) -> None:
    changes = {**FAST, "train__teacher_iter": 2, "train__guide_opt__loss_weight": 3.0}
    model = make_aidn(**changes, path__pretrain_network_teacher=str(teacher))
    weights = tiny_aidn(1).state_dict()
    up_net = {name: value for name, value in weights.items() if name.startswith("up_net.")}
    for net in (model.net_g, model.net_g_ema):
        state = net.state_dict()
        assert same(up_net, {name: state[name] for name in up_net})

    before = {name: value.clone() for name, value in model.net_g.state_dict().items()}
    step(model, 1)
    target = tiny_aidn(1).eval().requires_grad_(False).downscale(model.gt, model.scale)
    twin = tiny_aidn(0, down_unshuffle=2, down_num_feat=16)
    twin.load_state_dict(before)
    lr = twin.train().downscale(model.gt, model.scale)
    log = model.get_current_log()
    assert log.keys() == {"l_teacher", "scale"}
    assert log["l_teacher"] == pytest.approx(3 * (lr - target).square().mean().item(), rel=1e-4)
    step(model, 2)
    after = model.net_g.state_dict()
    assert same(up_net, {name: after[name] for name in up_net})
    changed = [p for name, p in model.net_g.down_net.named_parameters() if p.requires_grad]
    assert all(parameter.grad is not None for parameter in changed)
    assert not torch.equal(after["down_net.head.0.weight"], before["down_net.head.0.weight"])

    step(model, 3)
    assert model.get_current_log().keys() == {"l_pix", "l_guide", "scale"}
    assert not torch.equal(model.net_g.up_net.head[0].weight, up_net["up_net.head.0.weight"])


def test_a_teacher_has_to_fit(make_aidn: Make, teacher: Path) -> None:
    with pytest.raises(ValueError, match="teacher_iter requires path: pretrain_network_teacher"):
        make_aidn(train__teacher_iter=2)
    with pytest.raises(ValueError, match=r"teacher\.safetensors does not fit AIDN: .* up_net"):
        make_aidn(network_g__num_feat=16, path__pretrain_network_teacher=str(teacher))
    with pytest.raises(
        ValueError, match="only one of pretrain_network_small, pretrain_network_teacher"
    ):
        make_aidn(
            path__pretrain_network_small=str(teacher), path__pretrain_network_teacher=str(teacher)
        )
    vqgan = teacher.with_name("vqgan.safetensors")
    net = VQGAN(ch=32, ch_mult=(1, 2), attn_resolutions=(), z_channels=4, embed_dim=4, n_embed=4)
    save_weights(vqgan, net.state_dict())
    with pytest.raises(ValueError, match=r"vqgan\.safetensors: expected an AIDN as the teacher"):
        make_aidn(path__pretrain_network_teacher=str(vqgan))


def test_a_network_starts_from_one_file(make_aidn: Make, tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    save_weights(path, tiny_aidn(1).state_dict())
    with pytest.raises(ValueError, match="only one of pretrain_network_g, pretrain_network_small"):
        make_aidn(path__pretrain_network_g=str(path), path__pretrain_network_small=str(path))
    with pytest.raises(ValueError, match=r"small\.safetensors: num_block is 1, less than 2"):
        make_aidn(network_g__num_block=1, path__pretrain_network_small=str(path))


# wrong options ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train__optim_g": {"type": "Adamm", "lr": 1}}, "torch.optim has no optimizer 'Adamm'"),
        ({"train__guide_opt": ...}, "train: guide_opt is missing: AIDNModel needs it"),
        ({"train__guide_weights": [3, 10]}, "train: guide_weights is \\[3, 10\\]: expected"),
        ({"train__guide_weights": {2.5: 10}}, "train: guide_weights is {2.5: 10}: expected"),
        ({"train__guide_weights": {2: math.nan}}, "train: guide_weights is {2: nan}: expected"),
        ({"val__scales": None}, "val: scales is missing"),
        ({"network_g__num_feat": 12}, "num_feat is 12"),
    ],
)
def test_wrong_options(make_aidn: Make, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_aidn(**changes)


def test_an_unknown_precision(make_aidn: Make) -> None:
    model = make_aidn(train__precision="fp16")
    with pytest.raises(
        ValueError, match="train: precision is 'fp16': expected one of auto, fp32, bf16"
    ):
        step(model, 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(make_aidn: Make) -> None:
    with pytest.raises(ValueError, match="num_gpu is 1, but PyTorch finds no GPU"):
        make_aidn(num_gpu=1)


def test_several_gpus_in_one_process_are_refused(
    make_aidn: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ValueError, match=r"num_gpu is 4, .*torchrun --nproc_per_node 4"):
        make_aidn(num_gpu=4)
