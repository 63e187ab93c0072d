"""Deterministic weights for the parity vectors in this folder.

Every tensor of a state dict is filled from a generator seeded by its own key, so a network whose
state dict has the same keys and shapes as the reference gets the same weights, on every machine and
with every NumPy version (``RandomState`` streams are frozen).
"""

import zlib

import numpy as np
import torch


def tensor_for(key: str, shape: tuple, frozen: torch.Tensor) -> torch.Tensor:
    """The value of the state-dict entry `key`; `frozen` is what the constructor gave it."""
    if (
        key.endswith("num_batches_tracked")
        or "sub_mean" in key
        or "add_mean" in key
        or "haar_weights" in key
    ):
        return frozen.clone()
    rng = np.random.RandomState(zlib.crc32(key.encode()))
    value = rng.standard_normal(shape)
    if key.endswith("running_mean"):
        value *= 0.1
    elif key.endswith("running_var"):
        value = 1.0 + 0.1 * np.abs(value)
    elif (len(shape) == 2 and shape[0] == shape[1] and ".operations." in key) or (
        len(shape) == 2 and shape[0] == shape[1] and ".inpfeat_extraction." in key
    ):
        value = np.linalg.qr(value)[0]  # invertible 1x1 convolution: orthogonal
    elif key.endswith("embedding.weight"):
        value *= 0.1  # codebook: near the features, so that many codes are used
    elif len(shape) == 1:
        value = (
            1.0 + 0.1 * value if key.endswith("weight") else 0.05 * value
        )  # norm scale / any bias
    else:
        fan_in = int(np.prod(shape[1:])) if len(shape) in (2, 4) else int(np.prod(shape[2:]))
        gain = 0.5
        if ".body." in key and ("down_net" in key or "up_net" in key) and "sa_sample" not in key:
            gain = 0.3  # residual trunk: keep activations bounded
        value *= gain / np.sqrt(fan_in)
    return torch.from_numpy(np.ascontiguousarray(value)).to(frozen.dtype).reshape(shape)


def fill(module: torch.nn.Module) -> torch.nn.Module:
    """Fills `module` in place with the recipe's weights and returns it in eval mode."""
    state = module.state_dict()
    module.load_state_dict({k: tensor_for(k, tuple(v.shape), v) for k, v in state.items()})
    return module.eval()


def image(seed: int, height: int, width: int) -> np.ndarray:
    """A smooth synthetic RGB image, float32 in [0, 1], shape (1, 3, height, width)."""
    rng = np.random.RandomState(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    out = np.zeros((3, height, width))
    for _ in range(12):
        fy, fx, phase = rng.uniform(0.02, 0.9), rng.uniform(0.02, 0.9), rng.uniform(0, 6.28)
        out += rng.uniform(-1, 1, (3, 1, 1)) * np.sin(fy * y + fx * x + phase)
    out = 0.5 + 0.12 * out + 0.03 * rng.standard_normal(out.shape)
    return np.clip(out, 0, 1).astype(np.float32)[None]
