"""Build steps that pyproject.toml cannot express; everything else about the distribution is there.

The wheel carries ``rescale_compat.pth`` beside the packages: ``site`` runs it when Python starts,
so that ``import basicsr`` works in any Python process of the environment.
"""

import shutil
import sys
from pathlib import Path

# Older versions of pip look at ``requires-python`` after they have downloaded all dependencies, and
# fail in the build of one of them.
if sys.version_info < (3, 11):  # noqa: UP036
    version = ".".join(map(str, sys.version_info[:3]))
    sys.exit(f"rescale-basicsr requires Python 3.11 or later; this is Python {version}")

from setuptools import setup
from setuptools.command.build_py import build_py

PTH = Path(__file__).parent / "rescale_compat" / "rescale_compat.pth"


class BuildWithPth(build_py):
    """Puts the ``.pth`` file beside the packages, where pip records it and uninstalls it again."""

    def run(self) -> None:
        """Build the packages, then copy the file."""
        super().run()
        # An editable wheel takes no files from the build folder, only from the install folder.
        if self.editable_mode:
            folder = self.get_finalized_command("install").install_lib
        else:
            folder = self.build_lib
        Path(folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(PTH, folder)


setup(cmdclass={"build_py": BuildWithPth})
