"""Settings of cuDNN while images are evaluated or restored."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.backends import cudnn
from training import test as run_test
from training import test_options, train, train_options

from rescale_app.rescaler import Rescaler
from rescale_arch import AIDN
from rescale_arch.inference_kernels import inference_kernels


@pytest.fixture(autouse=True)
def as_in_training() -> Iterator[None]:
    """PyTorch's default, TF32, and what BasicSR's runners set."""
    before = cudnn.benchmark, cudnn.allow_tf32
    cudnn.benchmark = cudnn.allow_tf32 = True
    yield
    assert (cudnn.benchmark, cudnn.allow_tf32) == (True, True)
    cudnn.benchmark, cudnn.allow_tf32 = before


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> set[tuple[bool, bool, bool]]:
    """(in training mode, autotuning, TF32), whenever an AIDN is called."""
    found: set[tuple[bool, bool, bool]] = set()
    for name in ("forward", "downscale", "upscale"):
        monkeypatch.setattr(AIDN, name, _recorded(getattr(AIDN, name), found))
    return found


def _recorded(method: Any, found: set[tuple[bool, bool, bool]]) -> Any:
    def call(self: AIDN, *args: Any, **kwargs: Any) -> Any:
        found.add((self.training, cudnn.benchmark, cudnn.allow_tf32))
        return method(self, *args, **kwargs)

    return call


def test_an_image_is_computed_in_fp32(seen: set[tuple[bool, bool, bool]]) -> None:
    rescaler = Rescaler(device="cpu")
    rescaler.upscale(rescaler.downscale(np.zeros((16, 16, 3), np.uint8), 2))
    assert seen == {(False, False, False)}


def test_validation_is_in_fp32_and_training_as_pytorch_has_it(
    lmdb: Path, hr_folder: Path, tmp_path: Path, seen: set[tuple[bool, bool, bool]]
) -> None:
    options = train_options(lmdb, hr_folder)
    options["train"]["total_iter"] = 1
    options["val"]["val_freq"] = 1
    train(tmp_path, options)
    assert {flags for flags in seen if flags[0]} == {(True, True, True)}
    assert {flags for flags in seen if not flags[0]} == {(False, False, False)}
    seen.clear()
    weights = tmp_path / "experiments" / "small" / "models" / "net_g_latest.pth"
    run_test(tmp_path, test_options(hr_folder, weights))
    assert seen == {(False, False, False)}


def test_the_last_thread_puts_the_settings_back() -> None:
    entered, may_leave = threading.Event(), threading.Event()

    def other() -> None:
        with inference_kernels():
            entered.set()
            assert may_leave.wait(60)

    with inference_kernels():
        thread = threading.Thread(target=other)
        thread.start()
        assert entered.wait(60)
    assert (cudnn.benchmark, cudnn.allow_tf32) == (False, False)  # the other is not done
    may_leave.set()
    thread.join()
    assert (cudnn.benchmark, cudnn.allow_tf32) == (True, True)
