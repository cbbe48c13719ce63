"""Entry for setuptools: what pyproject.toml cannot say.

cfg/ and weights/ become parts of the package, the README a description without dead links, and a source tree that
cannot be written to is built elsewhere.
"""

import atexit
import os
import re
import shutil
import tempfile
from pathlib import Path

from setuptools import find_packages, setup

#: where the files of the project can be read, such as https://example.org/darkprune/blob/main/; unknown until it has a
#: home: then links to files become their names
FILES = ""


def _description() -> str:
    """Returns the README for a package index, where links to files of the project would lead nowhere."""
    text = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
    if FILES:
        return re.sub(r"\]\((?!https?:|#)", f"]({FILES}", text)
    text = re.sub(r"!\[[^\]]*\]\((?!https?:)[^)]*\)\n*", "", text)
    return re.sub(r"\[([^\]]*)\]\((?!https?:|#)[^)]*\)", r"\1", text)


def _build_elsewhere() -> dict[str, dict[str, str]]:
    """Returns options that keep intermediate files out of a read-only source tree."""
    if os.access(Path(__file__).parent, os.W_OK):
        return {}
    place = tempfile.mkdtemp(prefix="darkprune-build-")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return {"egg_info": {"egg_base": place}, "build": {"build_base": place}}


setup(
    long_description=_description(),
    long_description_content_type="text/markdown",
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
