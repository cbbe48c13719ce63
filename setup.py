"""Entry for setuptools: what pyproject.toml cannot say.

cfg/ and weights/ become parts of the package, and a source tree that cannot be written to is built elsewhere.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from setuptools import find_packages, setup


def _build_elsewhere() -> dict[str, dict[str, str]]:
    """Returns options that keep intermediate files out of a read-only source tree."""
    if os.access(Path(__file__).parent, os.W_OK):
        return {}
    place = tempfile.mkdtemp(prefix="darkprune-build-")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return {"egg_info": {"egg_base": place}, "build": {"build_base": place}}


setup(
    packages=[*find_packages(include=["darkprune", "darkprune.*"]), "darkprune.zoo.cfg", "darkprune.zoo.weights"],
    package_dir={"darkprune.zoo.cfg": "cfg", "darkprune.zoo.weights": "weights"},
    package_data={
        "darkprune": ["py.typed", "**/*.json", "**/*.html", "**/*.css"],
        "darkprune.zoo.cfg": ["*.cfg", "*.names"],
        "darkprune.zoo.weights": ["*.weights", "*.json"],
    },
    exclude_package_data={"darkprune": ["**/ruff.toml"]},
    options=_build_elsewhere(),
)
