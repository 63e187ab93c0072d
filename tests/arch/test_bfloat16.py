"""Devices with native bfloat16, and devices that emulate it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_networks import AIDN_TINY
from training import changed, model_options, train_options

from rescale_app.cli import main
from rescale_arch import AIDN, bfloat16
from rescale_arch.bfloat16 import bfloat16_is_native
from rescale_data.weight_file import save_weights
from rescale_model.device import autocast
from rescale_model.models.aidn import AIDNModel

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("cpuinfo", "native"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16\n", True),
        ("processor\t: 0\nflags\t\t: fpu amx_tile amx_bf16\n", True),
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512vl\n", False),
        ("processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\n", True),
        ("processor\t: 0\nFeatures\t: fp asimd\n", False),
        ("processor\t: 0\n", False),
    ],
)
def test_a_cpu_is_judged_by_what_linux_reports(
    cpuinfo: str, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bfloat16.sys, "platform", "linux")
    monkeypatch.setattr(Path, "read_text", lambda path: cpuinfo)
    bfloat16._cpu_features.cache_clear()
    try:
        assert bfloat16_is_native(CPU) is native
    finally:
        bfloat16._cpu_features.cache_clear()


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_is_judged_without_emulation(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert bfloat16_is_native(torch.device("cuda")) is native


@pytest.mark.parametrize("native", [True, False])
def test_a_training_in_slow_bf16_is_warned_of_once(
    native: bool,
    hr_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("rescale_model.device.bfloat16_is_native", lambda device: native)

    def told(**precision: Any) -> list[str]:
        caplog.clear()
        named = {name.replace("__", ": "): value for name, value in precision.items()}
        options = changed(train_options(hr_folder, hr_folder), named)
        AIDNModel(model_options(options, tmp_path, is_train=True))
        return [record.message for record in caplog.records if "bf16" in record.message]

    assert told() == []
    for sections in (["train"], ["val"], ["train", "val"]):
        lines = told(**{f"{section}__precision": "bf16" for section in sections})
        assert len(lines) == (0 if native else 1)
        for line in lines:
            assert line.startswith(f"Option {' and '.join(sections)}: precision: bf16 on a device")


@pytest.fixture(params=[True, False], ids=["native", "emulated"])
def native(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Devices with instructions for bfloat16, and those without."""
    is_native = bool(request.param)
    monkeypatch.setattr(bfloat16, "bfloat16_is_native", lambda device: is_native)
    return is_native


def test_auto_is_bf16_where_that_is_native(native: bool) -> None:
    assert bfloat16.uses_bfloat16("auto", CPU) is native
    assert bfloat16.uses_bfloat16("bf16", CPU)
    assert not bfloat16.uses_bfloat16("fp32", CPU)
    with pytest.raises(ValueError, match="precision is 'half': expected one of auto, fp32, bf16"):
        bfloat16.uses_bfloat16("half", CPU)


def test_compare_without_an_option_computes_in_the_faster_precision(
    native: bool, hr_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = str(tmp_path / "tiny.safetensors")
    save_weights(Path(weights), AIDN(**AIDN_TINY).state_dict(), config=AIDN_TINY)
    image = str(hr_folder / "astronaut.png")
    compare = ["compare", image, "-o", str(tmp_path / "panel.png"), "--weights", weights]
    seen: dict[str, str] = {}
    for precision in ("auto", "fp32", "bf16"):
        chosen = [] if precision == "auto" else ["--precision", precision]
        assert main([*compare, "--device", "cpu", *chosen]) == 0
        seen[precision] = capsys.readouterr().out
    for precision, text in seen.items():
        used = precision if precision != "auto" else "bf16" if native else "fp32"
        assert f", in {used}\n" in text
    figures = {key: text.partition("seconds")[0] for key, text in seen.items()}
    assert figures["auto"] == figures["bf16" if native else "fp32"]
    assert figures["fp32"] != figures["bf16"]


def test_validation_without_an_option_computes_in_the_faster_precision(
    native: bool, hr_folder: Path, tmp_path: Path
) -> None:
    options = changed(train_options(hr_folder, hr_folder), {"val: precision": None})
    model = AIDNModel(model_options(options, tmp_path, is_train=True))
    with model.autocast("val"):
        assert torch.is_autocast_enabled("cpu") is native
    with model.autocast("train"):  # whose default is fp32
        assert not torch.is_autocast_enabled("cpu")
    with autocast(CPU, "val", {"precision": "bf16"}):
        assert torch.is_autocast_enabled("cpu")
