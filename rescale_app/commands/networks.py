"""Loads the network that a command's arguments select."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rescale_compat.errors import RescaleError

from rescale_app.commands.messages import UsageError, print_warning
from rescale_app.distributed import Ranks

if TYPE_CHECKING:
    from rescale_app.rescaler import Rescaler


def ranks_of(args: argparse.Namespace) -> Ranks:
    """The processes over which ``--launcher`` distributes the work.

    Raises:
        UsageError: the input is not a folder, or ``torchrun`` did not start this process.
    """
    if args.launcher == "none":
        return Ranks()
    if not args.input.is_dir():
        raise UsageError(
            f"--launcher distributes the images of a folder, but {args.input} is a file"
        )
    try:
        return Ranks.of_torchrun()
    except RescaleError as error:
        raise UsageError(f"--launcher {args.launcher}: {error}") from error


def load_rescaler(args: argparse.Namespace, ranks: Ranks, another: str | None = None) -> Rescaler:
    """Loads the network with the weights selected by ``args``, or with the weights ``another``."""
    from rescale_app.rescaler import Rescaler, RescaleWarning

    ranks.choose_gpu()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RescaleWarning)
        rescaler = Rescaler(
            another or args.weights,
            args.device,
            args.precision,
            args.method,
            tile=args.tile,
            progress=ranks.is_first,
            compile=args.compile,
            effort=getattr(args, "effort", 0),
        )
    if ranks.is_first and another is None:  # once
        for warning in caught:
            print_warning(str(warning.message))
    return rescaler


def choose_default_weights(args: argparse.Namespace, suffix: str) -> None:
    """Selects the weights for LR files of a format, unless ``--weights`` names others.

    Raises:
        UsageError: ``--effort`` does not support the format.
    """
    from rescale_app.included_weights import default_weights
    from rescale_data.encoding import is_stored_lossless

    lossless = is_stored_lossless(suffix, args.quality)
    if args.effort and suffix == ".webp" and not lossless:
        raise UsageError(
            "--effort does not support lossy WebP: omit --quality (lossless), or write JPEG or PNG"
        )
    if args.weights is None:
        args.weights = default_weights(lossless, args.method)


def tell_format(rescaler: Rescaler, args: argparse.Namespace, suffix: str) -> None:
    """Sets the format in which LR images are stored, which ``--effort`` takes into account."""
    from rescale_data.encoding import JPEG_QUALITY

    if suffix in (".jpg", ".jpeg"):
        rescaler.jpeg_quality = args.quality or JPEG_QUALITY


def check_scale(rescaler: Rescaler, args: argparse.Namespace, names: Sequence[str]) -> None:
    """Checks that one of the options ``names`` sets the downscaling factor.

    Raises:
        UsageError: none does; or one does although the factor of the network is fixed.
    """
    given = [name for name in names if getattr(args, name) is not None]
    options = " or ".join("-s" if name == "scale" else f"--{name}" for name in names)
    architecture = rescaler.architecture
    if architecture.fixed_scale is None and not given:
        raise UsageError(f"{options} is required: the downscaling factor")
    if architecture.fixed_scale is not None and given:
        raise UsageError(
            f"{options} is not supported: {architecture.name} has a fixed factor, "
            f"{architecture.fixed_scale:g}"
        )
