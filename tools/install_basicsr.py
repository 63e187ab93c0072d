"""Installs BasicSR from its source distribution: python tools/install_basicsr.py [pip's options].

BasicSR 1.4.2 does not build on Python 3.13 and later. Its ``setup.py`` executes
``basicsr/version.py`` inside a function and looks up the result in ``locals()``, which no longer
contains names defined by ``exec`` (PEP 667). This script runs pip with a module on PYTHONPATH that
corrects the expression in the unpacked source distribution before the build starts.

BasicSR is built without build isolation, which would hide that module, and without its build
requirements, which would download another PyTorch, so setuptools and wheel must be installed. Its
dependencies are not installed; they are dependencies of this project.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile

REQUIREMENT = "basicsr==1.4.2"

# Python imports a module of this name at startup, in pip and in the build. pip runs the build in
# the folder of the unpacked source distribution; a setup.py in the current folder is not changed.
SITECUSTOMIZE = """\
import os

broken = "return locals()['__version__']"
corrected = "return __import__('runpy').run_path(version_file)['__version__']"
if os.getcwd() != {folder!r} and os.path.isfile("setup.py"):
    with open("setup.py", encoding="utf-8") as file:
        text = file.read()
    if broken in text:
        with open("setup.py", "w", encoding="utf-8") as file:
            file.write(text.replace(broken, corrected))
"""


def main(options: "list[str]") -> "int | str":
    """Runs pip with ``options``; returns its exit code, or the reason for not running it."""
    if sys.version_info < (3, 11):  # noqa: UP036  says so instead of failing in the build
        version = ".".join(map(str, sys.version_info[:3]))
        return f"rescale-basicsr requires Python 3.11 or later; this is Python {version}"
    if not all(map(importlib.util.find_spec, ("pip", "setuptools", "wheel"))):
        install = f"{sys.executable} -m pip install setuptools wheel"
        return f"pip, setuptools and wheel are required: {install}"
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation"]
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "sitecustomize.py"), "w", encoding="utf-8") as file:
            file.write(SITECUSTOMIZE.format(folder=os.getcwd()))
        paths = [folder, os.environ.get("PYTHONPATH")]
        # Older versions of pip need to be told not to run setup.py themselves: it would fetch
        # its build requirements.
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "PIP_USE_PEP517": "1",
        }
        return subprocess.call([*command, *options, REQUIREMENT], env=environment)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
