"""A training step of every model on a GPU: simulated, and on a real one if available."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import rescale_compat  # noqa: F401  must precede basicsr

import pytest
import torch
from basicsr.archs import build_network
from basicsr.models import build_model
from fake_cuda import FakeGPU, fake_cuda
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from training import changed, model_options, named, train_options
from vq_training import VQ, vqgan_options, vqir_train_options

from rescale_arch import VQGAN, VQIR, bicubic
from rescale_model.models.base import RescalingModel

TRAINERS = ("aidn", "aidn+", "vqgan", "stage 1", "stage 2")
SIDE = 32


def options_of(trainer: str, folder: Path, **changes: Any) -> dict[str, Any]:
    """All parts of a step: average, skipping, a discriminator from the second step on."""
    start = folder / "start.pth"
    if trainer == "vqgan":
        options = changed(
            vqgan_options(folder, folder), {"train: gan_start": 2, "train: revive_codes": 100}
        )
    elif trainer == "stage 1":
        torch.save(VQGAN(**VQ).state_dict(), start)
        options = vqir_train_options(1, start, folder, folder)
    elif trainer == "stage 2":
        torch.save(VQIR(factor=16, stage=1, **VQ).state_dict(), start)
        options = vqir_train_options(2, start, folder, folder)
    else:
        options = train_options(folder, folder)
        options["network_g"]["jpeg_quality"] = 90 if trainer == "aidn+" else None
    options = changed(
        options,
        {
            "num_gpu": 1,
            "train: ema_decay": 0.9,
            "train: skip_non_finite": True,
            **named(**changes),
        },
    )
    return model_options(options, folder, is_train=True)


def batch() -> Tensor:
    return torch.randint(256, (2, 3, SIDE, SIDE), dtype=torch.uint8)


def step(model: RescalingModel, iteration: int, gt: Tensor) -> None:
    model.update_learning_rate(iteration)
    model.feed_data({"gt": gt})
    model.optimize_parameters(iteration)


# as if ------------------------------------------------------------------------------------------


class Finite:
    """In place of the finite check, the one thing that the host may wait for."""

    def __init__(self, value: Tensor) -> None:
        assert value.is_cuda

    def passed(self) -> bool:
        return True


def build_without_values(opt: dict[str, Any]) -> nn.Module:
    """BasicSR's ``build_network``; fake tensors remember small constants, as of batch norm."""
    net: nn.Module = build_network(opt)
    for buffer in net.buffers():
        buffer.constant = None  # type: ignore[attr-defined]
    return net


def blocks_on_device(build: Any, *key: Any) -> Any:
    """The weights of bicubic resampling, as if they were on the device from an earlier step."""
    *shape, device = key
    with unset_fake_temporarily():
        blocks = build(*shape, torch.device("cpu"))
    return tuple((start, torch.empty_like(weights, device=device)) for start, weights in blocks)


@contextmanager
def fake_model(opt: dict[str, Any]) -> Iterator[tuple[RescalingModel, FakeGPU]]:
    """A model that trains on a fake GPU."""
    names = {
        "torch.cuda.is_available": lambda: True,
        "rescale_model.training.step_guard.random_states": dict,  # the GPU's has no generator
        "rescale_model.training.step.FiniteCheck": Finite,
        "rescale_arch.bicubic._blocks": partial(blocks_on_device, bicubic._blocks.__wrapped__),
    }
    for module in ("basicsr.models.sr_model", "rescale_model.models.base"):
        names[f"{module}.build_network"] = build_without_values
    with ExitStack() as stack:
        for name, value in names.items():
            stack.enter_context(patch(name, value))
        gpu = stack.enter_context(fake_cuda())
        yield build_model(opt), gpu


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "trainer",
    [
        *TRAINERS[:-1],
        pytest.param(TRAINERS[-1], marks=pytest.mark.slow),
    ],
)
def test_a_step_never_waits_for_the_gpu(trainer: str, precision: str, tmp_path: Path) -> None:
    opt = options_of(trainer, tmp_path, train__precision=precision)
    with fake_model(opt) as (model, gpu):
        step(model, 2, batch())  # at 1, VQGAN fills its codebook, and waits
        with gpu.no_sync():  # the batch is copied without waiting
            step(model, 3, batch())
        parameters = [p for net in (model.net_g, model.net_g_ema) for p in net.parameters()]
        assert {p.device for p in parameters} == {gpu.device}


# a real one -------------------------------------------------------------------------------------


def trained(
    trainer: str, folder: Path, device: str, precision: str = "fp32", steps: int = 1
) -> list[float]:
    """Losses of the restored image, of the codes in stage 1, over steps on one batch."""
    changes: dict[str, Any] = {"train__precision": precision}
    if trainer.startswith("aidn"):
        changes["train__scales"] = {"low": 2.5, "high": 2.5}
    opt = options_of(trainer, folder, num_gpu=int(device == "cuda"), **changes)
    torch.manual_seed(0)
    model = build_model(opt)
    gt = batch()
    losses = []
    for iteration in range(1, steps + 1):
        step(model, iteration, gt)
        losses.append(model.get_current_log()["l_code" if trainer == "stage 1" else "l_pix"])
    if device == "cuda":  # sizes are known by now: no synchronization from here on
        gt = gt.pin_memory()
        torch.cuda.set_sync_debug_mode("error")
        try:
            step(model, steps + 1, gt)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return losses


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("trainer", TRAINERS)
def test_training_learns_as_on_the_cpu_and_never_waits(
    trainer: str, precision: str, tmp_path: Path
) -> None:
    losses = trained(trainer, tmp_path, "cuda", precision, steps=20)
    (expected,) = trained(trainer, tmp_path, "cpu")
    assert losses[0] == pytest.approx(expected, rel=0.05)
    assert losses[-1] < 0.9 * losses[0]
