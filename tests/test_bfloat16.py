"""Devices that compute in bfloat16 themselves, and those that emulate it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from training import changed, model_options, train_options

from rescale_arch import bfloat16
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
        assert bfloat16.bfloat16_is_native(CPU) is native
    finally:
        bfloat16._cpu_features.cache_clear()


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_is_judged_without_emulation(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert bfloat16.bfloat16_is_native(torch.device("cuda")) is native


@pytest.mark.parametrize("native", [True, False])
def test_a_training_in_slow_bf16_is_warned_of_once(
    native: bool,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("rescale_model.device.bfloat16_is_native", lambda device: native)

    def told(**precision: Any) -> list[str]:
        caplog.clear()
        named = {name.replace("__", ": "): value for name, value in precision.items()}
        options = changed(train_options(pictures, pictures), named)
        AIDNModel(model_options(options, tmp_path, is_train=True))
        return [record.message for record in caplog.records if "bf16" in record.message]

    assert told() == []
    for sections in (["train"], ["val"], ["train", "val"]):
        lines = told(**{f"{section}__precision": "bf16" for section in sections})
        assert len(lines) == (0 if native else 1)
        for line in lines:
            assert line.startswith(f"Option {' and '.join(sections)}: precision: bf16 on a device")
