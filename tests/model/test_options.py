"""Option files are checked before anything runs, and all problems are reported at once."""

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import rescale_compat  # noqa: F401  must precede basicsr

import pytest
import yaml
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, MODEL_REGISTRY
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field
from torch import nn
from torch.utils.data import Dataset
from training import PLUGIN, changed, model_options, test_options, train_options, write_options

import rescale_model  # noqa: F401  registers
from rescale_model.models.aidn import AIDNModel
from rescale_model.models.base import RescalingModel
from rescale_model.models.base_options import (
    PathOptions,
    RescalingOptions,
    TrainOptions,
    ValOptions,
)
from rescale_model.options import check_options, read_options

OPTION_FILES = sorted((Path(__file__).parents[2] / "options").glob("*/*.yml"))
Check = Callable[..., None]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("places")
    (folder / "train.lmdb").mkdir()
    for name in ("data.mdb", "meta_info.txt"):
        (folder / "train.lmdb" / name).touch()
    (folder / "weights.pth").touch()
    return folder, folder / "weights.pth"


@pytest.fixture(scope="module")
def train(places: tuple[Path, Path]) -> dict[str, Any]:
    folder, weights = places
    options = train_options(folder / "train.lmdb", folder)
    return changed(
        options,
        {"path: pretrain_network_g": str(weights), "logger: wandb": {"project": None}},
    )


@pytest.fixture(scope="module")
def test(places: tuple[Path, Path]) -> dict[str, Any]:
    return test_options(*places)


@pytest.fixture
def check(tmp_path: Path) -> Check:
    def run(options: dict[str, Any], is_train: bool = True, forced: tuple[str, ...] = ()) -> None:
        path = write_options(tmp_path / "options.yml", options)
        check_options(str(path), is_train=is_train, forced=forced)

    return run


def test_valid_options_pass(train: dict[str, Any], test: dict[str, Any], check: Check) -> None:
    check(train)
    check(test, is_train=False)
    check(changed(train, {"val": None}))
    check(changed(train, {"train: jpeg": {"quality": [75, 75], "chroma": [444], "real": False}}))
    check(changed(train, {"train: scales": ..., "manual_seed": None, "train: total_iter": 5e5}))


@pytest.mark.parametrize("path", OPTION_FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_option_files_are_valid_except_for_the_data(path: Path, tmp_path: Path) -> None:
    options = read_options(str(path))
    assert options["plugin"] == "rescale_model.register"
    lmdb = tmp_path / "data.lmdb"
    lmdb.mkdir()
    for name in ("data.mdb", "meta_info.txt"):
        (lmdb / name).touch()
    for dataset in options["datasets"].values():
        in_lmdb = dataset.get("io_backend") == {"type": "lmdb"}
        dataset["dataroot_gt"] = str(lmdb if in_lmdb else tmp_path)
    for key, value in options["path"].items():
        if key.startswith("pretrain_network") and value:
            options["path"][key] = str(tmp_path)
    check_options(
        str(write_options(tmp_path / path.name, changed(options, {"plugin": ...}))),
        is_train=path.parent.name == "train",
    )


@pytest.mark.parametrize("name", ["data.mdb", "meta_info.txt"])
def test_half_an_lmdb_is_named(
    name: str, train: dict[str, Any], check: Check, tmp_path: Path
) -> None:
    (tmp_path / "half.lmdb").mkdir()
    (tmp_path / "half.lmdb" / ({"data.mdb", "meta_info.txt"} - {name}).pop()).touch()
    root = str(tmp_path / "half.lmdb")
    with pytest.raises(ValueError, match=rf"datasets: train: dataroot_gt: no such .*/{name}$"):
        check(changed(train, {"datasets: train: dataroot_gt": root}))


def test_there_are_options_for_training_and_for_testing() -> None:
    assert {path.parent.name for path in OPTION_FILES} == {"train", "test"}


@pytest.mark.parametrize(
    ("section", "key", "wrong"),
    [
        ("", "manual_seed", "manual_sed"),
        ("datasets: train: ", "gt_size", "gt_siz"),
        ("datasets: train: ", "use_hflip", "use_flip"),
        ("datasets: val: ", "dataroot_gt", "dataroot_tg"),
        ("network_g: ", "num_feat", "num_feats"),
        ("path: ", "pretrain_network_g", "pretrained_network_g"),
        ("train: ", "ema_decay", "ema_dekay"),
        ("train: optim_g: ", "betas", "beta"),
        ("train: scheduler: ", "gamma", "gama"),
        ("train: scales: ", "integer_iter", "integer_iters"),
        ("val: ", "val_freq", "val_frequ"),
        ("val: ", "metrics", "metric"),
        ("val: metrics: psnr_y: ", "test_y_channel", "test_y_chanel"),
        ("val: metrics: lr_psnr: ", "image", "imag"),
        ("logger: ", "print_freq", "print_frek"),
        ("logger: wandb: ", "project", "projekt"),
    ],
)
def test_a_misspelled_key_is_named_with_the_nearest(
    train: dict[str, Any], check: Check, section: str, key: str, wrong: str
) -> None:
    value: Any = train
    for name in f"{section}{key}".split(": "):
        value = value[name]
    with pytest.raises(ValueError) as caught:
        check(changed(train, {f"{section}{key}": ..., f"{section}{wrong}": value}))
    assert f"{section}{wrong} is unknown (nearest known: {key})" in str(caught.value)


@pytest.mark.parametrize("loss", ["pixel_opt", "guide_opt"])
def test_a_misspelled_key_of_a_loss(train: dict[str, Any], check: Check, loss: str) -> None:
    with pytest.raises(ValueError, match=rf"{loss}: loss_wait is unknown .*loss_weight"):
        check(changed(train, {f"train: {loss}: loss_wait": 1}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "AIDNModell"}, r"model_type 'AIDNModell' .*AIDNModel\)"),
        ({"network_g: type": "AIDNN"}, r"network_g: type 'AIDNN' is unknown .*AIDN\)"),
        ({"network_g: type": ...}, "network_g: type None is unknown"),
        ({"datasets: train: type": "HRDataset"}, "datasets: train: type 'HRDataset'"),
        ({"datasets: train": ...}, "datasets: train is missing"),
        ({"datasets: tarin": {"name": "a", "type": "HRImageDataset"}}, "datasets: tarin"),
        ({"datasets: test": {"name": "a", "type": "HRImageDataset"}}, "datasets: test: expected"),
        ({"datasets: train: name": ...}, "datasets: train: name is missing"),
        ({"datasets: train: batch_size_per_gpu": 0}, "batch_size_per_gpu is 0"),
        ({"datasets: train: num_worker_per_gpu": ...}, "num_worker_per_gpu is missing"),
        ({"datasets: train: dataroot_gt": "/no/where.lmdb"}, "folder: /no/where.lmdb"),
        ({"datasets: train: meta_info_file": "/no/list.txt"}, "folder: /no/list.txt"),
        ({"path: resume_state": "/no/5.state"}, "path: resume_state: .* /no/5.state"),
        ({"path: pretrain_network_g": 5}, "path: pretrain_network_g is 5"),
        ({"train: pixel_opt: type": "L2Loss"}, r"pixel_opt: type 'L2Loss' .*L1Loss\)"),
        ({"train: optim_g: type": "Adamm"}, r"optim_g: type 'Adamm' is unknown .*Adam\)"),
        ({"train: optim_g: lr": ...}, "train: optim_g: lr is missing"),
        ({"train: optim_g: lr": "1e-4"}, "train: optim_g: lr is a string .*!!float 1e-4"),
        ({"train: optim_g: betas": [0.9, "1e-1"]}, "betas: 1 is a string"),
        ({"train: scheduler: type": "Cosine"}, "scheduler: type 'Cosine' is unknown"),
        ({"train: scheduler: milestones": ...}, "scheduler: milestones is missing"),
        ({"train: guide_weights": [3, 10]}, r"train: guide_weights is \[3, 10\]: expected"),
        ({"train: guide_weights": {"soon": 10}}, "train: guide_weights is {'soon': 10}: expected"),
        ({"train: scales: low": 0.5}, "train: scales: .*low 0.5"),
        ({"train: scales: step": "fine"}, "train: scales: "),
        ({"train: jpeg": {"quality": [95, 60]}}, r"train: jpeg: .*quality \[95, 60\]: expected"),
        ({"train: jpeg": {"quality": 75}}, "train: jpeg: quality is 75: expected a list of 2"),
        ({"train: jpeg": {"quality": ["low", 75]}}, "train: jpeg: quality: 0 is 'low'"),
        (
            {"train: jpeg": {"chroma": [422]}},
            "train: jpeg: chroma: 0 is 422: expected one of 420, 444",
        ),
        ({"train: jpeg": {"real": 1}}, "train: jpeg: real is 1: expected true or false"),
        ({"train: jpeg": {"seed": 1}}, "train: jpeg: seed"),
        ({"train: total_iter": "many"}, "train: total_iter is 'many'"),
        ({"val: scales": 2.5}, "val: scales is 2.5: expected a list"),
        ({"val: scales": [2, 9]}, "val: scales: scale 9"),
        ({"val: scales": [None]}, "val: scales: "),
        ({"val: protocol": "16bit"}, "val: protocol is '16bit'"),
        ({"val: lr_format": "gif"}, "val: lr_format is 'gif'"),
        ({"val: lr_chroma": 422}, "val: lr_chroma is 422: expected one of 420, 444"),
        ({"val: lr_quality": 0}, "val: lr_quality is 0"),
        ({"val: effort": -1}, "val: effort is -1: expected an integer >= 0"),
        (
            {"val: effort": 3, "val: lr_format": "webp"},
            "effort is 3, but lr_format is webp: effort supports only png and jpeg",
        ),
        ({"val: effort": 3, "val: lr_folder": "lr"}, "effort is 3: the LR images in lr_folder"),
        ({"val: lr_quality": "high"}, "val: lr_quality is 'high'"),
        ({"val: metrics: psnr_y: image": "sr"}, "psnr_y: image is 'sr'.* hr, lr, bicubic"),
        ({"val: metrics: psnr_y: better": "more"}, "psnr_y: better is 'more'"),
        ({"val: metrics: psnr_y: type": "psnr"}, "psnr_y: type 'psnr' is unknown"),
        ({"val: save_img": ...}, "val: save_img is missing"),
        ({"logger: use_tb_logger": ...}, "logger: use_tb_logger is missing"),
        ({"logger: print_freq": True}, "logger: print_freq is True"),
        ({"num_gpu": "all"}, "num_gpu is 'all'"),
        ({"manual_seed": "seven"}, "manual_seed is 'seven': expected an integer >= 0"),
        ({"find_unused_parameters": 1}, "find_unused_parameters is 1: expected true or false"),
        ({"network_g: num_feat": 8.5}, "network_g: num_feat is 8.5: expected an integer"),
        ({"network_g: res_scale": "big"}, "network_g: res_scale is 'big': expected a number"),
        (
            {"network_g: quantization": 8},
            "network_g: quantization is 8: expected one of round_soft, ste",
        ),
        ({"datasets: train: gt_size": "32"}, "train: gt_size is '32': expected an integer >= 1"),
        ({"datasets: train: gt_size": ...}, "datasets: train: gt_size is missing"),
        ({"datasets: val: mod_crop": 0}, "mod_crop is 0: expected an integer >= 1"),
        (
            {"datasets: train: prefetch_mode": "gpu"},
            "prefetch_mode is 'gpu': expected one of cpu, cuda",
        ),
        ({"datasets: train: io_backend": {"type": "disk"}}, "io_backend has type disk, but"),
        ({"path: strict_load_g": "no"}, "path: strict_load_g is 'no': expected true or false"),
        ({"train: ema_decay": "slow"}, "train: ema_decay is 'slow': expected a number >= 0"),
        ({"train: skip_non_finite": 1}, "train: skip_non_finite is 1: expected true or false"),
        (
            {"train: precision": "fp16"},
            "train: precision is 'fp16': expected one of auto, fp32, bf16",
        ),
        ({"train: optim_g: betas": 0.9}, "train: optim_g: betas is 0.9: expected a list of 2"),
        ({"train: optim_g: weight_decay": None}, "weight_decay is None: expected a number"),
        (
            {"train: pixel_opt: loss_weight": "one"},
            "pixel_opt: loss_weight is 'one': expected a number",
        ),
        ({"val: save_img": "yes"}, "val: save_img is 'yes': expected true or false"),
        ({"name": 2024}, "name is 2024"),
        ({"datasets: val: name": 1000}, "datasets: val: name is 1000: expected a string, in quot"),
        ({"logger": ...}, "logger is missing"),
        ({"path": None}, "path is not a mapping"),
    ],
)
def test_a_wrong_value_is_named(
    train: dict[str, Any], check: Check, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        check(changed(train, changes))
    assert "\n" not in str(caught.value)
    assert "options.yml: " in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train: revive_codes", 5, "VQGANModel, not of AIDNModel"),
        ("train: gan_opt", None, "VQGANModel and VQIRRefineModel, not of AIDNModel"),
        ("val: cost_size", 64, "BenchmarkModel, not of AIDNModel"),
        ("color_order", "rgb", "VQIRModel and VQIRRefineModel, not of AIDNModel"),
        ("datasets: val: sets", ["Set5"], "BenchmarkDataset, not of HRImageDataset"),
    ],
)
def test_an_option_of_another_class_is_misplaced(
    train: dict[str, Any], check: Check, key: str, value: Any, message: str
) -> None:
    with pytest.raises(ValueError) as caught:
        check(changed(train, {key: value}))
    assert str(caught.value).endswith(f"options.yml: {key} is an option of {message}")


@pytest.mark.parametrize(
    "changes",
    [
        {"network_g: res_scale": 1},  # an integer is a number
        {"train: optim_g: lr": 1},
        {"train: optim_g: betas": [0, 0.5]},
        {"train: scales: power": 1},
        {"train: optim_g: foreach": None},
        {"train: ema_decay": None},
        {"train: guide_weights": {0: 1, 2000: 100}},
        {"train: guide_weights": [[0, 1], [2000, 100]]},
        {"datasets: train: dtype": "uint8"},
        {"datasets: train: pin_memory": None},
        {"val: metrics": {1: {"type": "calculate_psnr", "crop_border": 4}}},  # name: a number
        {"datasets: train: io_backend": None},
        {"val: metrics": {"niqe": {"type": "calculate_niqe"}}},
    ],
)
def test_values_that_fit(train: dict[str, Any], check: Check, changes: dict[str, Any]) -> None:
    check(changed(train, changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network_g: num_feat": True}, "num_feat is True: expected an integer"),
        ({"network_g: num_feat": "8"}, "num_feat is '8': expected an integer"),
        ({"network_g: res_scale": True}, "res_scale is True: expected a number"),
        ({"network_g: fixed_scale": 5}, "fixed_scale is 5: expected one of 2, 3, 4"),
        ({"train: optim_g: betas": [0.9]}, "betas: 1 is missing"),
        ({"train: optim_g: betas": [0, 0, 0]}, r"betas is \[0, 0, 0\]: expected a list of 2"),
        ({"train: optim_g: foreach": 1}, "foreach is 1: expected true or false"),
        ({"train: scheduler: milestones": [10, "1e3"]}, "milestones: 1 is a string .*!!float 1e3"),
        ({"train: guide_weights": [[0, 1], 7]}, r"guide_weights is \[\[0, 1\], 7\]: expected"),
        (
            {"train: guide_weights": {0: "1e2"}},
            "guide_weights: 0 is a string in YAML: write !!float 1e2",
        ),
    ],
)
def test_nothing_is_converted(
    train: dict[str, Any], check: Check, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check(changed(train, changes))


def test_an_option_that_is_none_counts_as_omitted(train: dict[str, Any], tmp_path: Path) -> None:
    nothing = {"train: ema_decay": None, "train: precision": None, "val: protocol": None}
    start = {"path: pretrain_network_g": None}
    model = AIDNModel(model_options(changed(train, nothing | start), tmp_path, is_train=True))
    assert model.ema_decay == 0
    assert model.opt["train"]["precision"] == "fp32"
    assert model.evaluation is not None and model.evaluation.protocol == "8bit"


class OpenNetwork(nn.Module):
    def __init__(self, width: int = 8, **others: Any) -> None:
        super().__init__()


class OwnTrainOptions(TrainOptions):
    temperature: float = Field(1, gt=0, le=5, description="of nothing")


class OwnModel(RescalingModel):
    OPTIONS = RescalingOptions[OwnTrainOptions, ValOptions, PathOptions]


class OwnDataset(Dataset[Any]):
    """A dataset without declarations."""


@pytest.fixture
def plugin() -> Iterator[None]:
    """Classes of a third-party plugin."""
    registered = (ARCH_REGISTRY, OpenNetwork), (MODEL_REGISTRY, OwnModel)
    registered = (*registered, (DATASET_REGISTRY, OwnDataset))
    for registry, cls in registered:
        registry.register(cls)
    yield
    for registry, cls in registered:
        del registry._obj_map[cls.__name__]


@pytest.mark.usefixtures("plugin")
def test_a_network_with_kwargs_takes_any_option(train: dict[str, Any], check: Check) -> None:
    network = {"type": "OpenNetwork", "width": 4, "depth": 3, "copy": {"a": 1}}
    check(changed(train, {"network_g": network}))
    with pytest.raises(ValueError, match="network_g: width is 'wide': expected an integer"):
        check(changed(train, {"network_g": network | {"width": "wide"}}))


@pytest.mark.usefixtures("plugin")
def test_a_plugin_declares_its_options(train: dict[str, Any], check: Check) -> None:
    mine = changed(train, {f"train: {key}": ... for key in ("scales", "pixel_opt", "guide_opt")})
    mine = changed(mine, {"model_type": "OwnModel", "val: scales": ...})
    check(changed(mine, {"train: temperature": 2}))
    with pytest.raises(ValueError, match="temperature is 9: expected a number > 0 and <= 5"):
        check(changed(mine, {"train: temperature": 9}))
    with pytest.raises(ValueError, match=r"temprature is unknown \(nearest known: temperature\)"):
        check(changed(mine, {"train: temprature": 2}))
    with pytest.raises(ValueError, match="temperature is an option of OwnModel, not of AIDNModel"):
        check(changed(train, {"train: temperature": 2}))
    with pytest.raises(
        ValueError, match=r"pixel_opt is an option of AIDNModel, .* not of OwnModel"
    ):
        check(changed(mine, {"train: pixel_opt": {"type": "L1Loss"}}))


@pytest.mark.usefixtures("plugin")
def test_of_a_dataset_without_declarations_the_loader_options_are_checked(
    train: dict[str, Any], check: Check
) -> None:
    dataset = {"name": "own", "type": "OwnDataset", "crops": 5, "dataroot": "/nowhere"}
    workers = {"batch_size_per_gpu": 2, "num_worker_per_gpu": 0}
    check(changed(train, {"datasets: train": dataset | workers, "datasets: val": dataset}))
    with pytest.raises(ValueError, match="datasets: train: batch_size_per_gpu is missing"):
        check(changed(train, {"datasets: train": dataset}))


def test_testing_needs_weights(test: dict[str, Any], check: Check) -> None:
    with pytest.raises(ValueError, match="pretrain_network_g is missing"):
        check(changed(test, {"path: pretrain_network_g": None}), is_train=False)
    with pytest.raises(ValueError, match="datasets: train: expected the names test"):
        datasets = {"train": test["datasets"]["test_1"]}
        check(changed(test, {"datasets": datasets}), is_train=False)


def test_all_problems_are_reported_at_once(train: dict[str, Any], check: Check) -> None:
    wrong = {"val: protokol": "8bit", "train: scales: hihg": 3, "network_g: type": "AIND"}
    with pytest.raises(ValueError) as caught:
        check(changed(train, wrong))
    assert len(str(caught.value).split("; ")) == len(wrong)
    for name in ("protokol", "hihg", "AIND"):
        assert name in str(caught.value)


def test_models_without_declarations_are_not_checked(train: dict[str, Any], check: Check) -> None:
    check(changed(train, {"model_type": "SRModel", "train: perceptual_opt": {}}))


@pytest.mark.parametrize(
    ("forced", "message"),
    [
        ("train:totl_iter=5", "train: totl_iter is unknown (nearest known: total_iter)"),
        ("trian:total_iter=5", "--force_yml trian:total_iter=5: there is no section trian"),
        ("train:total_iter:x=5", "there is no section train:total_iter"),
        ("train:total_iter", "--force_yml train:total_iter: "),
        ("name=a=b", "--force_yml name=a=b: "),
        ("val:scales=[1.5,", "--force_yml val:scales=[1.5,: "),
        ("val:scales=[9]", "val: scales: scale 9"),
        ("train:warmup_iter=-1", "train: warmup_iter is a string"),  # to BasicSR, too
    ],
)
def test_forced_options_are_checked(
    train: dict[str, Any], check: Check, forced: str, message: str
) -> None:
    check(train, forced=("train:total_iter=5", "val:scales=[1.5, 3]"))
    with pytest.raises(ValueError, match=re.escape(message)):
        check(train, forced=(forced,))


def test_no_code_in_the_file_is_executed(train: dict[str, Any], tmp_path: Path) -> None:
    witness = tmp_path / "executed"
    path = tmp_path / "hostile.yml"
    path.write_text(
        yaml.safe_dump(train) + f'evil: !!python/object/apply:os.system ["touch {witness}"]\n'
    )
    yaml.unsafe_load(path.read_text())
    assert witness.exists(), "the file does nothing when it is trusted: this test shows nothing"
    witness.unlink()
    for reader in (read_options, lambda path: check_options(path, is_train=True)):
        with pytest.raises(ValueError, match=r"hostile\.yml: .*os\.system"):
            reader(str(path))
        assert not witness.exists()


@pytest.mark.parametrize(
    "content",
    [b"- a list", b"", b"name: [open", b"name: \xff\xfe", b"day: 2001-13-01", b"{a: 1}: 2\n? [b]"],
)
def test_a_file_that_is_not_an_option_file(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "odd.yml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"odd\.yml: "):
        check_options(str(path), is_train=True)


def test_a_missing_file() -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        check_options("nowhere.yml", is_train=True)


def test_the_plugin_line_is_accepted(train: dict[str, Any], tmp_path: Path) -> None:
    path = write_options(tmp_path / "options.yml", train)
    assert path.read_text().startswith(PLUGIN)
    assert read_options(str(path)) == {**train, "plugin": "rescale_model.register"}


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 400)
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.sampled_from(["", "1e-4", "Adam", "AIDN", "lr", "type", "\0", "/", "~nobody-here"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.none()
            | st.booleans()
            | st.integers(-2, 2)
            | st.sampled_from(["type", "name", "lr"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=5,
)


def places_in(options: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in options.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from places_in(value, (*above, key))


@given(data=st.data())
def test_any_problem_is_reported_as_one_of_two_errors(
    train: dict[str, Any],
    test: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
) -> None:
    is_train = data.draw(st.booleans())
    options = copy.deepcopy(train if is_train else test)
    for _ in range(data.draw(st.integers(1, 2))):
        *above, key = data.draw(st.sampled_from(sorted(places_in(options), key=str)))
        section: Any = options
        for name in above:
            section = section[name]
        if data.draw(st.integers(0, 3)) == 0:
            section[data.draw(st.sampled_from(["", "typ", "nam", "network_x"]))] = section.pop(key)
        else:
            section[key] = data.draw(VALUES)
    path = write_options(tmp_path_factory.getbasetemp() / "mutated.yml", options)
    try:
        check_options(str(path), is_train=is_train)
    except (ValueError, FileNotFoundError) as error:
        assert str(path) in str(error)
        assert "\n" not in str(error)
