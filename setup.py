"""Packaging: `pip install .` for surgery, extras for training, export, evaluation and reports."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

TRAIN = [
    "torch>=2.4",  # never pinned: Jetson and CUDA users keep their own build (see constraints.txt for tests)
    "joblib>=1.3",
]
EXPORT = ["onnxruntime>=1.17"]
EVALUATE = ["faster-coco-eval>=1.6"]
REPORT = ["matplotlib>=3.7"]
TEST = [
    "pytest>=8",
    "pytest-xdist>=3.5",
    "hypothesis>=6.100",
    "ruff>=0.6",
    "mypy>=1.11",
    "opencv-python-headless<5",  # the last generation with the Darknet reader that serves as referee
    *EXPORT,
    *EVALUATE,
    *REPORT,
    "pycocotools>=2.0.7",
    "vermin>=1.6",
]

setup(
    name="darkprune",
    version="0.1.0",
    description="Model surgery for Darknet detectors: prune a .cfg/.weights pair, verify it, convert it for a Jetson",
    long_description=(HERE / "README.md").read_text(encoding="utf-8") if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=[*find_packages(include=["darkprune", "darkprune.*"]), "darkprune.zoo.cfg", "darkprune.zoo.weights"],
    package_dir={"darkprune.zoo.cfg": "cfg", "darkprune.zoo.weights": "weights"},
    package_data={
        "darkprune": ["py.typed", "**/*.json", "**/*.html", "**/*.css"],
        "darkprune.zoo.cfg": ["*.cfg", "*.names"],
        "darkprune.zoo.weights": ["*.weights", "*.json"],
    },
    install_requires=[
        "numpy>=1.24",
        "opencv-python-headless>=4.8",
        "onnx>=1.15",
        "tqdm>=4.60",
        'tomli>=2; python_version < "3.11"',  # what became tomllib
    ],
    extras_require={
        "train": [*TRAIN, *EVALUATE],
        "export": EXPORT,
        "report": REPORT,
        "test": TEST,
    },
    entry_points={"console_scripts": ["darkprune=darkprune.cli.main:main"]},
)
