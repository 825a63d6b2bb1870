"""The papers' protocols over data sets, and protocols made of metrics."""

from __future__ import annotations

from typing import Final, Literal

from eyeshine.datasets.base import Texts
from eyeshine.errors import OptionError
from eyeshine.metrics import METRICS, PixelAp, PointingGame
from eyeshine.metrics.presets import PRESETS as PROTOCOLS
from eyeshine.metrics.presets import choose_metrics
from eyeshine.metrics.retrieval import Recall
from eyeshine.metrics.text import TextConfidenceDrop, TextConfidenceIncrease, TextMode
from eyeshine.study.preset import Column, Measured, Preset, Role

__all__ = ["PRESETS", "get_preset"]


def _confidence() -> Preset:
    names = {"drop": METRICS["confidence_drop"], "increase": METRICS["confidence_increase"]}
    columns = Column("image drop x100", "drop", scale=100), Column("image increase %", "increase", scale=100)
    note = (
        "Confidence Drop and Increase of M2IB on the soft map, multiplied after normalisation; cosines, times 100. "
        "Table 1 of MMEL has these columns. The released evaluation repeats the first row of the map for all rows; "
        "this one does not."
    )
    return Preset("confidence", "captions", names, columns, note=note)


def _imagenet() -> Preset:
    names = {name: metric for name, metric in PROTOCOLS["gradeclip-imagenet"].items() if not name.endswith("@10")}
    roles: tuple[tuple[Role, str], ...] = (("truth", ""), ("predicted", "prediction "))
    columns = tuple(
        Column(f"{said}{way}@{rank}", f"{way}@{rank}", role)
        for way in ("deletion", "insertion")
        for role, said in roles
        for rank in (1, 5)
    )
    note = (
        "Deletion and insertion of Grad-ECLIP's ImageNet scripts: half of the photo's pixels in ten points, random "
        "colours or black. The explained label is the true one, or the one predicted on the whole image; the scored "
        "label is always the true one, as in the scripts. Table 2 of MMEL has these columns. The area under the curve "
        "(trapezoids of equal width) is ours: the scripts compute none."
    )
    return Preset("imagenet", "label", names, columns, ("truth", "predicted"), note)


def _pointing() -> Preset:
    names: dict[str, Measured] = {
        "pointing": PointingGame(),
        "pointing_15px": PointingGame(15),
        "energy": METRICS["energy_pointing_game"],
        "hits": METRICS["multi_object_hit_rate"],
    }
    columns = (
        Column("pointing", "pointing", classes=True),
        Column("pointing, 15 px", "pointing_15px", classes=True),
        Column("energy", "energy", classes=True),
        Column("objects hit", "hits", classes=True),
    )
    note = (
        "Every class that is in an image is explained; hits are averaged within a class, then over the classes. "
        "A hit is the hottest pixel on an object (Quantus), or within 15 pixels of the photo (the original game)."
    )
    return Preset("pointing", "labels", names, columns, note=note)


def _segmentation() -> Preset:
    names: dict[str, Measured] = {"segmentation": METRICS["segmentation"], "ap": PixelAp(both=True)}
    both = ("object_inter", "object_union"), ("background_inter", "background_union")
    columns = (
        Column("pixel accuracy", "segmentation", parts=(("correct", "labelled"),)),
        Column("mIoU", "segmentation", parts=both),
        Column("mAP", "ap"),
    )
    note = (
        "The photo cut at the mean of the map (Chefer et al.). Pixel accuracy and mIoU divide sums over the data set; "
        "mIoU is the mean of object and background; mAP the mean over maps of the average precision of both. Image and "
        "mask are cropped alike. Their F1, which is taken per row of the picture, is left out."
    )
    return Preset("segmentation", "labels", names, columns, note=note)


def _degradation() -> Preset:
    names = {"degradation": METRICS["degradation"]}
    note = (
        "Mean cosine with the hottest 5, 10, 15, 20 and 25 % of the patches occluded: the levels of MMEL's figures 5 "
        "and 6, which show pictures and no number; the number is ours."
    )
    return Preset("degradation", "label", names, (Column("degradation", "degradation"),), note=note)


def _confidence_text() -> Preset:
    modes: tuple[tuple[str, TextMode], ...] = (("", "m2ib"), ("keep-eot ", "keep-eot"))
    names: dict[str, Measured] = {}
    columns: list[Column] = []
    for said, mode in modes:
        names |= {f"drop {mode}": TextConfidenceDrop(mode), f"increase {mode}": TextConfidenceIncrease(mode)}
        columns += [
            Column(f"{said}text drop x100", f"drop {mode}", scale=100),
            Column(f"{said}text increase %", f"increase {mode}", scale=100),
        ]
    note = (
        "Confidence Drop and Increase of M2IB on captions: tokens up to the median relevance are taken away. As "
        "released, start and end are taken off both texts and such tokens become id 0; keep-eot keeps start and end, "
        "and removes the tokens. Table 1 of MMEL has the first two columns."
    )
    return Preset("confidence-text", "captions", names, tuple(columns), note=note, side="text")


def _retrieval() -> Preset:
    names: dict[str, Measured] = {
        f"{said}_{'insertion' if insert else 'deletion'}": Recall(of, insert)
        for insert in (False, True)
        for said, of in _RETRIEVED
    }
    columns = tuple(Column(name.replace("_", " ").replace("ir", "IR").replace("tr", "TR"), name) for name in names)
    note = (
        "Our reconstruction of MMEL's table 3, for which no code is released: words are deleted from every caption, or "
        "shown, by falling relevance in eleven steps, all captions are encoded anew, and recall at rank 1 is taken "
        "over the data set, caption to image (IR) and image to any of its captions (TR). Values are areas under the "
        "curve; of equal captions a random choice is expected."
    )
    return Preset("retrieval", "captions", names, columns, note=note, side="text")


_RETRIEVED: Final[tuple[tuple[str, Literal["images", "texts"]], ...]] = (("ir", "images"), ("tr", "texts"))

PRESETS: Final[dict[str, Preset]] = {
    preset.name: preset
    for preset in (
        _confidence(), _confidence_text(), _imagenet(), _retrieval(), _pointing(), _segmentation(), _degradation(),
    )
}  # fmt: skip
"""The papers' protocols over data sets, by name."""


def get_preset(names: tuple[str, ...], texts: Texts = "label") -> Preset:
    """A preset by its name, or one made of metrics and of the protocols of single images, by theirs.

    Args:
        names: one name of ``PRESETS``; or names of ``METRICS`` and of ``metrics.PRESETS``.
        texts: which texts such metrics are of.

    Raises:
        OptionError: an unknown name, or a preset beside others.
    """
    if len(names) == 1 and names[0] in PRESETS:
        return PRESETS[names[0]]
    if studied := [name for name in names if name in PRESETS]:
        raise OptionError("a preset stands by itself", got=", ".join(names), cure=f"run {studied[0]} alone")
    everything = frozenset({"contrast", "labels", "mask"})
    metrics = choose_metrics(names or ("concept_drop", "confidence_drop", "confidence_increase"), everything)
    columns = tuple(Column(name, name) for name in metrics)
    return Preset("+".join(names) or "drops", texts, metrics, columns, note="Means over images and texts.")
