"""BasicSR on current PyTorch.

Importing this package adds two lazy finders to ``sys.meta_path``. They act only when one of two
modules is imported, and only if that import would fail:

* ``torchvision._meta_registrations`` describes the operators ``nms`` and ``qnms``, which do not
  exist if torchvision could not load its compiled library (a CUDA build of torchvision with a CPU
  build of torch). Declaring their schemas is sufficient, since BasicSR calls neither.
* ``torchvision.transforms.functional_tensor``, which BasicSR 1.4.2 imports, became private in
  torchvision 0.17. It is loaded from the private file.

The file ``rescale_compat.pth``, which is installed next to the packages, imports this package when
Python starts, so that BasicSR's own scripts work unmodified. This costs every Python process of the
environment, so nothing but ``sys`` may be imported here. With ``RESCALE_COMPAT=0`` in the
environment, the file has no effect, and ``python -m rescale_compat basicsr/train.py -opt ..`` runs
a script with the finders.
"""

import sys

TYPE_CHECKING = False  # importing ``typing`` would be the largest cost here
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

__all__ = ["install"]

_META = "torchvision._meta_registrations"
_PUBLIC = "torchvision.transforms.functional_tensor"
_PRIVATE = "torchvision.transforms._functional_tensor"


class _MissingOperators:
    """Declares the operators that ``_META`` describes, just before that module is imported.

    Must be first on ``sys.meta_path``; finds nothing itself. Declaring the operators earlier would
    conflict with the compiled library, if that can be loaded.
    """

    library: object = None  # the declarations exist as long as this object

    @classmethod
    def find_spec(
        cls, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> None:
        if name == _META and cls.library is None:
            from torchvision.extension import _has_ops

            if not _has_ops():
                from torch.library import Library

                library = Library("torchvision", "FRAGMENT")
                for operator in ("nms", "qnms"):
                    library.define(
                        f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                    )
                cls.library = library


class _FormerName:
    """Loads the file of ``_PRIVATE`` under the name ``_PUBLIC``.

    Must be last on ``sys.meta_path``, so that it is used only if the module is missing.
    """

    @staticmethod
    def find_spec(
        name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        if name != _PUBLIC:
            return None
        from importlib.util import find_spec, spec_from_file_location

        private = find_spec(_PRIVATE)
        return private and spec_from_file_location(name, private.origin)


def install() -> None:
    """Adds the finders to ``sys.meta_path``, unless they are present.

    Importing the package calls this; further calls have no effect.
    """
    if not any(getattr(finder, "__module__", None) == __name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, _MissingOperators)
        sys.meta_path.append(_FormerName)


install()
