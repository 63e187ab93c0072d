"""Checkpoints of trainers are read without their packages, and hostile ones do not run."""

from __future__ import annotations

import contextlib
import pickle
import sys
import tempfile
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from foreign_checkpoints import Foreign, Hostile, lightning_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from rescale_arch.checkpoints import canonical_weights
from rescale_data.weight_file import read_weights


def test_a_hostile_pickle_does_not_run(tmp_path: Path) -> None:
    marker, path = tmp_path / "ran", tmp_path / "evil.pth"
    torch.save({"params": Hostile(marker)}, path)
    with pytest.raises(ValueError, match=r"evil\.pth: not a checkpoint that can be loaded safely"):
        read_weights(path)
    path.write_bytes(pickle.dumps(Hostile(marker)))
    with pytest.raises(ValueError, match=r"evil\.pth: not a checkpoint that can be loaded safely"):
        read_weights(path)
    assert not marker.exists()


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
