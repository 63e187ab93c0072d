"""The build backend: hatchling, on a Python that this project supports.

pip reads ``requires-python`` from the metadata that this backend makes. Older versions of pip look
at it after they have downloaded all dependencies, and fail in the build of one of them.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036
    version = ".".join(map(str, sys.version_info[:3]))
    sys.exit(f"rescale-basicsr requires Python 3.11 or later; this is Python {version}")

from hatchling.build import *  # noqa: F403
