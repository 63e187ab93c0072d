"""The model of BasicSR's framework: weights in and out, the moving average, saving."""

import importlib
import math
import os
import pickle
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rescale_compat  # noqa: F401  must precede basicsr

import pytest
import torch
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, MODEL_REGISTRY
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from training import NETWORK, changed, model_options, test_options, train_options

import rescale_model.registration
from rescale_arch import AIDN, VQGAN
from rescale_arch.bicubic import bicubic_lr
from rescale_data.weight_file import save_weights
from rescale_model.models.aidn import AIDNModel
from rescale_model.training.random_jpeg import RandomJPEG
from rescale_model.training.scale_schedule import ScaleSchedule

Weights = dict[str, Tensor]
Make = Callable[..., AIDNModel]
CONFIG = {key: value for key, value in NETWORK.items() if key != "type"}


def network(seed: int, **keywords: Any) -> AIDN:
    """A network of which every entry, batch statistics included, depends on the seed."""
    torch.manual_seed(seed)
    net = AIDN(**(CONFIG | keywords))
    for name, buffer in net.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    return net


def same(a: Weights, b: Weights) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def make(hr_folder: Path, tmp_path: Path) -> Make:
    """Builds a model that trains, with changed options."""

    def build(**changes: Any) -> AIDNModel:
        options = train_options(hr_folder, hr_folder)
        torch.manual_seed(0)
        named = {name.replace("__", ": "): value for name, value in changes.items()}
        return AIDNModel(model_options(changed(options, named), tmp_path, is_train=True))

    return build


@pytest.fixture
def load(hr_folder: Path, tmp_path: Path) -> Callable[..., Weights]:
    """Loads a file as a test does and returns the network's weights."""

    def run(path: Path, **entries: Any) -> Weights:
        options = changed(
            test_options(hr_folder, path), {"path": {"pretrain_network_g": str(path)}}
        )
        options["path"] |= entries
        model = AIDNModel(model_options(options, tmp_path, is_train=False))
        weights: Weights = model.net_g.state_dict()
        return weights

    return run


def step(model: AIDNModel, iteration: int, seed: int = 0) -> None:
    torch.manual_seed(seed)
    model.feed_data({"gt": torch.rand(2, 3, 32, 32)})
    model.optimize_parameters(iteration)


# registering ------------------------------------------------------------------------------------


def test_registering_again_changes_nothing() -> None:
    registries = (ARCH_REGISTRY, DATASET_REGISTRY, MODEL_REGISTRY)
    before = [dict(iter(registry)) for registry in registries]
    rescale_model.register()
    rescale_model.register()
    again = importlib.reload(rescale_model.registration)
    again.register()
    assert [dict(iter(registry)) for registry in registries] == before
    assert MODEL_REGISTRY.get("AIDNModel") is AIDNModel
    assert ARCH_REGISTRY.get("AIDN") is AIDN


def test_a_name_that_another_package_holds_is_not_taken_over() -> None:
    class AIDN:
        pass

    holder = ARCH_REGISTRY._obj_map
    ours = holder["AIDN"]
    holder["AIDN"] = AIDN
    try:
        with pytest.raises(AssertionError, match="AIDN"):
            rescale_model.register()
        assert holder["AIDN"] is AIDN
    finally:
        holder["AIDN"] = ours


# training ---------------------------------------------------------------------------------------


def test_a_step_uses_the_scale_of_its_iteration(make: Make) -> None:
    model = make()
    schedule = ScaleSchedule(seed=3, integer_iter=2)
    for iteration in (1, 2, 3, 40):
        step(model, iteration)
        log = model.get_current_log()
        assert log["scale"] == schedule(iteration)
        assert {"l_pix", "l_guide"} <= log.keys()


def test_losses_are_those_of_the_recipe(make: Make) -> None:
    model = make(train__pixel_opt={"type": "L1Loss", "loss_weight": 2.0})
    net = network(0)
    net.load_state_dict(model.net_g.state_dict())
    step(model, 5)
    hr = model.gt
    net.train()
    lr, restored = net(hr, model.scale)
    guide = bicubic_lr(hr, model.scale)
    log = model.get_current_log()
    assert log["l_pix"] == pytest.approx(2 * (restored - hr).abs().mean().item(), rel=1e-5)
    assert log["l_guide"] == pytest.approx((lr - guide).square().mean().item(), rel=1e-5)


def test_a_step_uses_the_jpeg_of_its_iteration(make: Make) -> None:
    options = {"quality": [30, 90], "chroma": [444, 420]}
    model = make(network_g__jpeg_quality=90, train__jpeg=options)
    jpeg = RandomJPEG((30, 90), (444, 420), seed=3)
    net = network(0, jpeg_quality=90)
    for iteration in (1, 2, 40):
        net.load_state_dict(model.net_g.state_dict())
        step(model, iteration)
        setting = jpeg.setting(iteration)
        _, restored = net(model.gt, model.scale, jpeg.channel(setting))
        log = model.get_current_log()
        assert (log["jpeg"], log["chroma"]) == (setting.quality, setting.chroma)
        assert log["l_pix"] == pytest.approx((restored - model.gt).abs().mean().item(), rel=1e-5)
        assert model.step_note() == f"scale {model.scale:g}, {setting}"


def test_without_the_option_the_jpeg_is_that_of_the_network(make: Make) -> None:
    model = make(network_g__jpeg_quality=90)
    net = network(0, jpeg_quality=90)
    net.load_state_dict(model.net_g.state_dict())
    step(model, 1)
    _, restored = net(model.gt, model.scale)
    log = model.get_current_log()
    assert log["l_pix"] == pytest.approx((restored - model.gt).abs().mean().item(), rel=1e-5)
    assert not {"jpeg", "chroma"} & log.keys()


def test_random_jpeg_is_for_a_network_with_jpeg(make: Make) -> None:
    with pytest.raises(ValueError, match="option train: jpeg requires netw"):
        make(train__jpeg={})


@pytest.mark.parametrize("schedule", [[[7, 0], [3, 10]], {7: 0, 3: 10}])
def test_the_guide_weight_follows_its_schedule(make: Make, schedule: Any) -> None:
    model = make(
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


def test_a_network_grows_from_a_smaller_one(make: Make, tmp_path: Path) -> None:
    small = network(1)
    path = tmp_path / "small.safetensors"
    save_weights(path, small.state_dict())
    model = make(network_g__num_feat=16, path__pretrain_network_small=str(path))
    hr = torch.rand(1, 3, 20, 30)
    for net in (model.net_g, model.net_g_ema):
        restored = net.eval()(hr, 2.5)[1]
        torch.testing.assert_close(restored, small.eval()(hr, 2.5)[1], rtol=0, atol=1e-5)


FAST = {"network_g__down_unshuffle": 2, "network_g__down_num_feat": 16}


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    path = tmp_path / "teacher.safetensors"
    save_weights(path, network(1).state_dict())
    return path


def test_only_down_net_learns_from_the_teacher_at_first(make: Make, teacher: Path) -> None:
    changes = {**FAST, "train__teacher_iter": 2, "train__guide_opt__loss_weight": 3.0}
    model = make(**changes, path__pretrain_network_teacher=str(teacher))
    weights = network(1).state_dict()
    up_net = {name: value for name, value in weights.items() if name.startswith("up_net.")}
    for net in (model.net_g, model.net_g_ema):
        state = net.state_dict()
        assert same(up_net, {name: state[name] for name in up_net})

    before = {name: value.clone() for name, value in model.net_g.state_dict().items()}
    step(model, 1)
    target = network(1).eval().requires_grad_(False).downscale(model.gt, model.scale)
    twin = network(0, down_unshuffle=2, down_num_feat=16)
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


def test_a_teacher_has_to_fit(make: Make, teacher: Path) -> None:
    with pytest.raises(ValueError, match="teacher_iter requires path: pretrain_network_teacher"):
        make(train__teacher_iter=2)
    with pytest.raises(ValueError, match=r"teacher\.safetensors does not fit AIDN: .* up_net"):
        make(network_g__num_feat=16, path__pretrain_network_teacher=str(teacher))
    with pytest.raises(
        ValueError, match="only one of pretrain_network_small, pretrain_network_teacher"
    ):
        make(path__pretrain_network_small=str(teacher), path__pretrain_network_teacher=str(teacher))
    vqgan = teacher.with_name("vqgan.safetensors")
    net = VQGAN(ch=32, ch_mult=(1, 2), attn_resolutions=(), z_channels=4, embed_dim=4, n_embed=4)
    save_weights(vqgan, net.state_dict())
    with pytest.raises(ValueError, match=r"vqgan\.safetensors: expected an AIDN as the teacher"):
        make(path__pretrain_network_teacher=str(vqgan))


def test_a_network_starts_from_one_file(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    save_weights(path, network(1).state_dict())
    with pytest.raises(ValueError, match="only one of pretrain_network_g, pretrain_network_small"):
        make(path__pretrain_network_g=str(path), path__pretrain_network_small=str(path))
    with pytest.raises(ValueError, match=r"small\.safetensors: num_block is 1, less than 2"):
        make(network_g__num_block=1, path__pretrain_network_small=str(path))


def test_a_fixed_scale_needs_no_schedule(make: Make) -> None:
    model = make(network_g__fixed_scale=3, network_g__adapt_interval=..., val__scales=None)
    step(model, 1)
    assert model.get_current_log()["scale"] == 3
    assert model.validation_cases() == {"x3": (3.0, 3.0)}


def test_the_average_follows_and_batch_statistics_are_copied(make: Make) -> None:
    model = make(train__ema_decay=0.9)
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


def test_the_average_takes_a_few_kernels_however_many_tensors_there_are(make: Make) -> None:
    class Count(TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, func: Any, _: Any, args: Any, kwargs: Any = None) -> Any:
            self.calls += "detach" not in str(func)
            return func(*args, **(kwargs or {}))

    model = make(train__ema_decay=0.9)
    assert len(list(model.net_g.parameters())) > 50
    with Count() as count:
        model.model_ema(0.9)
    assert count.calls == 3  # parameters, batch statistics, their numbers of batches


def test_any_optimizer_of_torch(make: Make) -> None:
    model = make(train__optim_g={"type": "AdamW", "lr": 1e-3, "weight_decay": 0.1})
    assert type(model.optimizer_g) is torch.optim.AdamW
    assert model.optimizer_g.param_groups[0]["weight_decay"] == 0.1
    before = model.net_g.down_net.head[0].weight.clone()
    step(model, 1)
    assert not torch.equal(model.net_g.down_net.head[0].weight, before)


def test_half_precision_keeps_the_weights_in_full(make: Make) -> None:
    full, half = make(), make(train__precision="bf16")
    for model in (full, half):
        step(model, 5)
    assert all(value.dtype != torch.bfloat16 for value in half.net_g.state_dict().values())
    assert half.get_current_log()["l_pix"] != full.get_current_log()["l_pix"]
    assert half.get_current_log()["l_pix"] == pytest.approx(
        full.get_current_log()["l_pix"], rel=0.05
    )


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
def test_wrong_options(make: Make, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_an_unknown_precision(make: Make) -> None:
    model = make(train__precision="fp16")
    with pytest.raises(
        ValueError, match="train: precision is 'fp16': expected one of auto, fp32, bf16"
    ):
        step(model, 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(make: Make) -> None:
    with pytest.raises(ValueError, match="num_gpu is 1, but PyTorch finds no GPU"):
        make(num_gpu=1)


def test_several_gpus_in_one_process_are_refused(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ValueError, match=r"num_gpu is 4, .*torchrun --nproc_per_node 4"):
        make(num_gpu=4)


# loading ----------------------------------------------------------------------------------------


def test_the_authors_form(load: Callable[..., Weights], tmp_path: Path) -> None:
    weights = network(1).state_dict()
    entries = {f"module.{name}": value for name, value in weights.items()}
    entries["module.jpeg.compress.l1.bias"] = torch.zeros(3)
    path = tmp_path / "authors.pth.tar"
    torch.save({"epoch": 300, "state_dict": entries}, path)
    for param_key in ("params", "params_ema", "state_dict"):
        assert same(load(path, param_key_g=param_key), weights)


def test_both_networks_of_basicsr(load: Callable[..., Weights], tmp_path: Path) -> None:
    trained, average = network(1).state_dict(), network(2).state_dict()
    path = tmp_path / "net_g_5.pth"
    torch.save({"params": trained, "params_ema": average}, path)
    assert same(load(path), trained)
    assert same(load(path, param_key_g="params"), trained)
    assert same(load(path, param_key_g="params_ema"), average)
    with pytest.raises(ValueError, match=r"net_g_5\.pth: no entry 'weights'; present: params"):
        load(path, param_key_g="weights")


def test_the_only_weights_are_taken_by_either_name(
    load: Callable[..., Weights], tmp_path: Path
) -> None:
    weights = network(1).state_dict()
    for key in ("params", "params_ema"):
        torch.save({key: weights}, tmp_path / "one.pth")
        for param_key in ("params", "params_ema"):
            assert same(load(tmp_path / "one.pth", param_key_g=param_key), weights)


def test_safetensors_and_bare_state_dicts(load: Callable[..., Weights], tmp_path: Path) -> None:
    weights = network(1).state_dict()
    save_weights(tmp_path / "net.safetensors", weights, CONFIG)
    torch.save(weights, tmp_path / "bare.pth")
    for name in ("net.safetensors", "bare.pth"):
        assert same(load(tmp_path / name), weights)


def test_entries_that_do_not_match_are_listed(load: Callable[..., Weights], tmp_path: Path) -> None:
    weights = network(1).state_dict()
    lost = weights.pop("up_net.head.0.bias")
    weights["up_net.head.0.bais"] = lost
    weights["down_net.head.0.bias"] = torch.zeros(3)
    path = tmp_path / "odd.pth"
    torch.save({"params": weights}, path)
    with pytest.raises(ValueError) as caught:
        load(path)
    message = str(caught.value)
    assert "odd.pth does not fit AIDN" in message
    assert "1 missing: up_net.head.0.bias" in message
    assert "1 unexpected: up_net.head.0.bais" in message
    assert "down_net.head.0.bias (3,) for (8,)" in message


def test_matching_entries_are_loaded_from_a_fixed_scale(
    make: Make, tmp_path: Path, load: Callable[..., Weights]
) -> None:
    fixed = network(1, fixed_scale=4).state_dict()
    path = tmp_path / "x4.pth"
    torch.save({"params": fixed}, path)
    with pytest.raises(ValueError, match=r"x4\.pth does not fit AIDN: .* missing: .*sa_adapt"):
        load(path)
    fresh = make().net_g.state_dict()
    model = make(path__pretrain_network_g=str(path), path__strict_load_g=False)
    loaded = model.net_g.state_dict()
    shared = {name for name in loaded if name in fixed and fixed[name].shape == loaded[name].shape}
    assert {"down_net.head.0.weight", "up_net.body.0.body.0.weight"} <= shared < loaded.keys()
    for name, value in loaded.items():
        assert torch.equal(value, fixed[name] if name in shared else fresh[name]), name
    # the average starts where the network does, in the entries of either kind
    assert same(model.net_g_ema.state_dict(), loaded)


def test_weights_without_common_entries_are_rejected(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"params": {"conv.weight": torch.zeros(3, 3)}}, path)
    with pytest.raises(ValueError, match=r"other\.pth shares no entry with AIDN"):
        make(path__pretrain_network_g=str(path), path__strict_load_g=False)


class Hostile:
    def __init__(self, witness: Path) -> None:
        self.witness = str(witness)

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self.witness,)


def test_a_hostile_file_is_not_executed(load: Callable[..., Weights], tmp_path: Path) -> None:
    witness = tmp_path / "executed"
    pickle.loads(pickle.dumps(Hostile(witness)))
    assert witness.exists(), "it does nothing when it is trusted: this test shows nothing"
    witness.rmdir()
    torch.save({"params": network(1).state_dict(), "x": Hostile(witness)}, tmp_path / "evil.pth")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Hostile(witness), protocol=2))
    for name in ("evil.pth", "evil.pkl"):
        with pytest.raises(ValueError, match=name):
            load(tmp_path / name)
        assert not witness.exists()


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04cut"])
def test_a_broken_file_is_named(
    load: Callable[..., Weights], tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "broken.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.pth"):
        load(tmp_path / "broken.pth")


def test_a_missing_file_is_named(load: Callable[..., Weights], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        load(tmp_path / "nowhere.pth")


# saving -----------------------------------------------------------------------------------------


def test_a_checkpoint_holds_both_networks_and_their_config(
    make: Make, tmp_path: Path, load: Callable[..., Weights]
) -> None:
    model = make()
    step(model, 1)
    model.save(0, 1)
    path = tmp_path / "models" / "net_g_1.pth"
    checkpoint = torch.load(path)
    assert checkpoint.keys() == {"config", "params", "params_ema"}
    assert checkpoint["config"] == CONFIG
    assert same(checkpoint["params"], model.net_g.state_dict())
    assert same(load(path, param_key_g="params_ema"), model.net_g_ema.state_dict())
    AIDN(**checkpoint["config"]).load_state_dict(checkpoint["params"])
    model.save(-1, -1)
    assert same(load(tmp_path / "models" / "net_g_latest.pth"), model.net_g.state_dict())
    assert os.listdir(tmp_path / "training_states") == ["1.state"]


@pytest.mark.parametrize("strict", [True, False])
def test_resuming_brings_everything_back(make: Make, tmp_path: Path, strict: bool) -> None:
    model = make()
    for iteration in (1, 2, 3):
        model.update_learning_rate(iteration)
        step(model, iteration, seed=iteration)
    model.save(0, 3)
    again = make(
        path__pretrain_network_g=str(tmp_path / "models" / "net_g_3.pth"),
        path__strict_load_g=strict,  # as after a start from a fixed scale
    )
    again.resume_training(torch.load(tmp_path / "training_states" / "3.state"))
    assert same(again.net_g_ema.state_dict(), model.net_g_ema.state_dict())
    for one in (model, again):
        one.update_learning_rate(4)
        step(one, 4, seed=4)
    assert same(again.net_g.state_dict(), model.net_g.state_dict())
    assert same(again.net_g_ema.state_dict(), model.net_g_ema.state_dict())
    assert again.get_current_learning_rate() == model.get_current_learning_rate()


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Files of this process cannot grow over ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_older_files_whole(make: Make, tmp_path: Path) -> None:
    model = make()
    step(model, 1)
    for iteration in (1, -1):
        model.save(0, iteration)
    old = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    step(model, 2)
    for save, name in (
        (lambda: model.save(0, 1), "net_g_1.pth"),
        (lambda: model.save(-1, -1), "net_g_latest.pth"),
        (lambda: model.save_training_state(0, 1), "1.state"),
    ):
        with full_disk(5000), pytest.raises(OSError, match="File too large") as caught:
            save()
        assert name in str(caught.value)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == old


def test_a_folder_that_cannot_be_written_is_named(make: Make, tmp_path: Path) -> None:
    model = make()
    (tmp_path / "models").rmdir()
    with pytest.raises(FileNotFoundError, match=r"models/net_g_1\.pth"):
        model.save(0, 1)
    (tmp_path / "models").touch()
    with pytest.raises(NotADirectoryError, match=r"models/net_g_1\.pth"):
        model.save(0, 1)
    assert not list((tmp_path / "training_states").iterdir())
