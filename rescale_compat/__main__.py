"""Runs a script with BasicSR importable: ``python -m rescale_compat basicsr/train.py -opt ..``.

This does not require ``rescale_compat.pth``, since importing the package installs the finders.
"""

import os
import runpy
import sys


def main() -> None:
    """Runs a script with arguments, like ``python SCRIPT ARGUMENTS``.

    ``rescale_compat.pth`` is enabled for child processes, since spawned workers also import
    BasicSR.
    """
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit("usage: python -m rescale_compat SCRIPT [ARGUMENTS]")
    script = sys.argv[1]
    if not os.path.isfile(script):
        sys.exit(f"rescale_compat: no such script: {script}")
    os.environ.pop("RESCALE_COMPAT", None)
    del sys.argv[0]
    if not sys.flags.safe_path:
        sys.path[0] = os.path.dirname(os.path.realpath(script))
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
