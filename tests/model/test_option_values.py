"""Values of options: those that fit, those that do not, and that none is converted."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from training import Check, changed, write_options

import rescale_model  # noqa: F401  registers
from rescale_model.options import check_options


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
    valid_train: dict[str, Any], check: Check, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        check(changed(valid_train, changes))
    assert "\n" not in str(caught.value)
    assert "options.yml: " in str(caught.value)


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
def test_values_that_fit(
    valid_train: dict[str, Any], check: Check, changes: dict[str, Any]
) -> None:
    check(changed(valid_train, changes))


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
    valid_train: dict[str, Any], check: Check, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check(changed(valid_train, changes))


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
    valid_train: dict[str, Any],
    valid_test: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
) -> None:
    is_train = data.draw(st.booleans())
    options = copy.deepcopy(valid_train if is_train else valid_test)
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
