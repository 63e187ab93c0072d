"""Export to ONNX: the models against PyTorch, and the functions that compute their inputs."""

import copy
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import recipe
import torch
from numpy.typing import NDArray
from torch import Tensor

from rescale_app import cli
from rescale_app.export.model_inputs import model_inputs
from rescale_app.export.onnx_files import ExportedModel, export_models
from rescale_app.export.verification import largest_error
from rescale_app.included_weights import find_weights, included_weights
from rescale_app.rescaler import Rescaler
from rescale_app.weight_import import load_weights
from rescale_arch import AIDN, VQIR
from rescale_arch.architecture import LoadedNetwork, load_network
from rescale_arch.images import pad_to_multiple
from rescale_arch.rounding import quantize
from rescale_data.image_file import read_image, write_image
from rescale_data.pixels import to_tensor

EXPORT = Path(cli.__file__).parent / "export"
TINY_VQIR = {
    "ch": 32, "ch_mult": (1, 1, 1, 1, 2), "num_res_blocks": 1, "z_channels": 32, "n_embed": 64,
}  # fmt: skip
SCALES = (1.5, 2.5, (3.4, 1.2))


def tiny(network: type[Any] = AIDN, **config: Any) -> LoadedNetwork:
    if network is AIDN:
        config = {"num_feat": 16, "num_block": 2, "adapt_interval": 1, **config}
    net = recipe.fill(network(**config))
    if isinstance(net, VQIR):  # codes of what it recovers, so that an image has many of them
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            recovered = net._recover(torch.rand(1, 3, 12, 12, generator=generator))
            spread, mean = torch.std_mean(recovered, (0, 2, 3))
            book = net.quantize.embedding.weight
            book.copy_(mean + spread * torch.randn(book.shape, generator=generator))
    return load_network({"params": net.state_dict(), "config": config}, "tiny")


@cache
def tiny_models(half: bool = False) -> dict[str, ExportedModel]:
    return {model.direction: model for model in export_models(tiny(), half=half)}


def run(
    model: bytes | str, inputs: dict[str, NDArray[Any]], output: str = "output"
) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model)
    wanted = [entry.name for entry in session.get_inputs()]
    (value,) = session.run([output], {name: inputs[name] for name in wanted})
    return np.asarray(value)


def image(height: int, width: int, seed: int = 1) -> Tensor:
    return torch.from_numpy(recipe.image(seed, height, width))


@torch.inference_mode()
def check(
    folder: Path, net: LoadedNetwork, hr: Tensor, scale: Any, helpers: ModuleType, atol: float
) -> None:
    """Both directions of exported files against the network in float64."""
    network = copy.deepcopy(net.network).double()
    size = (hr.shape[-2], hr.shape[-1])
    factors = network.factors(scale)
    lr = network.downscale(hr.double(), scale)
    # An image of one code is constant but for rounding, which group norm then amplifies.
    stored = quantize(torch.rand(lr.shape) if isinstance(network, VQIR) else lr.float())
    restored = network.upscale(stored.double(), scale, size=size)
    inverse = tuple(1 / factor for factor in factors)
    trips = (("down", hr, inverse, lr), ("up", stored, factors, restored))
    for direction, given, ratio, expected in trips:
        path = str(folder / f"{direction}.onnx")
        notes = {note.key: note.value for note in onnx.load(path).metadata_props}
        unit = int(notes["rescale.unit"])
        out_size = tuple(expected.shape[-2:])
        inputs = {"image": pad_to_multiple(given, unit).numpy()}
        inputs |= helpers.model_inputs(ratio, out_size, unit)
        found = run(path, inputs)[..., : out_size[0], : out_size[1]]
        np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=atol)


def load_module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("name", included_weights())
def test_included_weights_agree_with_pytorch(
    name: str, hr_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new" / name
    assert cli.main(["export", "onnx", "--weights", name, "-o", str(folder)]) == 0
    assert "of PyTorch" in capsys.readouterr().out
    names = {"down.onnx", "up.onnx", "model_inputs.js", "model_inputs.py"}
    assert {path.name for path in folder.iterdir()} == names
    helpers = load_module(folder / "model_inputs.py")
    net = load_weights(find_weights(name))
    own = net.architecture.fixed_scale
    for name in ("chelsea", "coffee", "rocket"):  # 97 x 121, 96 x 144, 129 x 96
        hr = to_tensor(read_image(hr_folder / f"{name}.png"))
        for scale in SCALES if own is None else (own,):
            check(folder, net, hr, scale, helpers, 1e-4)


@pytest.mark.slow
def test_the_example_of_the_documentation_restores(tmp_path: Path) -> None:
    from skimage import data

    page = (EXPORT.parents[1] / "docs" / "onnx.md").read_text()
    ((name, code),) = re.findall(r"^`(restore\.py)`:\n\n```python\n(.*?)^```$", page, re.M | re.S)
    (tmp_path / name).write_text(code)
    rescaler = Rescaler("aidn-small", "cpu", precision="fp32")
    lr = rescaler.downscale(data.chelsea(), 2.5)
    write_image(tmp_path / "small.png", lr.pixels)
    folder = tmp_path / "models"
    assert cli.main(["export", "onnx", "-o", str(folder)]) == 0
    shutil.copy(folder / "model_inputs.py", tmp_path)
    subprocess.run((sys.executable, name), cwd=tmp_path, check=True, timeout=300)
    difference = read_image(tmp_path / "restored.png").astype(int) - rescaler.upscale(lr)
    assert np.abs(difference).max() <= 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("network", "config"),
    [
        (AIDN, {"fixed_scale": 3, "num_feat": 8}),
        (AIDN, {"fixed_scale": 4, "num_feat": 8}),
        (VQIR, {**TINY_VQIR, "factor": 16, "stage": 2, "embed_dim": 32}),
    ],
)
def test_networks_with_one_factor_agree_with_pytorch(
    network: type[Any], config: dict[str, Any], tmp_path: Path
) -> None:
    net = tiny(network, **config)
    for model in export_models(net):
        (tmp_path / f"{model.direction}.onnx").write_bytes(model.data)
    helpers = load_module(EXPORT / "model_inputs.py")
    for height, width in ((64, 96), (83, 131), (100, 70)):
        check(tmp_path, net, image(height, width), None, helpers, 1e-4)


@pytest.mark.parametrize("unshuffle", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_models_serve_every_size_and_scale(unshuffle: int, tmp_path: Path) -> None:
    net = tiny(down_unshuffle=unshuffle, down_num_feat=24) if unshuffle > 1 else tiny()
    models = (
        {model.direction: model for model in export_models(net)} if unshuffle > 1 else tiny_models()
    )
    for direction, model in models.items():
        assert model.error <= 1e-4
        assert model.graph.unit == (unshuffle if direction == "down" else 1)
        (tmp_path / f"{direction}.onnx").write_bytes(model.data)
    helpers = load_module(EXPORT / "model_inputs.py")
    for height, width in ((9, 8), (50, 33), (64, 97)):
        for scale in SCALES:
            check(tmp_path, net, image(height, width), scale, helpers, 1e-4)


def test_batches(tmp_path: Path) -> None:
    first, second = image(20, 30).numpy(), image(20, 30, seed=2).numpy()
    inputs = model_inputs((2.0, 2.0), (40, 60))
    model = tiny_models()["up"].data
    both = run(model, {"image": np.concatenate((first, second)), **inputs})
    assert both.shape == (2, 3, 40, 60)
    for index, single in enumerate((first, second)):
        alone = run(model, {"image": single, **inputs})
        np.testing.assert_allclose(both[index], alone[0], rtol=0, atol=1e-5)


def test_a_part_with_its_halo_equals_the_whole() -> None:
    model = tiny_models()["up"]
    lr = image(90, 110).numpy()
    ratio = (1.7, 2.3)
    whole = run(model.data, {"image": lr, **model_inputs(ratio, (153, 253))})
    assert model.graph.halo is not None
    first, end = (60, 100), (90, 150)  # of the output
    reach = run(model.data, {"image": lr, **model_inputs(ratio, (153, 253))}, "reach")
    margin = np.ceil(reach).astype(int)
    # the last convolution takes a pixel more on each side
    at = [
        (int((first[i] - 0.5) / ratio[i] - 0.5) - margin[i] - model.graph.halo,
         int((end[i] + 0.5) / ratio[i] - 0.5) + 2 + margin[i] + model.graph.halo)
        for i in (0, 1)
    ]  # fmt: skip
    assert at[0][0] > 0 and at[0][1] < 90 and at[1][0] > 0 and at[1][1] < 110
    part = lr[..., at[0][0] : at[0][1], at[1][0] : at[1][1]]
    inputs = model_inputs(
        ratio,
        (end[0] - first[0] + 2, end[1] - first[1] + 2),
        first=(first[0] - 1, first[1] - 1),
        origin=(at[0][0], at[1][0]),
    )
    found = run(model.data, {"image": np.ascontiguousarray(part), **inputs})[..., 1:-1, 1:-1]
    expected = whole[..., first[0] : end[0], first[1] : end[1]]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_half_precision_is_smaller_and_within_a_level() -> None:
    for direction, model in tiny_models(half=True).items():
        assert model.error <= 1 / 255
        types = {entry.data_type for entry in onnx.load_from_string(model.data).graph.initializer}
        assert onnx.TensorProto.FLOAT16 in types
        assert len(model.data) < 0.8 * len(tiny_models()[direction].data)


@pytest.mark.slow
def test_half_precision_keeps_positions_on_long_sides() -> None:
    """float16 cannot tell the pixels from 2,048 on apart."""
    lr = image(8, 4000).numpy()
    inputs = {"image": lr, **model_inputs((1.0, 1.25), (8, 5000))}
    full, half = (run(tiny_models(half)["up"].data, inputs) for half in (False, True))
    assert np.abs(half - full).max() < 1 / 255


def test_models_contain_no_paths_of_this_machine() -> None:
    for model in tiny_models().values():
        assert str(Path(cli.__file__).parents[1]).encode() not in model.data
        notes = {note.key: note.value for note in onnx.load_from_string(model.data).metadata_props}
        assert notes["rescale.network"] == "aidn"
        assert notes["rescale.weights"].startswith("sha256:")
        assert int(notes["rescale.halo"]) == model.graph.halo


def test_another_network_is_detected() -> None:
    model = tiny_models()["up"]
    other = tiny()
    with torch.no_grad():
        other.network.up_net.head[0].bias += 0.01
    assert largest_error(model.data, model.graph, "up", other.network) > 1e-3


@pytest.mark.slow
def test_weights_beyond_float16_are_named() -> None:
    net = tiny()
    with torch.no_grad():
        net.network.down_net.body[0].body[0].weight[0, 0, 0, 0] = 1e6
    with pytest.raises(ValueError, match=r"body\.0\.body\.0\.weight has values up to 1e\+06.*fp16"):
        list(export_models(net, half=True, directions=("down",)))


def test_networks_without_graphs_are_refused() -> None:
    from dataclasses import replace

    net = tiny()
    plugin = replace(net, architecture=replace(net.architecture, graphs=None, describe=None))
    with pytest.raises(ValueError, match="AIDN cannot be exported"):
        next(export_models(plugin))


def test_missing_packages_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnx" else found(name)
    )
    assert cli.main(["export", "onnx", "-o", str(tmp_path / "models")]) == 1
    error = capsys.readouterr().err
    assert error == (
        "rescale: error: exporting needs onnx: pip install 'rescale-basicsr[export]'\n"
    )
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("ratio", "size", "rest"),
    [
        ((2.5, 2.5), (7, 5), {}),
        ((1 / 3.3, 1 / 1.1), (9, 8), {"unit": 2}),
        ((1.7, 4.0), (5, 4), {"first": (7680, 99), "origin": (4500, 20)}),
    ],
)
def test_inputs_are_the_same_in_javascript(
    ratio: tuple[float, float], size: tuple[int, int], rest: dict[str, Any]
) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs Node.js")
    script = (
        f"import {{ modelInputs }} from {json.dumps((EXPORT / 'web/model_inputs.js').as_uri())};"
        f"const inputs = modelInputs({json.dumps(ratio)}, {json.dumps(size)}, {json.dumps(rest)});"
        "const lists = Object.entries(inputs).map(([name, values]) => [name, [...values]]);"
        "console.log(JSON.stringify(Object.fromEntries(lists)));"
    )
    command = (node, "--input-type=module", "--eval", script)
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    found = json.loads(printed.stdout)
    expected = model_inputs(ratio, size, **rest)
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert np.array_equal(np.float32(found[name]), values), name
