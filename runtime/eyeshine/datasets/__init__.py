"""Data sets that explanations are evaluated on: streams of images with texts, captions, labels and masks.

Nothing is downloaded; what is not synthetic lies in the caller's own files.
"""

from __future__ import annotations

from eyeshine.datasets.base import Content, Dataset, Sample
from eyeshine.datasets.captions import Captions, Karpathy
from eyeshine.datasets.coco import Coco
from eyeshine.datasets.folders import ClassFolders
from eyeshine.datasets.roads import Roads

__all__ = ["Captions", "ClassFolders", "Coco", "Content", "Dataset", "Karpathy", "Roads", "Sample"]
