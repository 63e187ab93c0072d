"""Build steps that pyproject.toml cannot express; everything else about the distribution is there.

The wheel contains ``rescale_compat.pth`` next to the packages. ``site`` executes it when Python
starts, so that ``import basicsr`` works in every Python process of the environment.
"""

import shutil
import sys
from pathlib import Path

# Older versions of pip check ``requires-python`` only after downloading all dependencies, and fail
# when they build one of them.
if sys.version_info < (3, 11):  # noqa: UP036
    version = ".".join(map(str, sys.version_info[:3]))
    sys.exit(f"rescale-basicsr requires Python 3.11 or later; this is Python {version}")

from setuptools import setup
from setuptools.command.build_py import build_py

PTH = Path(__file__).parent / "rescale_compat" / "rescale_compat.pth"


class BuildWithPth(build_py):
    """Installs the ``.pth`` file next to the packages, so that pip also uninstalls it."""

    def run(self) -> None:
        """Builds the packages, then copies the file."""
        super().run()
        # An editable wheel contains no files from the build folder, only from the install folder.
        if self.editable_mode:
            folder = self.get_finalized_command("install").install_lib
        else:
            folder = self.build_lib
        Path(folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(PTH, folder)


setup(cmdclass={"build_py": BuildWithPth})
