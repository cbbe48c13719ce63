"""Entry for setuptools: what pyproject.toml cannot say, that cfg/ and weights/ become parts of the package."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["darkprune", "darkprune.*"]), "darkprune.zoo.cfg", "darkprune.zoo.weights"],
    package_dir={"darkprune.zoo.cfg": "cfg", "darkprune.zoo.weights": "weights"},
    package_data={
        "darkprune": ["py.typed", "**/*.json", "**/*.html", "**/*.css"],
        "darkprune.zoo.cfg": ["*.cfg", "*.names"],
        "darkprune.zoo.weights": ["*.weights", "*.json"],
    },
    exclude_package_data={"darkprune": ["**/ruff.toml"]},
)
