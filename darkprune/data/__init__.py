"""Labelled images: reading Darknet, Pascal VOC and COCO sets into one form, checking, decoding and loading them."""

from darkprune.data.dataset import DataProblem, Dataset, ImageRecord, LabelReading, Objects
from darkprune.data.reading import read_dataset

__all__ = ["DataProblem", "Dataset", "ImageRecord", "LabelReading", "Objects", "read_dataset"]
