"""A static web page that restores images in the browser."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rescale_compat.errors import RescaleError

import numpy as np
import onnxruntime
import torch

from rescale_app.export.npm import fetch_files
from rescale_app.export.onnx_files import ExportedModel, export_models
from rescale_app.export.verification import run_model
from rescale_app.html import components
from rescale_app.included_weights import default_weights, find_weights
from rescale_app.weight_import import load_weights
from rescale_arch.architecture import LoadedNetwork
from rescale_data.image_file import write_file
from rescale_data.weight_file import fingerprint

DEFAULT_WEIGHTS = ("aidn-small", "aidn-plus")

_RUNTIME = "onnxruntime-web@1.30.0"
_INTEGRITY = (
    "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZ"
    "ClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
)
# For a CPU, and for a GPU with WebGPU; a browser loads one of them.
_RUNTIME_FILES = (
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
# The npm package has no copy of its license, unlike the Python package of the same project.
_RUNTIME_LICENSES = ("LICENSE", "ThirdPartyNotices.txt")
_SIDE, _SCALE = 8, 2  # side of the pattern that tests a GPU
_WEB = Path(__file__).parent / "web"
# Read by some static hosts. With these headers, browsers allow several threads.
_HEADERS = """\
/*
  Cross-Origin-Opener-Policy: same-origin
  Cross-Origin-Embedder-Policy: require-corp
"""


def export_page(folder: Path, weights: Sequence[str] = DEFAULT_WEIGHTS) -> None:
    """Writes a folder that any web server can serve.

    Args:
        folder: created if necessary; existing files are replaced.
        weights: weights files, or names of included weights; the first restores files that do not
            name theirs.

    Raises:
        ValueError: weights are not of a network for any scale, or npm cannot fetch the runtime.
        OSError: a file is missing or cannot be written.
    """
    files: dict[str, bytes] = {}
    models = []
    for name in weights:
        loaded = load_weights(find_weights(name))
        (model,) = export_models(loaded, directions=("up",))
        if "reach" not in model.graph.outputs:
            raise RescaleError(
                f"{name}: the page does not support {loaded.title} with a fixed factor"
            )
        stem = Path(name).stem
        files[f"models/{stem}.onnx"] = model.data
        models.append(_entry(stem, loaded, model))
        notes = find_weights(name).with_suffix(".md")
        if notes.is_file():
            files[f"models/{stem}.md"] = notes.read_bytes()
    fetched = fetch_files(_RUNTIME, _INTEGRITY, [f"dist/{name}" for name in _RUNTIME_FILES])
    files |= {f"runtime/{Path(name).name}": data for name, data in fetched.items()}
    for name in _RUNTIME_LICENSES:
        files[f"runtime/{name}"] = Path(onnxruntime.__file__).with_name(name).read_bytes()
    files["compare.js"] = components.script().encode()
    files["models.json"] = json.dumps(models).encode()
    files["LICENSES.txt"] = _licenses().encode()
    files["_headers"] = _HEADERS.encode()
    # the page itself last
    files |= {path.name: path.read_bytes() for path in sorted(_WEB.iterdir(), reverse=True)}
    for name, data in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        write_file(target, data)


def _entry(name: str, loaded: LoadedNetwork, model: ExportedModel) -> dict[str, Any]:
    """The page's description of a model."""
    limits = loaded.architecture.scale_limits
    assert limits is not None
    return {
        "name": name,
        "file": f"models/{name}.onnx",
        "network": loaded.architecture.name,
        "weights": fingerprint(loaded.weights),
        "halo": model.graph.halo,
        "max_scale": limits[1],
        "lossy": name == default_weights(lossless=False),
        "test": _test(model.data),
    }


def _test(model: bytes) -> dict[str, Any]:
    """A pattern that the page restores before it relies on a GPU, and the result."""
    samples = 37 * np.arange(3 * _SIDE * _SIDE) % 256
    image = torch.from_numpy(samples.reshape(1, 3, _SIDE, _SIDE).astype(np.float32) / 255)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    size = _SCALE * _SIDE, _SCALE * _SIDE
    expected = run_model(session, 1, image, (_SCALE, _SCALE), size)
    return {"side": _SIDE, "scale": _SCALE, "expected": expected.ravel().round(4).tolist()}


def _licenses() -> str:
    return f"""\
This page: rescale-basicsr {version("rescale-basicsr")}, Apache License 2.0
(https://www.apache.org/licenses/LICENSE-2.0).

runtime/: {_RUNTIME.replace("@", " ")}, Copyright (c) Microsoft Corporation, MIT License;
see runtime/LICENSE and runtime/ThirdPartyNotices.txt.

models/: see the .md file next to each model.
"""
