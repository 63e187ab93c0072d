"""Checkpoints: canonical names, strict loading, safe reading, atomic writing."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import tempfile
import types
import typing
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rescale_arch import AIDN
from rescale_arch.aidn.architecture import aidn_config
from rescale_arch.checkpoints import canonical_weights, load_strictly
from rescale_data.atomic import replacing
from rescale_data.weight_file import fingerprint, read_weights, save_weights

TINY: dict[str, Any] = {"num_feat": 8, "num_block": 2, "adapt_interval": 1}


@pytest.fixture
def net() -> AIDN:
    torch.manual_seed(0)
    return AIDN(**TINY)


@pytest.mark.parametrize("form", ["bare", "params", "state_dict", "module", "jpeg"])
def test_released_and_saved_forms(net: AIDN, form: str, tmp_path: Path) -> None:
    state = net.state_dict()
    constants = {"module.jpeg.compress.y_table": torch.ones(8, 8)} if form == "jpeg" else {}
    prefixed = {f"module.{name}": value for name, value in state.items()} | constants
    checkpoint: dict[str, Any] = {
        "bare": dict(state),
        "params": {"params": state, "config": TINY},
        "state_dict": {"epoch": 300, "state_dict": state},
        "module": {"state_dict": prefixed},
        "jpeg": {"state_dict": prefixed},
    }[form]
    path = tmp_path / "net.pth.tar"
    torch.save(checkpoint, path)
    weights = canonical_weights(read_weights(path))
    assert weights.keys() == state.keys()
    other = AIDN(**TINY)
    load_strictly(other, weights, str(path))
    assert fingerprint(other.state_dict()) == fingerprint(state)


def test_averaged_weights_come_first_and_a_key_decides(net: AIDN) -> None:
    average = {name: value + 1 for name, value in net.state_dict().items()}
    checkpoint = {"params": net.state_dict(), "params_ema": average}
    name = "up_net.head.0.bias"
    assert torch.equal(canonical_weights(checkpoint)[name], average[name])
    assert torch.equal(canonical_weights(checkpoint, "params")[name], net.state_dict()[name])
    with pytest.raises(ValueError, match="no entry 'weights'; present: params, params_ema"):
        canonical_weights(checkpoint, "weights")


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        {"num_feat": 16, "num_block": 8},
        {"num_feat": 8, "num_block": 10},
        {"num_feat": 8, "num_block": 3, "num_adapt_expert": 2, "num_crm_expert": 5},
        {"num_feat": 8, "num_block": 2, "down_unshuffle": 2, "down_num_feat": 16},
        {"num_feat": 16, "num_block": 4, "down_unshuffle": 3},
        {"num_feat": 8, "num_block": 2, "down_num_feat": 16, "fixed_scale": 2},
        {"num_feat": 8, "num_block": 2, "fixed_scale": 2},
        {"num_feat": 8, "num_block": 2, "fixed_scale": 3},
        {"num_feat": 8, "num_block": 1, "fixed_scale": 4},
    ],
)
def test_config_is_read_from_the_shapes(config: dict[str, Any]) -> None:
    torch.manual_seed(0)
    net = AIDN(**config).eval()
    twin = AIDN(**aidn_config(net.state_dict())).eval()
    load_strictly(twin, net.state_dict(), "twin")
    hr = torch.rand(1, 3, 24, 24)
    scale = config.get("fixed_scale", 2.5)
    with torch.inference_mode():
        for ours, theirs in zip(twin(hr, scale), net(hr, scale), strict=True):
            assert torch.equal(ours, theirs)


def test_foreign_weights_are_refused() -> None:
    with pytest.raises(ValueError, match=r"not the weights of an AIDN; present: conv\.weight"):
        aidn_config({"conv.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="not a state dict; present: epoch"):
        canonical_weights({"epoch": 3})


def test_strict_loading_lists_everything_and_loads_nothing(net: AIDN) -> None:
    before = fingerprint(net.state_dict())
    weights = {name: value + 1 for name, value in net.state_dict().items()}
    del weights["up_net.head.0.bias"]
    weights["extra"] = torch.zeros(1)
    weights["up_net.tail.1.bias"] = torch.zeros(4)
    with pytest.raises(ValueError, match=r"some\.pth does not fit AIDN") as caught:
        load_strictly(net, weights, "some.pth")
    assert "1 missing: up_net.head.0.bias" in str(caught.value)
    assert "1 unexpected: extra" in str(caught.value)
    assert "up_net.tail.1.bias (4,) for (3,)" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert fingerprint(net.state_dict()) == before


def test_safetensors_round_trip(net: AIDN, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_weights(path, net.state_dict(), config=TINY, notes={"data": "none"})
    checkpoint = read_weights(path)
    assert checkpoint["config"] == TINY
    assert fingerprint(canonical_weights(checkpoint)) == fingerprint(net.state_dict())
    assert os.listdir(tmp_path) == ["net.safetensors"]
    with pytest.raises(ValueError, match=r"weights are written as \.safetensors"):
        save_weights(tmp_path / "net.pth", net.state_dict())


class Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def test_a_hostile_pickle_does_not_run(tmp_path: Path) -> None:
    marker, path = tmp_path / "ran", tmp_path / "evil.pth"
    torch.save({"params": Hostile(marker)}, path)
    with pytest.raises(ValueError, match=r"evil\.pth: not a checkpoint that can be loaded safely"):
        read_weights(path)
    path.write_bytes(pickle.dumps(Hostile(marker)))
    with pytest.raises(ValueError, match=r"evil\.pth: not a checkpoint that can be loaded safely"):
        read_weights(path)
    assert not marker.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_files_are_named(net: AIDN, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"net{suffix}"
    if suffix == ".pth":
        torch.save(net.state_dict(), path)
    else:
        save_weights(path, net.state_dict())
    whole = path.read_bytes()
    contents = [whole[: len(whole) // 2], b"", b"\x80\x02}.", os.urandom(500)]
    if suffix == ".pth":  # a zip file whose directory is said to be before its start
        contents.append(whole[:-50] + b"\xff" * 8 + whole[-42:])
    for content in contents:
        path.write_bytes(content)
        try:
            canonical_weights(read_weights(path))
        except ValueError as error:
            assert "\n" not in str(error)
        else:
            pytest.fail(f"{content[:20]!r} was taken for weights")
    with pytest.raises(FileNotFoundError, match="missing"):
        read_weights(tmp_path / f"missing{suffix}")


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file whose reading fails")
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_cannot_be_read_is_an_error_of_the_system(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"net{suffix}"
    path.symlink_to("/proc/self/mem")  # can be opened; reading its start is an input/output error
    with pytest.raises(OSError, match=rf"net{suffix}") as caught:
        read_weights(path)
    assert "checkpoint" not in str(caught.value)


LITTLE_MEMORY = """
import resource, sys
import torch
from rescale_data.weight_file import read_weights
torch.zeros(10) + 1  # what PyTorch needs for itself
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
size = int(status["VmSize"].split()[0]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size + int(sys.argv[2]),) * 2)
try:
    read_weights(sys.argv[1])
except MemoryError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of memory")
@pytest.mark.parametrize("form", ["zip.pth", "legacy.pth", "lightning.ckpt", "net.safetensors"])
def test_too_little_memory_is_not_blamed_on_the_file(tmp_path: Path, form: str) -> None:
    path, weights = tmp_path / form, {"w": torch.zeros(10**7)}
    if form == "lightning.ckpt":
        lightning_checkpoint(path, dict(weights))
    elif form == "net.safetensors":
        save_weights(path, weights)
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=form == "zip.pth")
    # safetensors maps its file into memory twice
    for room in (10 * 2**20, 50 * 2**20) if form == "net.safetensors" else (10 * 2**20,):
        result = subprocess.run(
            [sys.executable, "-c", LITTLE_MEMORY, path, str(room)], capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith(f"{path}: not enough memory to load it"), result


def test_fingerprint_tells_weights_apart_but_not_formats(net: AIDN) -> None:
    state = net.state_dict()
    assert fingerprint(state) == fingerprint(dict(reversed(state.items())))
    counted = {k: v + 5 if k.endswith("num_batches_tracked") else v for k, v in state.items()}
    assert fingerprint(counted) == fingerprint(state)
    changed = dict(state, **{"up_net.tail.1.bias": state["up_net.tail.1.bias"] + 1e-6})
    assert fingerprint(changed) != fingerprint(state)


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="stop"), replacing(path) as temporary:
        Path(temporary).write_bytes(b"half")
        raise RuntimeError("stop")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file.bin"]
    with replacing(path) as temporary:
        Path(temporary).write_bytes(b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file.bin"]


# checkpoints of trainers ------------------------------------------------------------------------


class Foreign:
    """A class of a package that is not installed where the file is read."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


class ForeignList(list[Any]):
    pass


class ForeignDict(dict[str, Any]):
    pass


@contextmanager
def installed(*names: str) -> Iterator[list[type]]:
    """Classes with these full names, importable for so long."""
    classes, modules = [], []
    for name in names:
        module, _, own = name.rpartition(".")
        base = {"ListConfig": ForeignList, "Bunch": ForeignDict}.get(own, Foreign)
        cls = type(own, (base,), {"__module__": module})
        for end in range(1, len(module.split(".")) + 1):
            part = ".".join(module.split(".")[:end])
            sys.modules.setdefault(part, types.ModuleType(part))
            modules.append(part)
        setattr(sys.modules[module], own, cls)
        classes.append(cls)
    try:
        yield classes
    finally:
        for part in modules:
            sys.modules.pop(part, None)


def lightning_checkpoint(path: Path, weights: dict[str, Tensor]) -> None:
    """What PyTorch Lightning writes, in all that matters here."""
    with installed(
        "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
        "omegaconf.dictconfig.DictConfig",
        "omegaconf.listconfig.ListConfig",
        "omegaconf.base.Bunch",
    ) as (callback, config, config_list, bunch):
        entries = OrderedDict(weights)
        entries._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
        caches = defaultdict(dict, a={"b": 1})
        torch.save(
            {
                "epoch": 7,
                "global_step": 2**40,
                "pytorch-lightning_version": "1.0.8",
                "callbacks": {callback: {"best_model_score": np.float64(0.25), "path": Path("a")}},
                "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}],
                "state_dict": entries,
                "hyper_parameters": config(
                    kind=typing.Any, list=config_list([1, 2]), cache=caches, bunch=bunch(a=1)
                ),
            },
            path,
        )


def test_a_lightning_checkpoint_loads_without_its_packages(tmp_path: Path) -> None:
    assert "pytorch_lightning" not in sys.modules and "omegaconf" not in sys.modules
    whole = torch.arange(12.0)
    weights = {
        "conv.weight": torch.nn.Parameter(torch.randn(2, 3).mT),
        "conv.bias": torch.randn(3).half(),
        "brain": torch.randn(3).bfloat16(),
        "steps": torch.tensor(5),
        "empty": torch.zeros(0, 4),
        "view": whole[2:8].view(2, 3),
        "same_storage": whole[::3],
        "loss.discriminator.weight": torch.ones(2),
    }
    path = tmp_path / "last.ckpt"
    lightning_checkpoint(path, weights)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    checkpoint = read_weights(path)
    assert checkpoint["epoch"] == 7 and checkpoint["global_step"] == 2**40
    loaded = canonical_weights(checkpoint)
    assert loaded.keys() == weights.keys() - {"loss.discriminator.weight"}
    for name, value in loaded.items():
        assert value.dtype == weights[name].dtype
        assert torch.equal(value, weights[name]), name


def hand_made(path: Path, instructions: bytes) -> None:
    """A file of ``torch.save`` with another pickle in it."""
    torch.save({"params": {"w": torch.zeros(4)}}, path)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, instructions if name.endswith("/data.pkl") else content)


def text(value: str) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


STORAGE = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x04tQ"


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("asked", ["os system", "posix system", "builtins eval", "builtins exec"])
@pytest.mark.parametrize("form", ["reduce", "inst", "obj", "stack_global", "nested", "dotted"])
def test_hostile_instructions_do_not_run(asked: str, form: str, tmp_path: Path) -> None:
    marker, path = tmp_path / "ran", tmp_path / "evil.ckpt"
    module, name = asked.split()
    command = f"touch {marker}" if name == "system" else f"open({str(marker)!r}, 'w').close()"
    called = {
        "reduce": f"c{module}\n{name}\n(".encode() + text(command) + b"tR",
        "inst": b"(" + text(command) + f"i{module}\n{name}\n".encode(),
        "obj": f"(c{module}\n{name}\n".encode() + text(command) + b"o",
        "stack_global": text(module) + text(name) + b"\x93" + text(command) + b"\x85R",
        "dotted": text("torch.serialization") + text(f"{module}.{name}") + b"\x93"
        b"" + text(command) + b"\x85R",
        # in the state of a foreign object in a foreign object's arguments
        "nested": b"cforeign\nThing\n(cforeign\nOther\n)\x81}" + text("a") +
        f"c{module}\n{name}\n(".encode() + text(command) + b"tRsbtR",
    }[form]  # fmt: skip
    hand_made(path, b"\x80\x04}" + text("params") + called + b"s.")
    if form != "dotted":
        with zipfile.ZipFile(path) as archive:
            trusted = archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl")))
        foreign = types.ModuleType("foreign")
        foreign.Thing = foreign.Other = Foreign  # type: ignore[attr-defined]
        with contextlib.suppress(Exception), pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "foreign", foreign)
            pickle.loads(trusted)
        assert marker.exists(), "it does nothing when it is trusted: this test shows nothing"
        marker.unlink()
    try:
        loaded = read_weights(path)
    except ValueError as error:
        assert "evil.ckpt: not a checkpoint that can be loaded safely" in str(error)
        assert "\n" not in str(error)
    else:  # an object that supports no operation
        assert form == "dotted" and type(loaded["params"]).__name__ == "Placeholder"
    assert not marker.exists()


@pytest.mark.parametrize(
    "instructions",
    [
        # attributes of what the reader itself uses: functions, classes
        b"ctorch._utils\n_rebuild_tensor_v2\n(N}" + text("__call__") + b"K\x01stb.",
        b"ccollections\nOrderedDict\n(N}" + text("update") + b"K\x01stb.",
        b"cforeign\nThing\n(N}" + text("__new__") + b"K\x01stb.",
        # a tensor beyond its storage, one without, a file in place of a storage
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"K\x00(I1000\nt(K\x01tI00\nNtR.",
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"K\x00(K\x02t(I-1\ntI00\nNtR.",
        b"ctorch._utils\n_rebuild_tensor_v2\n(]K\x00(K\x02t(K\x01tI00\nNtR.",
        STORAGE.replace(text("0"), text("../../etc/passwd")) + b".",
        b"cforeign\nThing\nQ.",
        b"(" + text("module") + b"cforeign\nThing\ntQ.",
        b"\x82\x01.",  # an extension of the process' registry
        b"}" + text("a") + b".",
        b"",
    ],
)
def test_nonsense_is_refused(instructions: bytes, tmp_path: Path) -> None:
    # The replacement keeps PyTorch's own reader from being the one that takes or refuses the file.
    foreign = b"cforeign\nThing\n)R0"
    hand_made(tmp_path / "odd.ckpt", b"\x80\x02" + foreign + instructions)
    with pytest.raises(ValueError, match=r"odd\.ckpt: (not a checkpoint|contains a)") as caught:
        read_weights(tmp_path / "odd.ckpt")
    assert "\n" not in str(caught.value)
    assert callable(OrderedDict.update)


@pytest.fixture(scope="module")
def foreign_pickle(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("foreign") / "last.ckpt"
    lightning_checkpoint(path, {"w": torch.zeros(2)})
    with zipfile.ZipFile(path) as archive:
        return archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl")))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@settings(max_examples=50)
@given(at=st.integers(0, 10**6), value=st.integers(0, 255))
def test_damaged_foreign_checkpoints_are_refused_or_loaded(
    foreign_pickle: bytes, at: int, value: int
) -> None:
    content = bytearray(foreign_pickle)
    content[at % len(content)] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "last.ckpt"
        hand_made(path, bytes(content))
        with contextlib.suppress(ValueError):
            read_weights(path)
