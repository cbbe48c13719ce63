"""The folder for measurements that have no better place."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Returns `$XDG_CACHE_HOME/darkprune`, by default `~/.cache/darkprune`; it need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "darkprune"
