"""What the stages of VQIR start from: a VQGAN, the stage before, weights for BGR, wrong files."""

from pathlib import Path
from typing import Any

import pytest
import torch
from training import Make, same
from vq_training import VQ, perturbed

from rescale_arch import VQIR
from rescale_arch.vqgan.architecture import swap_color_order


def test_stage_1_starts_from_a_vqgan(make_vqir: Make, vqir_starts: dict[int, Path]) -> None:
    expected = torch.load(vqir_starts[1])["state_dict"]
    model = make_vqir(1, train__ema_decay=0.9)
    for net in (model.net_g, model.net_g_ema):
        loaded = net.state_dict()
        for name, value in loaded.items():
            assert name.startswith("icrm.") or torch.equal(value, expected[name]), name
        assert expected.keys() - loaded.keys() == {"loss.w"}
    assert same(model.net_g.icrm.state_dict(), model.net_g_ema.icrm.state_dict())


def test_stage_1_continues_from_a_file_of_stage_1(
    make_vqir: Make, vqir_starts: dict[int, Path]
) -> None:
    path = {"pretrain_network_g": str(vqir_starts[2])}
    assert same(make_vqir(1, path=path).net_g.state_dict(), torch.load(vqir_starts[2])["params"])


def test_stage_2_starts_from_a_file_of_stage_1(
    make_vqir: Make, vqir_starts: dict[int, Path]
) -> None:
    expected = torch.load(vqir_starts[2])["params"]
    model = make_vqir(2, train__ema_decay=0.9)
    assert same(model.net_g.state_dict(), model.net_g_ema.state_dict())
    for name, value in model.net_g.state_dict().items():
        assert name.startswith("refine.") or torch.equal(value, expected[name]), name


def test_stage_2_takes_the_chosen_weights_of_stage_1(make_vqir: Make, tmp_path: Path) -> None:
    trained, average = (perturbed(VQIR(16, 1, **VQ), seed).state_dict() for seed in (3, 4))
    torch.save({"params": trained, "params_ema": average}, tmp_path / "both.pth")
    for key, expected in (("params", trained), ("params_ema", average)):
        path = {"pretrain_network_g": str(tmp_path / "both.pth"), "param_key_g": key}
        model = make_vqir(2, path=path, train__ema_decay=0.9)
        for net in (model.net_g, model.net_g_ema):
            assert torch.equal(
                net.state_dict()["icrm.operations.0.G1.conv1.weight"],
                expected["icrm.operations.0.G1.conv1.weight"],
            )


@pytest.mark.parametrize("stage", [1, 2])
def test_weights_for_bgr(
    make_vqir: Make, load_vqir: Make, vqir_starts: dict[int, Path], tmp_path: Path, stage: int
) -> None:
    wrapper = torch.load(vqir_starts[stage])
    ((key, weights),) = wrapper.items()
    path = tmp_path / "bgr.pth"
    torch.save({key: swap_color_order(weights)}, path)
    label = "vqgan" if stage == 1 else "g"
    where = {f"pretrain_network_{label}": str(path)}
    usual, swapped = make_vqir(stage), make_vqir(stage, path=where, color_order="bgr")
    assert same(swapped.net_g.state_dict(), usual.net_g.state_dict())
    assert not same(make_vqir(stage, path=where).net_g.state_dict(), usual.net_g.state_dict())

    # saved weights are for RGB: nothing is swapped again when training continues
    swapped.save(0, 1)
    saved = tmp_path / "models" / "net_g_1.pth"
    state = str(tmp_path / "training_states" / "1.state")
    where |= {"pretrain_network_g": str(saved), "resume_state": state}
    again = make_vqir(stage, path=where, color_order="bgr")
    assert same(again.net_g.state_dict(), usual.net_g.state_dict())
    tested = load_vqir(stage, saved, color_order="bgr").net_g.state_dict()
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
    make_vqir: Make, vqir_starts: dict[int, Path], stage: int, changes: dict[str, Any], message: str
) -> None:
    def filled(value: Any) -> Any:
        return (
            {k: str(vqir_starts[v]) for k, v in value.items()} if isinstance(value, dict) else value
        )

    for key, value in changes.items():
        if key == "path":
            changes = {**changes, key: filled(value)}
        elif key.startswith("path__pretrain"):
            changes = {**changes, key: str(vqir_starts[value])}
    with pytest.raises(ValueError, match=message) as caught:
        make_vqir(stage, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("stage", [1, 2])
def test_tests_need_a_file_of_their_stage(
    load_vqir: Make, vqir_starts: dict[int, Path], tmp_path: Path, stage: int
) -> None:
    other = tmp_path / "other.pth"
    torch.save(VQIR(16, 3 - stage, **VQ).state_dict(), other)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=rf"other\.pth contains a VQIR .* stage {3 - stage}: .* stage {stage}$"
    ):
        load_vqir(stage, other)
    with pytest.raises(ValueError, match=r"vqgan\.ckpt contains a VQGAN: expected a VQIR"):
        load_vqir(stage, vqir_starts[1])
    torch.save({"conv.weight": torch.zeros(3)}, other)
    neither = r"other\.pth contains neither a VQGAN nor a VQIR: expected a VQIR"
    with pytest.raises(ValueError, match=neither):
        load_vqir(stage, other)


def test_stage_2_does_not_resume_from_stage_1(
    make_vqir: Make, vqir_starts: dict[int, Path], tmp_path: Path
) -> None:
    path = {"pretrain_network_g": str(vqir_starts[2]), "resume_state": str(tmp_path / "1.state")}
    with pytest.raises(ValueError, match=r"stage1\.pth contains .* stage 1: expected .* stage 2$"):
        make_vqir(2, path=path)
