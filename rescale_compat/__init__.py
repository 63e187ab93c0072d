"""BasicSR on today's PyTorch.

Importing this package puts two lazy finders on ``sys.meta_path``; nothing else happens until one of
two modules is asked for, and then only where that module would not import:

* ``torchvision._meta_registrations`` describes the operators ``nms`` and ``qnms``, which do not
  exist when torchvision could not load its compiled library (a CUDA build of torchvision beside a
  CPU build of torch). Declaring their schemas is enough; BasicSR calls neither.
* ``torchvision.transforms.functional_tensor``, which BasicSR 1.4.2 imports, went private in
  torchvision 0.17. It is loaded from its private file.

The file ``rescale_compat.pth``, which the distribution installs beside the packages, imports this
package when Python starts, so that BasicSR's own scripts work unmodified. Every process of the
environment pays for that: import nothing here but ``sys``. With ``RESCALE_COMPAT=0`` in the
environment the file does nothing, and ``python -m rescale_compat basicsr/train.py -opt ..`` runs a
script with the finders.
"""

import sys

TYPE_CHECKING = False  # importing ``typing`` itself would cost the most here
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

__all__ = ["install"]

_META = "torchvision._meta_registrations"
_PUBLIC = "torchvision.transforms.functional_tensor"
_PRIVATE = "torchvision.transforms._functional_tensor"


class _MissingOperators:
    """Declares the operators that ``_META`` describes, just before it is imported.

    It has to be first on ``sys.meta_path``, and finds nothing itself. Any earlier moment would
    clash with the compiled library's own declarations where that library does load.
    """

    library: object = None  # the declarations live as long as this object

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

    It has to be last on ``sys.meta_path``: it is asked only when the module is really missing.
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
    """Put the finders on ``sys.meta_path``, unless they are there.

    Importing the package does this; calling it again changes nothing.
    """
    if not any(getattr(finder, "__module__", None) == __name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, _MissingOperators)
        sys.meta_path.append(_FormerName)


install()
