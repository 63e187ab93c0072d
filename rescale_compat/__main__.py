"""Run a script with BasicSR importable: ``python -m rescale_compat basicsr/train.py -opt ..``.

The script needs no ``rescale_compat.pth``: importing the package has installed the finders.
"""

import os
import runpy
import sys


def main() -> None:
    """Run the script that the arguments name, as ``python SCRIPT ARGUMENTS`` does.

    Processes that the script starts have ``rescale_compat.pth`` switched on: worker processes that
    are not forked import BasicSR too.
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
