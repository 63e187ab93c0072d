"""The user interface: the ``rescale`` command, and :class:`Rescaler` for Python.

from rescale_app import Rescaler

rescaler = Rescaler("aidn.safetensors")
lr = rescaler.downscale(array, 2.5)
restored = rescaler.upscale(lr)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rescale_app.rescaler import Comparison, LRImage, Quality, Rescaler, RescaleWarning

__all__ = ["Comparison", "LRImage", "Quality", "RescaleWarning", "Rescaler"]


def __getattr__(name: str) -> Any:
    # Importing PyTorch takes a second or more: `rescale --help` must not wait for it (PEP 562).
    if name in __all__:
        from rescale_app import rescaler

        return getattr(rescaler, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
