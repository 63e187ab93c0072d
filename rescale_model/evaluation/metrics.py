"""Perceptual metrics for ``val: metrics``: LPIPS and DISTS.

BasicSR includes ``calculate_niqe``. LPIPS and DISTS use separate packages, and the weights of their
backbones are read from files: nothing is downloaded.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import rescale_compat  # noqa: F401  must precede basicsr
from rescale_compat.errors import RescaleError

import numpy as np
import torch
import torchvision
from basicsr.metrics.metric_util import reorder_image
from numpy.typing import NDArray
from torch import Tensor, nn

from rescale_data.weight_file import read_weights
from rescale_model.losses import LPIPSLoss

LOWER_IS_BETTER = ("calculate_dists", "calculate_lpips", "calculate_niqe")
"""Metrics that are distances, for which lower is better."""

LEAST_SIZES = {
    "calculate_dists": (16, 16),
    "calculate_lpips": (32, 32),
    "calculate_niqe": (96, 192),  # two blocks of NIQE
    "calculate_ssim": (11, 11),
}
"""Metric -> minimum length of the shorter and the longer side, without the border."""


def calculate_lpips(
    img: NDArray[Any],
    img2: NDArray[Any],
    crop_border: int,
    input_order: str = "HWC",
    net: str = "alex",
    backbone: str | None = None,
    better: str = "lower",
) -> float:
    """Learned perceptual distance (LPIPS, CVPR 2018, arXiv 1801.03924), from the package ``lpips``.

    Args:
        img: BGR in [0, 255], at least 32 x 32.
        img2: the same size.
        crop_border: pixels to crop on every side.
        input_order: ``'HWC'`` or ``'CHW'``.
        net: backbone, ``'alex'``, as LPIPS is usually reported, or ``'vgg'``.
        backbone: file of its weights; see :class:`~rescale_model.losses.LPIPSLoss`.
        better: unused; passed by BasicSR's own models.

    Raises:
        ValueError: the package is not installed, or ``net`` is unknown.
        FileNotFoundError: the backbone weights do not exist; the message states where to get them.
    """
    return _distance(_lpips(net, backbone), [img, img2], crop_border, input_order)


def calculate_dists(
    img: NDArray[Any],
    img2: NDArray[Any],
    crop_border: int,
    input_order: str = "HWC",
    better: str = "lower",
) -> float:
    """Structure and texture distance (DISTS, arXiv 2004.07728), using its authors' package.

    Args:
        img: BGR in [0, 255], at least 16 x 16; evaluated at full resolution.
        img2: the same size.
        crop_border: pixels to crop on every side.
        input_order: ``'HWC'`` or ``'CHW'``.
        better: unused; passed by BasicSR's own models.

    Raises:
        ValueError: the package is not installed.
        FileNotFoundError: the backbone weights do not exist; the message states where to get them.
    """
    return _distance(_dists(), [img, img2], crop_border, input_order)


def check_metric(options: Mapping[str, Any]) -> None:
    """Loads what a metric needs, so that errors are reported before anything is computed.

    Args:
        options: options of a metric in ``val: metrics``.

    Raises:
        ValueError: a package is not installed, or an option is invalid.
        FileNotFoundError: the backbone weights do not exist; the message states where to get them.
    """
    if options["type"] == "calculate_lpips":
        _lpips(options.get("net", "alex"), options.get("backbone"))
    elif options["type"] == "calculate_dists":
        _dists()


@cache
def _lpips(net: str, backbone: str | None) -> nn.Module:
    return LPIPSLoss(net=net, backbone=backbone).to(_device())


@cache
def _dists() -> nn.Module:
    try:
        import DISTS_pytorch
    except ModuleNotFoundError as error:
        raise RescaleError(
            "calculate_dists needs a package that is not installed: pip install dists-pytorch"
        ) from error
    url = torchvision.models.VGG16_Weights.IMAGENET1K_V1.url
    path = os.path.join(torch.hub.get_dir(), "checkpoints", os.path.basename(url))
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"calculate_dists: no backbone weights at {path}: download {url} to this path"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's, for a deprecated argument
        network: nn.Module = DISTS_pytorch.DISTS(load_weights=False)
    # The package looks for these in the root of the environment, where not every installer
    # puts them.
    own = read_weights(os.path.join(os.path.dirname(DISTS_pytorch.__file__), "weights.pt"))
    network.load_state_dict({**network.state_dict(), "alpha": own["alpha"], "beta": own["beta"]})
    return network.requires_grad_(False).eval().to(_device())


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@torch.inference_mode()
def _distance(
    network: nn.Module, images: Sequence[NDArray[Any]], border: int, input_order: str
) -> float:
    first, second = (_rgb(image, border, input_order).to(_device()) for image in images)
    with torch.autocast(first.device.type, enabled=False):
        return float(network(first, second))


def _rgb(image: NDArray[Any], border: int, input_order: str) -> Tensor:
    """(1, 3, H, W) in [0, 1]."""
    hwc = reorder_image(image, input_order)
    inner = hwc[border : hwc.shape[0] - border, border : hwc.shape[1] - border, ::-1]
    chw = np.ascontiguousarray(inner.transpose(2, 0, 1), dtype=np.float32)
    return torch.from_numpy(chw / 255)[None]
