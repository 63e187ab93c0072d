"""Training of VQIR in both stages: losses, what is frozen, files, validation."""

import json
import re
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from shutil import copytree
from typing import Any

import rescale_compat  # noqa: F401  must precede basicsr

import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from basicsr.losses.basic_loss import L1Loss
from basicsr.metrics import calculate_psnr
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from training import changed, command, model_options, write_options
from training import train_options as aidn_train_options

from rescale_arch import VQGAN, VQIR, imresize
from rescale_arch.vqgan.architecture import swap_color_order
from rescale_arch.vqir.network import Levels, Recovered
from rescale_data.hr_dataset import HRImageDataset
from rescale_data.image_file import read_image, read_info
from rescale_data.prepare import build_lmdb
from rescale_data.weight_file import fingerprint
from rescale_model.losses import EdgeLoss
from rescale_model.models.vqir import VQIRModel
from rescale_model.models.vqir_refine import VQIRRefineModel
from rescale_model.options import check_options
from rescale_model.training.critic import Critic

Weights = dict[str, Tensor]
Make = Callable[..., Any]
VQ: dict[str, Any] = {
    "ch": 32,
    "ch_mult": [1, 1, 1, 1, 1],
    "num_res_blocks": 1,
    "attn_resolutions": [],
    "z_channels": 32,
    "embed_dim": 32,
    "n_embed": 16,
}
LOSSES: dict[int, dict[str, Any]] = {
    1: {
        "guide_opt": {"type": "MSELoss", "loss_weight": 0.5},
        "code_opt": {"type": "MSELoss"},
        "gram_opt": {"type": "GramLoss"},
    },
    2: {
        "pixel_opt": {"type": "L1Loss"},
        "edge_opt": {"type": "EdgeLoss", "loss_weight": 0.05},
        "gan_opt": {"type": "GANLoss", "gan_type": "hinge", "loss_weight": 0.1},
        "optim_d": {"type": "Adam", "lr": 1e-3, "betas": [0.9, 0.96]},
    },
}
FEATURES = {"type": "L1Loss", "loss_weight": 2.0}
MODELS = {1: VQIRModel, 2: VQIRRefineModel}
TRAINED = {1: "icrm", 2: "refine"}


def train_options(stage: int, start: Path, data: Path, hr_folder: Path) -> dict[str, Any]:
    """Trains a stage from the file of the previous step."""
    options = aidn_train_options(data, hr_folder)
    options |= {
        "name": f"stage{stage}",
        "model_type": MODELS[stage].__name__,
        "network_g": {"type": "VQIR", "factor": 16, "stage": stage, **VQ},
        "path": {f"pretrain_network_{'vqgan' if stage == 1 else 'g'}": str(start)},
    }
    if stage == 2:
        options["network_d"] = {"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 4}
    options["train"] = {
        **{key: options["train"][key] for key in ("scheduler", "total_iter")},
        "ema_decay": 0,
        "optim_g": {"type": "Adam", "lr": 1e-3, "betas": [0.9, 0.96]},
        **LOSSES[stage],
    }
    del options["val"]["scales"]
    return changed(options, {"datasets: train: io_backend": None})


def test_options(stage: int, weights: Path, hr_folder: Path) -> dict[str, Any]:
    """Tests a file of a stage, with all restored images."""
    images = VQIRRefineModel.evaluated if stage == 2 else VQIRModel.evaluated
    return {
        "name": f"evaluated{stage}",
        "model_type": MODELS[stage].__name__,
        "num_gpu": 0,
        "manual_seed": 0,
        "datasets": {
            "test_1": {
                "name": "whole",
                "type": "HRImageDataset",
                "dataroot_gt": str(hr_folder),
                "io_backend": {"type": "disk"},
            }
        },
        "network_g": {"type": "VQIR", "factor": 16, "stage": stage, **VQ},
        "path": {"pretrain_network_g": str(weights)},
        "val": {
            "save_img": True,
            "metrics": {image: {"type": "calculate_psnr", "image": image} for image in images},
        },
    }


test_options.__test__ = False  # type: ignore[attr-defined]


def randomized(net: nn.Module, seed: int) -> nn.Module:
    """Makes outputs depend on every weight: some of them are zero in a new network."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in net.named_parameters():
            if "mix" not in name:
                value.add_(torch.randn(value.shape, generator=generator), alpha=0.02)
        if isinstance(net, VQGAN | VQIR):  # so that not every feature has the same nearest code
            net.quantize.embedding.weight.copy_(
                torch.randn(net.quantize.embedding.weight.shape, generator=generator)
            )
    return net


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def weights_of(net: nn.Module) -> Weights:
    return {name: value.clone() for name, value in net.state_dict().items()}


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A file to start each stage from: a VQGAN, and a network of stage 1."""
    folder = tmp_path_factory.mktemp("starts")
    torch.manual_seed(0)
    paths = {1: folder / "vqgan.ckpt", 2: folder / "stage1.pth"}
    vqgan = randomized(VQGAN(**VQ), 1)
    # as released: under state_dict, with the networks of the losses
    torch.save({"state_dict": {**vqgan.state_dict(), "loss.w": torch.zeros(1)}}, paths[1])
    torch.save({"params": randomized(VQIR(16, 1, **VQ), 2).state_dict()}, paths[2])
    return paths


@pytest.fixture
def make(starts: dict[int, Path], hr_folder: Path, tmp_path: Path) -> Make:
    """Builds a model that trains a stage, with changed options."""

    def build(stage: int, **changes: Any) -> VQIRModel:
        options = train_options(stage, starts[stage], hr_folder, hr_folder)
        torch.manual_seed(0)
        named = {name.replace("__", ": "): value for name, value in changes.items()}
        options = model_options(changed(options, named), tmp_path, is_train=True)
        return MODELS[stage](options)

    return build


@pytest.fixture
def load(starts: dict[int, Path], hr_folder: Path, tmp_path: Path) -> Make:
    """Builds a model that tests a file."""

    def build(stage: int, path: Path, **changes: Any) -> VQIRModel:
        named = {name.replace("__", ": "): value for name, value in changes.items()}
        options = changed(test_options(stage, path, hr_folder), named)
        return MODELS[stage](model_options(options, tmp_path, is_train=False))

    return build


def step(model: VQIRModel, iteration: int, seed: int = 0, size: int = 32) -> None:
    torch.manual_seed(seed)
    model.feed_data({"gt": torch.rand(2, 3, size, size)})
    model.optimize_parameters(iteration)


# losses -----------------------------------------------------------------------------------------


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
def test_losses_of_stage_1(make: Make, factor: int, starts: dict[int, Path]) -> None:
    model = make(1, network_g__factor=factor)
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
def test_losses_of_stage_2(make: Make, perceptual: bool) -> None:
    model = make(2)
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


def test_stage_2_first_learns_without_the_discriminator(make: Make) -> None:
    perceptual = {"type": "GradientLoss", "loss_weight": 0.1}
    model = make(2, train__gan_start=3, train__feature_opt=FEATURES, train__percep_opt=perceptual)
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


def test_feature_matching_of_stage_2(make: Make) -> None:
    """On images in [-1, 1], as the discriminator is given, and without effect on its own step."""
    plain, model = make(2), make(2, train__feature_opt=FEATURES)
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


def test_the_discriminator_learns_what_is_real(make: Make) -> None:
    model = make(2, train__optim_d__lr=5e-3, train__optim_g__lr=0.0)
    logs = []
    for iteration in range(1, 31):
        step(model, iteration)
        logs.append(model.get_current_log())
    assert logs[0]["l_d_real"] + logs[0]["l_d_fake"] == pytest.approx(2, abs=0.5)
    assert logs[-1]["l_d_real"] + logs[-1]["l_d_fake"] < 1


@pytest.mark.parametrize("stage", [1, 2])
def test_training_lowers_the_losses(make: Make, stage: int) -> None:
    model = make(stage)
    logs = []
    for iteration in range(1, 21):
        step(model, iteration)
        logs.append(model.get_current_log())
    for name in ("l_guide", "l_gram") if stage == 1 else ("l_pix", "l_edge"):
        assert logs[-1][name] < 0.95 * logs[0][name], name


@pytest.mark.parametrize("stage", [1, 2])
def test_half_precision(make: Make, stage: int) -> None:
    model = make(stage, train__precision="bf16")
    step(model, 1)
    assert all(np.isfinite(value) for value in model.get_current_log().values())
    assert all(value.dtype != torch.bfloat16 for value in model.net_g.state_dict().values())


# what is frozen ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [1, 2])
def test_only_the_stages_part_is_trained_and_averaged(make: Make, stage: int) -> None:
    model = make(stage, train__ema_decay=0.9)
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


def test_the_generators_step_leaves_the_discriminator_alone(make: Make) -> None:
    model = make(2, train__optim_d__lr=0.0)
    before = {name: value.clone() for name, value in model.net_d.named_parameters()}
    step(model, 1)
    assert all(torch.equal(value, before[name]) for name, value in model.net_d.named_parameters())
    model = make(2, train__optim_d__lr=1e-3)
    step(model, 1)
    changes = [not torch.equal(v, before[name]) for name, v in model.net_d.named_parameters()]
    # as long as all of it is within the hinge, the last bias is drawn both ways alike
    assert sum(changes) >= len(changes) - 1


# starting ---------------------------------------------------------------------------------------


def test_stage_1_starts_from_a_vqgan(make: Make, starts: dict[int, Path]) -> None:
    expected = torch.load(starts[1])["state_dict"]
    model = make(1, train__ema_decay=0.9)
    for net in (model.net_g, model.net_g_ema):
        loaded = net.state_dict()
        for name, value in loaded.items():
            assert name.startswith("icrm.") or torch.equal(value, expected[name]), name
        assert expected.keys() - loaded.keys() == {"loss.w"}
    assert same(model.net_g.icrm.state_dict(), model.net_g_ema.icrm.state_dict())


def test_stage_1_continues_from_a_file_of_stage_1(make: Make, starts: dict[int, Path]) -> None:
    path = {"pretrain_network_g": str(starts[2])}
    assert same(make(1, path=path).net_g.state_dict(), torch.load(starts[2])["params"])


def test_stage_2_starts_from_a_file_of_stage_1(make: Make, starts: dict[int, Path]) -> None:
    expected = torch.load(starts[2])["params"]
    model = make(2, train__ema_decay=0.9)
    assert same(model.net_g.state_dict(), model.net_g_ema.state_dict())
    for name, value in model.net_g.state_dict().items():
        assert name.startswith("refine.") or torch.equal(value, expected[name]), name


def test_stage_2_takes_the_chosen_weights_of_stage_1(make: Make, tmp_path: Path) -> None:
    trained, average = (randomized(VQIR(16, 1, **VQ), seed).state_dict() for seed in (3, 4))
    torch.save({"params": trained, "params_ema": average}, tmp_path / "both.pth")
    for key, expected in (("params", trained), ("params_ema", average)):
        path = {"pretrain_network_g": str(tmp_path / "both.pth"), "param_key_g": key}
        model = make(2, path=path, train__ema_decay=0.9)
        for net in (model.net_g, model.net_g_ema):
            assert torch.equal(
                net.state_dict()["icrm.operations.0.G1.conv1.weight"],
                expected["icrm.operations.0.G1.conv1.weight"],
            )


@pytest.mark.parametrize("stage", [1, 2])
def test_weights_for_bgr(
    make: Make, load: Make, starts: dict[int, Path], tmp_path: Path, stage: int
) -> None:
    wrapper = torch.load(starts[stage])
    ((key, weights),) = wrapper.items()
    path = tmp_path / "bgr.pth"
    torch.save({key: swap_color_order(weights)}, path)
    label = "vqgan" if stage == 1 else "g"
    where = {f"pretrain_network_{label}": str(path)}
    usual, swapped = make(stage), make(stage, path=where, color_order="bgr")
    assert same(swapped.net_g.state_dict(), usual.net_g.state_dict())
    assert not same(make(stage, path=where).net_g.state_dict(), usual.net_g.state_dict())

    # saved weights are for RGB: nothing is swapped again when training continues
    swapped.save(0, 1)
    saved = tmp_path / "models" / "net_g_1.pth"
    state = str(tmp_path / "training_states" / "1.state")
    where |= {"pretrain_network_g": str(saved), "resume_state": state}
    again = make(stage, path=where, color_order="bgr")
    assert same(again.net_g.state_dict(), usual.net_g.state_dict())
    tested = load(stage, saved, color_order="bgr").net_g.state_dict()
    assert same(tested, swap_color_order(usual.net_g.state_dict()))


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        (1, {"path": {}}, "stage 1 starts from pretrain_network_vqgan, .*: neither is given"),
        (
            1,
            {"path": {"pretrain_network_vqgan": 1, "pretrain_network_g": 2}},
            "stage 1 starts from pretrain_network_vqgan, .*: both are given",
        ),
        (2, {"path": {}}, "pretrain_network_g is missing: stage 2 starts from weights of stage 1"),
        (
            1,
            {"path__pretrain_network_vqgan": 2},
            r"stage1\.pth contains a VQIR .*: expected a VQGAN",
        ),
        (
            2,
            {"path__pretrain_network_g": 1},
            r"vqgan\.ckpt contains a VQGAN: expected a VQIR of factor 16, stage 1 or .* stage 2",
        ),
        (
            2,
            {"network_g__factor": 32},
            r"stage1\.pth contains a VQIR of factor 16, .*: expected a VQIR of factor 32, .* or",
        ),
        (1, {"network_g__n_embed": 17}, r"vqgan\.ckpt does not fit VQIR: 1 of another shape: qu"),
        (1, {"network_g__stage": 2}, "stage is 2, but VQIRModel is for stage 1"),
        (2, {"network_g__stage": ...}, "stage is 1, but VQIRRefineModel is for stage 2"),
        (1, {"network_g__type": "VQGAN"}, "type is 'VQGAN': VQIRModel requires VQIR"),
        (1, {"color_order": "grb"}, "color_order is 'grb': expected one of rgb, bgr"),
        (
            1,
            {"path__strict_load_g": False},
            "strict_load_g is false: VQIR loads only complete files",
        ),
        (1, {"train__gram_opt": ...}, "train: gram_opt is missing: VQIRModel needs it"),
        (2, {"train__gan_opt": ...}, "train: gan_opt is missing: VQIRRefineModel needs it"),
        (2, {"train__optim_d": ...}, "train: optim_d is missing"),
        (2, {"network_d": ...}, "network_d is missing"),
        (1, {"path": {"resume_state": 1}}, "pretrain_network_g is missing: .* to resume from"),
        (
            1,
            {"val__metrics": {"psnr": {"type": "calculate_psnr", "image": "half"}}},
            "psnr: image is 'half': expected one of hr, lr, bicubic$",
        ),
    ],
)
def test_wrong_starts_and_options(
    make: Make, starts: dict[int, Path], stage: int, changes: dict[str, Any], message: str
) -> None:
    def filled(value: Any) -> Any:
        return {k: str(starts[v]) for k, v in value.items()} if isinstance(value, dict) else value

    for key, value in changes.items():
        if key == "path":
            changes = {**changes, key: filled(value)}
        elif key.startswith("path__pretrain"):
            changes = {**changes, key: str(starts[value])}
    with pytest.raises(ValueError, match=message) as caught:
        make(stage, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("stage", [1, 2])
def test_tests_need_a_file_of_their_stage(
    load: Make, starts: dict[int, Path], tmp_path: Path, stage: int
) -> None:
    other = tmp_path / "other.pth"
    torch.save(VQIR(16, 3 - stage, **VQ).state_dict(), other)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=rf"other\.pth contains a VQIR .* stage {3 - stage}: .* stage {stage}$"
    ):
        load(stage, other)
    with pytest.raises(ValueError, match=r"vqgan\.ckpt contains a VQGAN: expected a VQIR"):
        load(stage, starts[1])
    torch.save({"conv.weight": torch.zeros(3)}, other)
    neither = r"other\.pth contains neither a VQGAN nor a VQIR: expected a VQIR"
    with pytest.raises(ValueError, match=neither):
        load(stage, other)


# files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [1, 2])
def test_one_file_restores(make: Make, load: Make, tmp_path: Path, stage: int) -> None:
    model = make(stage, train__ema_decay=0.9)
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
            load(stage, path, path__param_key_g=key).net_g.state_dict(), source.state_dict()
        )
    for name, value in checkpoint["params"].items():
        once = value.data_ptr() == checkpoint["params_ema"][name].data_ptr()
        assert once == (not name.startswith(f"{TRAINED[stage]}.")), name
    names = {entry.name for entry in (tmp_path / "models").iterdir()}
    assert names == ({"net_g_1.pth"} if stage == 1 else {"net_g_1.pth", "net_d_1.pth"})


@pytest.mark.parametrize("stage", [1, 2])
def test_resuming_brings_everything_back(make: Make, tmp_path: Path, stage: int) -> None:
    losses = {"train__feature_opt": FEATURES, "train__gan_start": 2} if stage == 2 else {}
    model = make(stage, train__ema_decay=0.9, **losses)
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
    again = make(stage, path=path, train__ema_decay=0.9, **losses)
    again.resume_training(torch.load(path["resume_state"]))
    for one in (model, again):
        one.update_learning_rate(3)
        step(one, 3, seed=3)
    assert ("l_feat" in model.get_current_log()) == (stage == 2)
    nets = ["net_g", "net_g_ema", *(["net_d"] if stage == 2 else [])]
    for name in nets:
        assert same(getattr(again, name).state_dict(), getattr(model, name).state_dict()), name


def test_stage_2_does_not_resume_from_stage_1(
    make: Make, starts: dict[int, Path], tmp_path: Path
) -> None:
    path = {"pretrain_network_g": str(starts[2]), "resume_state": str(tmp_path / "1.state")}
    with pytest.raises(ValueError, match=r"stage1\.pth contains .* stage 1: expected .* stage 2$"):
        make(2, path=path)


# validation -------------------------------------------------------------------------------------


def cropped_psnr(image: Tensor, target: np.ndarray, border: int) -> float:
    pixels = (image.clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()
    return float(calculate_psnr(pixels, target, border))


def eight_bits(image: Tensor) -> np.ndarray:
    pixels: np.ndarray = (image.clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()
    return pixels


@pytest.mark.parametrize(("stage", "factor"), [(1, 16), (2, 16), (1, 32), (2, 32)])
def test_validation_against_an_independent_computation(
    load: Make, tmp_path: Path, hr_folder: Path, stage: int, factor: int
) -> None:
    torch.manual_seed(5)
    net = randomized(VQIR(factor, stage, **VQ), 5).eval()  # type: ignore[arg-type]
    assert isinstance(net, VQIR)
    weights = tmp_path / "net.pth"
    torch.save(net.state_dict(), weights)
    # LR images are a few pixels wide
    metrics = {
        image: {"type": "calculate_psnr", "image": image} for image in MODELS[stage].evaluated
    }
    model = load(stage, weights, network_g__factor=factor, val__metrics=metrics)
    options = {"name": "whole", "phase": "val", "dataroot_gt": str(hr_folder)}
    dataset = HRImageDataset(options)
    model.validation(DataLoader(dataset), "test", None, save_img=True)
    folder = tmp_path / "visualization" / "whole"
    rows = json.loads((folder / "metrics.json").read_text())["images"]
    assert len(rows) == 4

    for row, sample in zip(rows, dataset, strict=True):
        hr = sample["gt"]
        height, width = hr.shape[-2:]
        case = f"x{factor}"
        assert row["case"] == case
        pixels = eight_bits(hr)

        def reduced(by: int, hr: Tensor = hr) -> Tensor:
            sides = [-(-side // by) for side in hr.shape[-2:]]
            return imresize(hr, (sides[0], sides[1]), 1 / by)

        with torch.no_grad():
            stored = torch.from_numpy(eight_bits(net.downscale(hr[None])[0]) / 255).float()
            lr = stored.permute(2, 0, 1)
            restored = net.upscale(lr[None], size=(height, width))[0]
            guide = reduced(factor)
            expected = {"lr": cropped_psnr(lr, eight_bits(guide), 1)}
            both_ways = imresize(
                torch.tensor(eight_bits(guide) / 255).permute(2, 0, 1).float(),
                (height, width),
                factor,
            )
            border = 16 if stage == 2 else factor
            expected["hr"] = cropped_psnr(restored, pixels, border)
            expected["bicubic"] = cropped_psnr(both_ways, pixels, border)
            if stage == 2:
                levels = net.levels(lr[None], size=(height, width))
                expected["half"] = cropped_psnr(levels.half[0], eight_bits(reduced(2)), 8)
                expected["quarter"] = cropped_psnr(levels.quarter[0], eight_bits(reduced(4)), 4)
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, abs=1e-3), name
        assert row.keys() == {"image", "case", *expected}

        stem = folder / f"{row['image']}_{case}"
        assert (read_image(f"{stem}_lr.png") == (stored * 255).round().byte().numpy()).all()
        info = read_info(f"{stem}_lr.png")
        assert info is not None
        assert (info.network, info.scale, info.size) == (
            f"vqir{factor}",
            (factor, factor),
            (height, width),
        )
        assert info.weights == fingerprint(net.state_dict())
        kinds = {path.name[len(stem.name) + 1 :] for path in folder.glob(f"{stem.name}_*")}
        assert kinds == {f"{kind}.png" for kind in expected if kind != "bicubic"}


@pytest.mark.parametrize("stage", [1, 2])
def test_the_average_is_validated_and_training_continues(
    make: Make, hr_folder: Path, stage: int
) -> None:
    model, alone = (make(stage, train__ema_decay=0.5) for _ in range(2))
    dataset = HRImageDataset({"name": "whole", "phase": "val", "dataroot_gt": str(hr_folder)})
    for one in (model, alone):
        step(one, 1)
    model.validation(DataLoader(dataset), 1, None)
    assert model.fingerprint == fingerprint(model.net_g_ema.state_dict())
    for one in (model, alone):
        step(one, 2, seed=2)
    assert same(model.net_g.state_dict(), alone.net_g.state_dict())
    assert same(model.net_g_ema.state_dict(), alone.net_g_ema.state_dict())


# from option files ------------------------------------------------------------------------------


def test_options_are_checked(starts: dict[int, Path], hr_folder: Path, tmp_path: Path) -> None:
    def check(options: dict[str, Any]) -> None:
        check_options(str(write_options(tmp_path / "options.yml", options)), is_train=True)

    first, second = (train_options(s, starts[s], hr_folder, hr_folder) for s in (1, 2))
    check(first)
    check(second)
    missing = {"path: pretrain_network_vqgan": "/no/vqgan.ckpt"}
    misspelled = {"path: pretrain_vqgan": str(starts[1])}
    for options, changes, message in (
        (first, missing, "path: pretrain_network_vqgan: no such .*/no/vqgan.ckpt"),
        (first, misspelled, r"pretrain_vqgan is unknown \(nearest known: pretrain_network_vqgan"),
        (first, {"train: gram_opt: typ": 1}, r"train: gram_opt: typ is unknown .*type"),
        (first, {"colour_order": "bgr"}, r"colour_order is unknown \(nearest known: color_order"),
        (first, {"network_g: facter": 16}, r"network_g: facter is unknown .*factor"),
        (second, {"train: edge_opt: type": "EdgesLoss"}, r"type 'EdgesLoss' .*EdgeLoss"),
        (second, {"train: optim_d: lr": "1e-4"}, "train: optim_d: lr is a string"),
        (second, {"network_d: num_feats": 4}, r"network_d: num_feats is unknown .*num_feat"),
    ):
        with pytest.raises(ValueError, match=message):
            check(changed(options, changes))


_ITERATION = re.compile(r"iter:\s*([\d,]+), lr:.* (l_\w+: .*)")


def losses_logged(experiment: Path) -> dict[int, dict[str, float]]:
    found = {}
    for path in experiment.glob("train_*.log"):
        for match in _ITERATION.finditer(path.read_text()):
            pairs = re.findall(r"(l_\w+): (\S+)", match[0])
            found[int(match[1])] = {name: float(value) for name, value in pairs}
    return dict(sorted(found.items()))


def pipeline(folder: Path, hr_folder: Path) -> list[dict[str, Any]]:
    """VQGAN, stage 1, stage 2, each from the file that the one before saves, from one LMDB."""
    build_lmdb(hr_folder, folder / "train.lmdb")
    steps = [
        train_options(
            stage,
            folder / "experiments" / before / "models" / "net_g_latest.pth",
            folder / "train.lmdb",
            hr_folder,
        )
        for stage, before in ((1, "vqgan"), (2, "stage1"))
    ]
    vqgan = changed(
        steps[0],
        {
            "name": "vqgan",
            "model_type": "VQGANModel",
            "network_g": {"type": "VQGAN", **VQ},
            "path": {"pretrain_network_g": None},
            "train: guide_opt": ...,
            "train: code_opt": ...,
            "train: gram_opt": ...,
            "train: pixel_opt": {"type": "L1Loss"},
            "train: codebook_opt": {"type": "CodeBookLoss"},
            "val: metrics": {"psnr": {"type": "calculate_psnr"}},
        },
    )
    short = {
        "train: total_iter": 6,
        "train: ema_decay": 0.5,
        "val: val_freq": 6,
        "logger: save_checkpoint_freq": 3,
    }
    halves = {
        "datasets: train: half_size_probability": 0.5,
        "datasets: train: size_multiple": 16,
    }
    return [changed(vqgan, short), changed(steps[0], short), changed(steps[1], short | halves)]


def check_run(folder: Path, stage: int, iterations: int) -> None:
    experiment = folder / "experiments" / f"stage{stage}"
    assert list(losses_logged(experiment)) == list(range(1, iterations + 1))
    models = {path.name for path in (experiment / "models").iterdir()}
    assert {"net_g_3.pth", f"net_g_{iterations}.pth", "net_g_latest.pth"} <= models
    assert ("net_d_latest.pth" in models) == (stage == 2)
    names = {path.name for path in experiment.iterdir()}
    assert not any(name.endswith((".pth", ".ckpt")) for name in names)


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["rescale", "basicsr"])
def test_three_steps_from_option_files(tmp_path: Path, hr_folder: Path, runner: str) -> None:
    program: tuple[str, ...] = ("-m", "rescale_app.cli", "train")
    if runner == "basicsr":
        spec = find_spec("basicsr")
        assert spec is not None and spec.submodule_search_locations
        copytree(spec.submodule_search_locations[0], tmp_path / "basicsr")
        program = ("basicsr/train.py",)
    for options in pipeline(tmp_path, hr_folder):
        path = write_options(tmp_path / f"{options['name']}.yml", options)
        check_options(str(path), is_train=True)
        result = command(tmp_path, *program, "-opt", path)
        assert result.returncode == 0, result.stderr
    for stage in (1, 2):
        check_run(tmp_path, stage, 6)
    frozen = {}
    for name in ("vqgan", "stage1", "stage2"):
        weights = tmp_path / "experiments" / name / "models" / "net_g_latest.pth"
        assert weights.is_file()
        frozen[name] = torch.load(weights)["params"]
    for name, value in frozen["vqgan"].items():
        assert torch.equal(value, frozen["stage1"][name]), name
    for name, value in frozen["stage1"].items():
        assert torch.equal(value, frozen["stage2"][name]), name

    # the command continues with the files of either runner
    longer = changed(options, {"train: total_iter": 9})
    path = write_options(tmp_path / "stage2.yml", longer)
    result = command(tmp_path, "-m", "rescale_app.cli", "train", "-opt", path, "--auto_resume")
    assert result.returncode == 0, result.stderr
    check_run(tmp_path, 2, 9)

    for stage in (1, 2):
        weights = tmp_path / "experiments" / f"stage{stage}" / "models" / "net_g_latest.pth"
        path = write_options(tmp_path / "test.yml", test_options(stage, weights, hr_folder))
        script = ("basicsr/test.py",) if runner == "basicsr" else (*program[:-1], "test")
        result = command(tmp_path, *script, "-opt", path)
        assert result.returncode == 0, result.stderr
        results = tmp_path / "results" / f"evaluated{stage}" / "visualization" / "whole"
        means = json.loads((results / "metrics.json").read_text())["mean"]["x16"]
        assert means.keys() == set(MODELS[stage].evaluated)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2])
def test_two_processes_agree(
    tmp_path: Path, hr_folder: Path, starts: dict[int, Path], stage: int
) -> None:
    """Frozen parts do not keep gradients of the trained part from being shared."""
    late = {"train: gan_start": 2, "train: feature_opt": dict(FEATURES)} if stage == 2 else {}
    options = changed(
        train_options(stage, starts[stage], hr_folder, hr_folder),
        {
            **late,
            "train: total_iter": 4,
            "train: ema_decay": 0.5,
            "val: val_freq": 4,
            "val: metrics": {"psnr": {"type": "calculate_psnr"}},
            "val: precision": "fp32",  # bf16 depends on the number of threads
            "logger: save_checkpoint_freq": 4,
        },
    )
    path = write_options(tmp_path / "train.yml", options)
    result = command(
        tmp_path,
        *("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
        *("-m", "rescale_app.cli", "train", "-opt", path, "--launcher", "pytorch"),
    )
    assert result.returncode == 0, result.stderr
    experiment = tmp_path / "experiments" / f"stage{stage}"
    assert list(losses_logged(experiment)) == [1, 2, 3, 4]
    # the ranks validate an image each, and one process finds the same figures
    weights = experiment / "models" / "net_g_latest.pth"
    tests = changed(
        test_options(stage, weights, hr_folder),
        {
            "path: param_key_g": "params_ema",
            "val: metrics": options["val"]["metrics"],
            "val: precision": "fp32",
        },
    )
    path = write_options(tmp_path / "test.yml", tests)
    result = command(tmp_path, "-m", "rescale_app.cli", "test", "-opt", path)
    assert result.returncode == 0, result.stderr
    alone = tmp_path / "results" / f"evaluated{stage}" / "visualization" / "whole" / "metrics.json"
    together = experiment / "visualization" / "whole" / "metrics_4.json"
    one, two = (json.loads(file.read_text())["mean"] for file in (alone, together))
    assert two["x16"]["psnr"] == pytest.approx(one["x16"]["psnr"], rel=1e-5)
