"""Retrieval over a whole data set while the words of its captions are deleted or shown: from relevance to scores."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from eyeshine.metrics.curves import auc
from eyeshine.metrics.retrieval import Recall, edited, hits
from eyeshine.study.records import SCORES, read_records
from eyeshine.study.words import encode_ids

if TYPE_CHECKING:
    from eyeshine.explainer import Explainer
    from eyeshine.study.run import Study

__all__ = ["score_retrieval"]

Record = dict[str, Any]


def score_retrieval(study: Study, explainer: Explainer, folder: Path) -> Iterator[Record]:
    """Records of the scores of every caption (IR) and image (TR), written to ``scores.jsonl`` as well.

    All methods are scored on the samples that none of them failed on: recall depends on how many there are. Images are
    encoded anew; what is held is a vector of each, and the words of one method's captions.

    Args:
        study: its preset's metrics are ``Recall``.
        explainer: of the model.
        folder: of the study.
    """
    metrics = {name: cast(Recall, metric) for name, metric in study.preset.metrics.items()}
    failed = {record["key"] for record in read_records(folder) if "error" in record}
    every = {record["key"] for record in read_records(folder)} - failed
    if not every:
        (folder / SCORES).unlink(missing_ok=True)
        return
    samples = (sample for sample in islice(study.dataset.samples(), study.limit) if sample.key in every)
    keys: list[str] = []

    def frames() -> Iterator[NDArray[np.float32]]:
        for sample in samples:
            keys.append(sample.key)
            yield explainer.preprocess.prepare(sample.open().image).pixels

    images = np.stack(list(explainer.encoder(study.max_batch).stream(frames())))
    place = {key: number for number, key in enumerate(keys)}
    with (folder / SCORES).open("w", encoding="utf-8") as file:
        for method in study.methods:
            own = [r for r in read_records(folder) if r["method"] == method and r["key"] in place]
            for record in _scored(own, place, images, metrics, explainer, study.truncate):
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                yield record


def _scored(
    records: list[Record],
    place: dict[str, int],
    images: NDArray[np.float32],
    metrics: dict[str, Recall],
    explainer: Explainer,
    truncate: bool,
) -> Iterator[Record]:
    """The same records with scores: an item per caption with those of IR, and one with those of TR."""
    captions = [item["words"] for record in records for item in record["items"]]
    owners = np.array([place[record["key"]] for record in records for _ in record["items"]], np.intp)
    curves: dict[str, NDArray[np.float64]] = {}
    found: dict[tuple[bool, int, int], tuple[NDArray[np.float64], ...]] = {}
    for name, metric in metrics.items():
        way = metric.insert, metric.points, metric.seed
        if way not in found:
            points = [
                hits(
                    [_text(words, share, metric) for words in captions], owners, images,
                    lambda texts: _encode(explainer, texts, truncate),
                )
                for share in metric.shares
            ]  # fmt: skip
            found[way] = tuple(np.stack(side, axis=1) for side in zip(*points, strict=True))
        curves[name] = found[way][metric.of == "texts"]
    of_caption = iter(range(len(captions)))
    for record in records:
        items = [_item(item, next(of_caption), metrics, curves, "images") for item in record["items"]]
        whole = {"role": "truth", "text": "", "scored": ""}
        yield {**record, "items": [*items, _item(whole, place[record["key"]], metrics, curves, "texts")]}


def _text(words: list[tuple[str, float]], share: float, metric: Recall) -> str:
    names, values = zip(*words, strict=True)
    return edited(names, values, share, insert=metric.insert, seed=metric.seed)


def _item(
    item: Record, row: int, metrics: dict[str, Recall], curves: dict[str, NDArray[np.float64]], of: str
) -> Record:
    own = {name: curves[name][row].tolist() for name, metric in metrics.items() if metric.of == of}
    said = {name: item[name] for name in ("role", "text", "scored")}
    return {**said, "values": {name: auc(curve) for name, curve in own.items()}, "curves": own, "parts": {}}


def _encode(explainer: Explainer, texts: list[str], truncate: bool) -> NDArray[np.float32]:
    """Unit vectors of texts, of which some may be empty; those of one length go together, so nothing is padded."""
    tokenizer = explainer.texts.tokenizer
    ids = tokenizer.encode(texts, truncate=truncate)
    lengths = (ids == tokenizer.end).argmax(axis=1) + 1
    vectors = np.empty((len(texts), explainer.bundle.manifest.model.embed_dim), np.float32)
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        vectors[rows] = encode_ids(explainer, ids[rows, :length])
    return vectors
