"""Training, validation and testing of rescaling networks in BasicSR.

Importing this package registers everything with BasicSR, so one line in an option file is enough
for BasicSR's own ``train.py`` and ``test.py``::

    plugin: !!python/name:rescale_model.register
"""

import rescale_compat  # noqa: F401  must precede basicsr

from rescale_model.registration import register

register()

__all__ = ["register"]
