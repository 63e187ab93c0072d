"""Compiled networks compute the same, are compiled only a few times, and save the same files."""

from collections.abc import Callable, Iterator
from functools import partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import torchrun
from tiny_networks import AIDN_TINY
from torch import Tensor, nn
from torch._dynamo.utils import counters
from training import changed, command, train, train_options, write_options
from vq_training import VQ

from rescale_app import Rescaler
from rescale_arch import AIDN, VQGAN, VQIR
from rescale_arch.compiling import compile_for_inference, compile_for_training
from rescale_arch.memory_format import channels_last
from rescale_model.options import check_options

SCALES = (2.5, 1.3, 3.7)


@pytest.fixture(autouse=True)
def nothing_is_compiled_yet() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are captured and differentiated as usual, but not compiled, which saves time."""
    compiled = partialmethod(nn.Module.compile, backend="aot_eager")
    monkeypatch.setattr(nn.Module, "compile", compiled)


def tiny(**options: Any) -> AIDN:
    # rounding would make a large difference of a tiny one
    return AIDN(num_feat=8, num_block=2, adapt_interval=1, quantization=None, **options)


def tiny_half() -> AIDN:
    return tiny(down_unshuffle=2)


def twins(make: Callable[[], nn.Module], device: str = "cpu") -> tuple[nn.Module, nn.Module]:
    """Two networks with the same weights."""
    nets = make(), make()
    nets[1].load_state_dict(nets[0].state_dict())
    for net in nets:
        channels_last(net.to(device))
    return nets


def crops(size: int, device: str = "cpu") -> Tensor:
    return torch.rand(2, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)


def step(net: nn.Module, *inputs: Any) -> list[Tensor]:
    """The results of a training step of ``net``: outputs, gradients and buffers."""
    torch.manual_seed(1)
    net.zero_grad()
    outputs = [output for output in net(*inputs) if output.is_floating_point()]
    sum(output.square().mean() for output in outputs).backward()
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    return [*outputs, *gradients, *net.buffers()]


def assert_close(ours: list[Tensor], plain: list[Tensor], atol: float = 1e-5) -> None:
    assert len(ours) == len(plain)
    for mine, theirs in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=atol)


def in_two_processes(folder: Path, options: dict[str, Any]) -> None:
    torchrun(folder, "train", options)


def check_aidn(make: Callable[[], nn.Module], device: str, atol: float) -> None:
    plain, net = twins(make, device)
    text = str(net)
    compile_for_training(net)
    hr = crops(48, device)
    graphs = []
    for scale in SCALES:
        assert_close(step(net, hr, scale), step(plain, hr, scale), atol)
        graphs.append(counters["stats"]["unique_graphs"])
    # Blocks share one, so do adaptions; the resampling has one for its first scale, then one for
    # all others. And one shows that there is a compiler.
    assert graphs == [4, 5, 5]
    assert not counters["graph_break"]
    assert net.state_dict().keys() == plain.state_dict().keys()
    assert str(net) == text


@pytest.mark.slow
@pytest.mark.parametrize("make", [tiny, tiny_half])
def test_aidn_learns_the_same(make: Callable[[], nn.Module]) -> None:
    check_aidn(make, "cpu", 1e-5)


@pytest.mark.gpu
def test_aidn_learns_the_same_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    check_aidn(tiny, "cuda", 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda: AIDN(num_feat=8, num_block=2, fixed_scale=3, quantization=None),
        lambda: VQGAN(**VQ | {"ch_mult": (1, 2)}),
        lambda: VQIR(stage=1, **VQ),
        lambda: VQIR(stage=2, **VQ | {"ch": 64}),
    ],
    ids=["AIDN of a fixed scale", "VQGAN", "VQIR, stage 1", "VQIR, stage 2"],
)
def test_networks_whose_sizes_are_fixed(
    make: Callable[[], nn.Module], without_a_compiler: None
) -> None:
    plain, net = twins(make)
    compile_for_training(net)
    hr = crops(48)
    assert_close(step(net, hr), step(plain, hr))
    graphs = counters["stats"]["unique_graphs"]
    assert_close(step(net, hr), step(plain, hr))
    assert counters["stats"]["unique_graphs"] == graphs > 1
    assert not counters["graph_break"]


@pytest.mark.slow
@pytest.mark.parametrize("make", [tiny, tiny_half])
def test_images_of_any_size(make: Callable[[], nn.Module]) -> None:
    plain, net = twins(make)
    plain.engine = net.engine = "layers"  # strips are not compiled
    compile_for_inference(net)
    graphs = []
    for scale, size in [(2.5, (48, 48)), (1.3, (37, 81)), (3.7, (64, 49)), ((2, 1.5), (33, 120))]:
        hr = torch.rand(1, 3, *size)
        with torch.inference_mode():
            lrs = [each.eval().downscale(hr, scale) for each in (net, plain)]
            restored = [each.upscale(lrs[0], scale, size=size) for each in (net, plain)]
        assert_close([lrs[0], restored[0]], [lrs[1], restored[1]])
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[-1] == graphs[1]


@pytest.mark.slow
@pytest.mark.parametrize("run", [train, in_two_processes])
def test_a_model_trains_the_same_and_saves_plain_weights(
    run: Callable[..., None], tmp_path: Path, lmdb: Path, hr_folder: Path
) -> None:
    options = changed(
        train_options(lmdb, hr_folder),
        {
            "train: optim_g": {"type": "SGD", "lr": 0.1},
            "train: total_iter": 2,
            "train: ema_decay": 0,  # so that validation gets the network that is compiled
            "val: val_freq": 1,
        },
    )
    states = []
    for folder, compiles in (("plain", False), ("compiled", True)):
        (tmp_path / folder).mkdir()
        run(tmp_path / folder, changed(options, {"train: compile": compiles}))
        saved = tmp_path / folder / "experiments" / "small" / "models" / "net_g_latest.pth"
        states.append(torch.load(saved, weights_only=True)["params"])
    AIDN(**AIDN_TINY).load_state_dict(states[1])
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=0, atol=1e-5, msg=name)


@pytest.mark.slow
def test_a_missing_compiler_is_reported_before_training(
    tmp_path: Path, lmdb: Path, hr_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    options = changed(train_options(lmdb, hr_folder), {"train: compile": True})
    path = write_options(tmp_path / "options.yml", options)
    result = command(tmp_path, "-m", "rescale_app.cli", "train", "-opt", path)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("rescale: error: compile on cpu requires a C++ compiler, such as g++")
    assert "Traceback" not in result.stderr
    assert not list((tmp_path / "experiments" / "small" / "models").iterdir())


def test_the_option_is_checked(tmp_path: Path, lmdb: Path, hr_folder: Path) -> None:
    options = train_options(lmdb, hr_folder)
    path = write_options(tmp_path / "options.yml", changed(options, {"train: compile": True}))
    check_options(str(path), is_train=True)
    write_options(path, changed(options, {"train: compile": "max"}))
    with pytest.raises(ValueError, match="train: compile is 'max': expected true or false"):
        check_options(str(path), is_train=True)


@pytest.mark.gpu
def test_a_compiled_rescaler() -> None:
    ours, plain = (Rescaler(device="cuda", tile=None, compile=compile) for compile in (True, False))
    for size in (96, 64), (65, 121):
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        lr = plain.downscale(image, 2.5)
        for result, expected in (
            (ours.downscale(image, 2.5).pixels, lr.pixels),
            (ours.upscale(lr), plain.upscale(lr)),
        ):
            assert np.abs(result.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("tile", ["auto", None, 512])
def test_compiling_is_rejected_where_it_has_no_effect(tile: Any) -> None:
    with pytest.raises(ValueError, match=r"^compile requires a GPU and tile none"):
        Rescaler(device="cpu", tile=tile, compile=True)
