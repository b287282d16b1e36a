"""A warning where another project's package of the same name was installed into the same folder.

``claude-throttle`` on the public index is not this project, whose distribution is called
``claude-throttle-sdk``. Both have the import name ``claude_throttle``, so the files of one replace
those of the other, and what is left works by chance.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable

#: The folder in which pip notes that it has installed the other project.
_NAMESAKE = re.compile(r"claude[-_.]throttle-\d[^-]*\.(dist-info|egg-info)", re.IGNORECASE)


def warn_of_namesake(package_path: Iterable[str]) -> None:
    """Warn if the other project is installed beside the package whose ``__path__`` is given."""
    for folder in package_path:
        try:
            # Not importlib.metadata: its import takes longer than that of this package.
            names = os.listdir(os.path.dirname(folder))
        except OSError:  # in a zip file, or not readable: nothing can be said
            continue
        if any(_NAMESAKE.fullmatch(name) for name in names):
            warnings.warn(
                "another project's package, claude-throttle, is installed in the folder of "
                "claude-throttle-sdk, and their files replace each other: run pip uninstall "
                "claude-throttle, then pip install --force-reinstall with the name, path or URL "
                "by which you install claude-throttle-sdk",
                stacklevel=3,
            )
