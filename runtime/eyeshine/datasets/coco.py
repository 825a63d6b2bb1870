"""Boxes or masks in COCO's format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from eyeshine.datasets.base import Content, Sample, check_folder, digest_of, read_json
from eyeshine.errors import ImageError, OptionError
from eyeshine.images import load_image

__all__ = ["Coco"]

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Coco:
    """``instances_….json`` with its images: every category of an image is one text, its instances are the objects.

    Annotations of crowds are left out, and those of no area: polygons of less than three corners, boxes of no width.
    An object that holds no pixel's centre has an empty mask. Images without any annotation are left out as well.

    Attributes:
        annotations: the JSON file.
        images: folder of the files.
        shapes: "mask" (polygons and run lengths, decoded by pycocotools), or "box".
    """

    annotations: Path
    images: Path
    shapes: Literal["mask", "box"] = "mask"

    name: ClassVar[str] = "coco"
    gives: ClassVar[frozenset[str]] = frozenset({"mask", "contrast"})

    def __post_init__(self) -> None:
        check_folder(self.images, "the folder of images")
        if self.shapes not in ("mask", "box"):
            raise OptionError("unknown shapes", got=repr(self.shapes), allowed="mask, box")
        if self.shapes == "mask":
            _decoder()

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self._read[0].values())

    def __len__(self) -> int:
        return len(self._read[1])

    def samples(self, start: int = 0) -> Iterator[Sample]:
        """One image each, in the order of their ids, which are the keys."""
        for image, found in self._read[1][start:]:
            yield Sample(str(image["id"]), partial(self._open, image, found))

    def describe(self) -> dict[str, Any]:
        """The file by its name and SHA-256, and the shapes."""
        digest = digest_of(self.annotations)
        return {"dataset": self.name, "source": self.annotations.name, "sha256": digest, "shapes": self.shapes}

    @cached_property
    def _read(self) -> tuple[dict[int, str], list[tuple[dict[str, Any], dict[int, list[Any]]]]]:
        """Categories by id; images that hold any, each with its annotations by category."""
        found = read_json(self.annotations, "COCO's file", ("images", "annotations", "categories"))
        try:
            names = {category["id"]: str(category["name"]) for category in found["categories"]}
            per_image: dict[int, dict[int, list[Any]]] = {}
            for annotation in found["annotations"]:
                shape = _of_area(annotation["segmentation" if self.shapes == "mask" else "bbox"])
                if not annotation.get("iscrowd", 0) and shape:
                    objects = per_image.setdefault(annotation["image_id"], {})
                    objects.setdefault(annotation["category_id"], []).append(shape)
            if unnamed := {category for objects in per_image.values() for category in objects} - names.keys():
                raise OptionError("annotations of categories without a name", got=f"{self.annotations}: {unnamed}")
            images = sorted((image for image in found["images"] if image["id"] in per_image), key=lambda i: i["id"])
            listed = [
                ({key: image[key] for key in ("id", "file_name", "height", "width")}, per_image[image["id"]])
                for image in images
            ]
        except (KeyError, TypeError, AttributeError) as error:
            raise OptionError("COCO's file is of another form", got=f"{self.annotations}: {error!r}") from error
        if not listed:
            raise OptionError("no image with annotations", got=str(self.annotations))
        return names, listed

    def _open(self, image: dict[str, Any], found: dict[int, list[Any]]) -> Content:
        photo, size = load_image(self.images / image["file_name"]), (image["height"], image["width"])
        if photo.shape[:2] != size:
            raise ImageError(
                "the image is of another size than its annotations", got=list(photo.shape[:2]), allowed=str(size)
            )
        names = self._read[0]
        absent = [name for category, name in names.items() if category not in found]
        seed = crc32(str(image["id"]).encode())
        drawn = np.random.default_rng((seed, 2_000)).choice(absent, len(found)) if absent else None
        return Content(
            image=photo,
            texts=tuple(names[category] for category in found),
            masks=tuple(np.stack([self._mask(shape, *size) for shape in shapes]) for shapes in found.values()),
            negatives=None if drawn is None else tuple(map(str, drawn)),
        )

    def _mask(self, shape: Any, height: int, width: int) -> Mask:
        """Bool [H, W] of one object; of a box the pixels whose centres lie in it."""
        try:
            if self.shapes == "box":
                x, y, w, h = map(float, shape)
                rows, columns = np.arange(height) + 0.5, np.arange(width) + 0.5
                return np.outer((rows >= y) & (rows < y + h), (columns >= x) & (columns < x + w))
            decoder = _decoder()
            # Polygons, one list per part; or run lengths, compressed or not.
            packed = isinstance(shape, dict) and not isinstance(shape["counts"], list)
            encoded = shape if packed else decoder.frPyObjects(shape, height, width)
            mask = np.asarray(
                decoder.decode(decoder.merge(encoded) if isinstance(encoded, list) else encoded), np.bool_
            )
        except Exception as error:  # pycocotools raises the base class
            raise ImageError("an annotation of another form", got=f"{shape!r:.80}: {error}") from error
        if mask.shape != (height, width):
            raise ImageError("an annotation of another size", got=list(mask.shape), allowed=f"[{height}, {width}]")
        return mask


def _of_area(shape: Any) -> Any:
    """The shape without parts of no area, which pycocotools refuses or takes for boxes; empty where nothing is left."""
    if isinstance(shape, dict):
        return shape
    if shape and isinstance(shape[0], list):  # polygons: x, y of each corner
        return [part for part in shape if len(part) >= 6]
    return [] if len(shape) == 4 and min(shape[2:]) <= 0 else shape


def _decoder() -> ModuleType:
    try:
        import pycocotools.mask as decoder
    except ImportError as error:
        cure = "pip install 'eyeshine[data]', or shapes='box'"
        raise OptionError("masks in COCO's format need pycocotools", got=str(error), cure=cure) from error
    found: ModuleType = decoder
    return found
