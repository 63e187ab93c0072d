"""Models, option files and runs that several test modules of this folder start from."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from comparing import comparison_options
from tiny_networks import AIDN_TINY
from training import (
    Check,
    Make,
    Options,
    changed,
    model_options,
    named,
    test_options,
    train_options,
    write_options,
)
from validating import METRICS, Judge, Results, validate
from vq_training import (
    MODELS,
    VQ,
    WITHOUT_GAN,
    perturbed,
    vqgan_options,
    vqir_test_options,
    vqir_train_options,
)

from rescale_arch import AIDN, VQGAN, VQIR, imresize, lr_size
from rescale_data.weight_file import save_weights
from rescale_model.models.aidn import AIDNModel
from rescale_model.models.vqgan import VQGANModel
from rescale_model.models.vqir import VQIRModel
from rescale_model.options import check_options

# models ---------------------------------------------------------------------------------------


@pytest.fixture
def make_aidn(hr_folder: Path, tmp_path: Path) -> Make:
    """Builds a model that trains, with changed options."""

    def build(**changes: Any) -> AIDNModel:
        options = changed(train_options(hr_folder, hr_folder), named(**changes))
        torch.manual_seed(0)
        return AIDNModel(model_options(options, tmp_path, is_train=True))

    return build


@pytest.fixture
def make_vqgan(hr_folder: Path, tmp_path: Path) -> Make:
    """Builds a model that trains, with changed options."""

    def build(gan: bool = True, **changes: Any) -> VQGANModel:
        options = changed(vqgan_options(hr_folder, hr_folder), {} if gan else WITHOUT_GAN)
        torch.manual_seed(0)
        options = changed(options, named(**changes))
        return VQGANModel(model_options(options, tmp_path, is_train=True))

    return build


@pytest.fixture(scope="session")
def vqir_starts(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A file to start each stage from: a VQGAN, and a network of stage 1."""
    folder = tmp_path_factory.mktemp("starts")
    torch.manual_seed(0)
    paths = {1: folder / "vqgan.ckpt", 2: folder / "stage1.pth"}
    vqgan = perturbed(VQGAN(**VQ), 1)
    # as released: under state_dict, with the networks of the losses
    torch.save({"state_dict": {**vqgan.state_dict(), "loss.w": torch.zeros(1)}}, paths[1])
    torch.save({"params": perturbed(VQIR(16, 1, **VQ), 2).state_dict()}, paths[2])
    return paths


@pytest.fixture
def make_vqir(vqir_starts: dict[int, Path], hr_folder: Path, tmp_path: Path) -> Make:
    """Builds a model that trains a stage, with changed options."""

    def build(stage: int, **changes: Any) -> VQIRModel:
        options = vqir_train_options(stage, vqir_starts[stage], hr_folder, hr_folder)
        torch.manual_seed(0)
        options = model_options(changed(options, named(**changes)), tmp_path, is_train=True)
        return MODELS[stage](options)

    return build


@pytest.fixture
def load_vqir(hr_folder: Path, tmp_path: Path) -> Make:
    """Builds a model that tests a file of a stage."""

    def build(stage: int, path: Path, **changes: Any) -> VQIRModel:
        options = changed(vqir_test_options(stage, path, hr_folder), named(**changes))
        return MODELS[stage](model_options(options, tmp_path, is_train=False))

    return build


# option files -----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def option_places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder with the LMDB train.lmdb, and a file of weights: they are there, but empty."""
    folder = tmp_path_factory.mktemp("places")
    (folder / "train.lmdb").mkdir()
    for name in ("data.mdb", "meta_info.txt"):
        (folder / "train.lmdb" / name).touch()
    (folder / "weights.pth").touch()
    return folder, folder / "weights.pth"


@pytest.fixture(scope="session")
def valid_train(option_places: tuple[Path, Path]) -> Options:
    """Options of a training that pass all checks."""
    folder, weights = option_places
    options = train_options(folder / "train.lmdb", folder)
    return changed(
        options,
        {"path: pretrain_network_g": str(weights), "logger: wandb": {"project": None}},
    )


@pytest.fixture(scope="session")
def valid_test(option_places: tuple[Path, Path]) -> Options:
    """Options of a test that pass all checks."""
    return test_options(*option_places)


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Writes an option file and checks it."""

    def run(options: Options, is_train: bool = True, forced: tuple[str, ...] = ()) -> None:
        path = write_options(tmp_path / "options.yml", options)
        check_options(str(path), is_train=is_train, forced=forced)

    return run


# runs -------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def thirty_iterations(lmdb: Path, hr_folder: Path) -> Options:
    """A training that validates and saves at the twentieth."""
    return train_options(lmdb, hr_folder)


@pytest.fixture
def four_iterations(thirty_iterations: Options) -> Options:
    """A training that saves at the second and the fourth, and validates nothing."""
    return changed(
        thirty_iterations,
        {
            "train: total_iter": 4,
            "train: scheduler: milestones": [3],
            "logger: save_checkpoint_freq": 2,
            "val": None,
        },
    )


@pytest.fixture(scope="session")
def twelve_iterations(thirty_iterations: Options) -> Options:
    """A training in epochs of eight, which saves and validates in the midst of one."""
    return changed(
        thirty_iterations,
        {
            "train: total_iter": 12,
            "train: warmup_iter": 3,
            "train: scheduler": {
                "type": "CosineAnnealingRestartLR",
                "periods": [7, 7],
                "restart_weights": [1, 0.5],
            },
            "logger: save_checkpoint_freq": 5,
            "val: val_freq": 5,
        },
    )


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """As in the processes that tests start, since sums depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# evaluation -------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def trained_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an AIDN whose results depend on the image."""
    torch.manual_seed(5)
    net = AIDN(**AIDN_TINY)
    path = tmp_path_factory.mktemp("weights") / "net.pth"
    hr = torch.rand(2, 3, 4, 4)
    hr = torch.nn.functional.interpolate(hr, size=(32, 32), mode="bicubic").clamp(0, 1)
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(30):
        lr, restored = net(hr, 2.0)
        guide = imresize(hr, lr_size((32, 32), 2.0), 0.5)
        optimizer.zero_grad()
        ((restored - hr).abs().mean() + (lr - guide).abs().mean()).backward()
        optimizer.step()
    torch.save({"params": net.state_dict()}, path)
    return path


@pytest.fixture
def evaluation_options(hr_folder: Path, trained_weights: Path) -> Options:
    """A test of these weights, without images."""
    return changed(
        test_options(hr_folder, trained_weights),
        {"val: metrics": METRICS, "val: save_img": False},
    )


@pytest.fixture
def judge(evaluation_options: Options, tmp_path: Path) -> Judge:
    """Tests with changed ``val`` options and returns the means: ``<metric>_<case>`` -> value."""

    def run(save_img: bool = False, **val: Any) -> Results:
        options = changed(evaluation_options, {f"val: {key}": value for key, value in val.items()})
        model = AIDNModel(model_options(options, tmp_path, is_train=False))
        validate(model, "evaluated", save_img)
        return dict(model.metric_results)

    return run


@pytest.fixture(scope="session")
def benchmark_sets(hr_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images in Set5/HR, one in Set14."""
    root = tmp_path_factory.mktemp("sets")
    for folder, names in (("Set5/HR", ("chelsea", "coffee")), ("Set14", ("rocket",))):
        (root / folder).mkdir(parents=True)
        for name in names:
            shutil.copy(hr_folder / f"{name}.png", root / folder)
    (root / "Set5" / "LRx2").mkdir()
    return root


@pytest.fixture(scope="session")
def two_networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with first.safetensors and second.safetensors."""
    folder = tmp_path_factory.mktemp("weights")
    for seed, name in enumerate(("first", "second")):
        torch.manual_seed(seed)
        save_weights(folder / f"{name}.safetensors", AIDN(**AIDN_TINY).state_dict(), AIDN_TINY)
    return folder


@pytest.fixture(scope="session")
def benchmark_options(benchmark_sets: Path, two_networks: Path) -> Options:
    """A benchmark of both networks."""
    return comparison_options(benchmark_sets, two_networks)
