"""The weights included in this package, named after their architecture: ``aidn-small``."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from rescale_arch.checkpoints import canonical_weights
from rescale_data.weight_file import fingerprint, read_weights

_FOLDER = Path(__file__).with_name("weights")
# The first is the default of Rescaler(): 1 dB lower PSNR in a fifth of the time.
_ORDER = ("aidn-small", "aidn")
_FOR_LOSSY_FILES = "aidn-plus"


def included_weights() -> list[str]:
    """Returns the names of the included weights, the default first."""
    names = [path.stem for path in _FOLDER.glob("*.safetensors")]
    rank = {name: index for index, name in enumerate(_ORDER)}
    return sorted(names, key=lambda name: (rank.get(name, len(rank)), name))


def default_weights(lossless: bool = True, method: str | None = None) -> str | None:
    """Returns the name of the default weights for losslessly or lossily stored LR images, if any.

    They are the best guess for a file that does not name its weights. These cannot be determined
    from the image by downscaling the restored one again, since the better a network restores, the
    closer it comes to any LR image.

    Args:
        lossless: whether the LR image is stored losslessly.
        method: name of the architecture; None: any.
    """
    names = [name for name in included_weights() if method in (None, name.partition("-")[0])]
    if not lossless and _FOR_LOSSY_FILES in names:
        return _FOR_LOSSY_FILES
    return names[0] if names else None


def weights_with_fingerprint(mark: str) -> str | None:
    """Returns the name of the included weights with the fingerprint ``mark``, or None."""
    return next((name for name in included_weights() if _fingerprint(name) == mark), None)


def find_weights(weights: str | os.PathLike[str] | None, method: str | None = None) -> Path:
    """Finds a weights file.

    Args:
        weights: a file, or the name of included weights; None: the default.
        method: name of the architecture to return the default for.

    Raises:
        FileNotFoundError: there is no such file, and no such included weights.
    """
    included = included_weights()
    if weights is None:
        for name in included:
            if method in (None, name.partition("-")[0]):
                return _path(name)
        kind = f"weights for {method}" if method and included else "weights"
        raise FileNotFoundError(
            f"this installation includes no {kind}: specify a file with --weights, "
            "or train a network with `rescale train`"
        )
    path = Path(weights)
    if path.is_file():
        return path
    if str(weights) in included:
        return _path(str(weights))
    raise FileNotFoundError(
        f"{path}: no such weights file, and not the name of included weights (available: "
        f"{', '.join(included) or 'none'})"
    )


def _path(name: str) -> Path:
    return _FOLDER / f"{name}.safetensors"


@cache
def _fingerprint(name: str) -> str:
    return fingerprint(canonical_weights(read_weights(_path(name))))
