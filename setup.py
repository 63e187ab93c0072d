"""Build step that pyproject.toml cannot say: the wheel carries a ``.pth`` file.

The file imports ``rescale_compat`` at interpreter start, so that ``import basicsr`` works in any
Python process of the environment. Everything else about the distribution is in pyproject.toml.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

# ``site`` runs a line that starts with "import". Without the package (an interrupted uninstall) the
# interpreter must start as if the file were not there.
PTH = 'import sys; exec("try: import rescale_compat\\nexcept ImportError: pass")\n'


class BuildWithPth(build_py):
    """Puts the ``.pth`` file beside the packages, where pip records it and uninstalls it again."""

    def run(self) -> None:
        """Build the packages, then write the file."""
        super().run()
        # An editable wheel takes no files from the build folder, only from the install folder.
        if self.editable_mode:
            folder = self.get_finalized_command("install").install_lib
        else:
            folder = self.build_lib
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, "rescale_compat.pth").write_text(PTH, encoding="utf-8")


setup(cmdclass={"build_py": BuildWithPth})
