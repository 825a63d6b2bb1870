"""One sample of a study: explained once per method, and its maps evaluated together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from eyeshine.datasets import Content, Sample
from eyeshine.errors import EngineError, ImageError, TextError
from eyeshine.explanation import Explanation
from eyeshine.metrics import Score, evaluate
from eyeshine_kernels.products import matmul

if TYPE_CHECKING:
    from eyeshine.explainer import Explainer
    from eyeshine.study.run import Study

__all__ = ["Failures", "Record", "Task", "encode_timed", "examine_maps", "record_of", "turned"]

Task = tuple[str, int]
Record = dict[str, Any]

_PER_SAMPLE = (ImageError, TextError, EngineError)  # what is wrong with one sample; anything else ends the study
_DIGITS = 6  # of the points of curves, below what engines agree to


@dataclass(frozen=True, eq=False)
class _Item:
    """One text to explain, and what its map is scored for."""

    role: str
    text: str
    scored: str
    mask: NDArray[np.bool_] | None
    negative: str | None


def examine_maps(
    study: Study, explainer: Explainer, sample: Sample, todo: Collection[Task], *, strict: bool = False
) -> list[Record]:
    """The records of a sample, one per task (method, seed).

    The image is encoded by itself before it is explained: a method's time is given in multiples of that. Methods take
    turns in going first: what runs after another graph pays for cold caches (a tenth of the embedded model's time).

    Raises:
        ImageError, TextError, EngineError: where ``strict``; else the record of such a task says what was wrong.
    """
    failures = Failures(sample, strict)
    made: dict[Task, Record] = {}
    with failures.of(todo):
        content = sample.open()
        embedding, encode_ms = encode_timed(explainer, content.image)
        items = _items(study, explainer, content, embedding)
        explained: dict[Task, tuple[Explanation, float]] = {}
        for task in turned(todo, sample.key):
            with failures.of([task]):
                explained[task] = _explain(study, explainer, content.image, items, task, explained)
        for seed in dict.fromkeys(seed for _, seed in explained):
            maps = {task: explanation for task, (explanation, _) in explained.items() if task[1] == seed}
            for task, rows in _evaluate(study, explainer, items, maps, seed):
                made[task] = record_of(sample, task, explained[task][1], encode_ms, rows)
    return [made.get(task) or failures.records[task] for task in todo]


def encode_timed(explainer: Explainer, image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], float]:
    """The embedding [E] of an image, and the milliseconds that it takes warm: right after reading the image it takes
    longer, so it is encoded twice."""
    explainer.encode_images(image)
    started = perf_counter()
    embedding = explainer.encode_images(image)[0]
    return embedding, (perf_counter() - started) * 1e3


def turned(todo: Collection[Task], key: str) -> list[Task]:
    """The tasks, beginning with another one for every sample."""
    tasks = list(todo)
    first = crc32(key.encode()) % len(tasks)
    return tasks[first:] + tasks[:first]


class Failures:
    """The tasks of a sample that failed.

    Args:
        sample: whose they are.
        strict: let the first failure pass.

    Attributes:
        records: of the failed tasks.
    """

    def __init__(self, sample: Sample, strict: bool) -> None:
        self._key, self._strict = sample.key, strict
        self.records: dict[Task, Record] = {}

    @contextmanager
    def of(self, tasks: Iterable[Task]) -> Iterator[None]:
        """What fails in here, fails for these tasks, if it is the sample that is at fault."""
        try:
            yield
        except _PER_SAMPLE as error:
            if self._strict:
                raise
            said = f"{type(error).__name__}: {error}"
            for task in tasks:
                record = {"key": self._key, "method": task[0], "seed": task[1], "error": said}
                self.records.setdefault(task, record)


def record_of(sample: Sample, task: Task, explain_ms: float, encode_ms: float, items: list[Record]) -> Record:
    """The record of a task that was done; times in milliseconds."""
    times = {"explain_ms": round(explain_ms, 4), "encode_ms": round(encode_ms, 4)}
    return {"key": sample.key, "method": task[0], "seed": task[1], **times, "items": items}


def _items(study: Study, explainer: Explainer, content: Content, embedding: NDArray[np.float32]) -> list[_Item]:
    """What is explained of a sample, for each role of the protocol."""
    count = len(content.texts)
    masks, negatives = content.masks or (None,) * count, content.negatives or (None,) * count
    items = [
        _Item("truth", text, text, mask, negative)
        for text, mask, negative in zip(content.texts, masks, negatives, strict=True)
    ]
    if "predicted" in study.preset.roles:
        assert content.label is not None
        labels = study.dataset.labels
        explainer.texts.reserve(len(labels))
        best = int(np.argmax(matmul(explainer.encode_texts(labels, truncate=study.truncate), embedding)))
        scored = labels[content.label]
        own = next((item for item in items if item.text == scored), _Item("truth", scored, scored, None, None))
        items.append(replace(own, role="predicted", text=labels[best]))
    if "contrast" in study.preset.needs and any(item.negative is None for item in items):
        cure = "leave negative_suppression out, or the image"
        raise ImageError("no text is known that is not true of the image", got="every class is in it", cure=cure)
    return items


def _explain(
    study: Study,
    explainer: Explainer,
    image: NDArray[np.uint8],
    items: list[_Item],
    task: Task,
    explained: dict[Task, tuple[Explanation, float]],
) -> tuple[Explanation, float]:
    """The maps of a method, one for each item, and the milliseconds that they took without the loading of graphs.

    A method that draws nothing is run once for all seeds.
    """
    name, seed = task
    method = study.method(name, seed)
    if method is study.methods[name]:
        again = next((pair for (other, _), pair in explained.items() if other == name), None)
        if again is not None:
            return again
    texts = list(dict.fromkeys(item.text for item in items))
    started = perf_counter()
    found = explainer.explain(image, texts, method=method, truncate=study.truncate, max_batch=study.max_batch)
    wall_ms = (perf_counter() - started) * 1e3 - found.timings_ms.get("load", 0.0)
    order = [texts.index(item.text) for item in items]
    return _joined([found], order), wall_ms


def _joined(explanations: list[Explanation], order: list[int]) -> Explanation:
    """Several explanations of one image as one, of each the prompts ``order``: their frames then share batches."""
    first = explanations[0]
    return replace(
        first,
        texts=tuple(first.texts[k] for k in order) * len(explanations),
        maps=np.concatenate([explanation.maps[:, order] for explanation in explanations], axis=1),
        similarities=np.concatenate([explanation.similarities[:, order] for explanation in explanations], axis=1),
        details={},
    )


def _evaluate(
    study: Study, explainer: Explainer, items: list[_Item], maps: dict[Task, Explanation], seed: int
) -> Iterator[tuple[Task, list[Record]]]:
    """The items of each task's record; maps of one grid are evaluated together, and the image is encoded once."""
    metrics = study.metrics(seed)
    needs = frozenset[str]().union(*(metric.needs for metric in metrics.values()))
    # Where the model was right the map of the predicted label is that of the true one, and so are its scores.
    same = [next(j for j, other in enumerate(items) if (other.text, other.scored) == (i.text, i.scored)) for i in items]
    own = sorted(set(same))
    for grid in dict.fromkeys(explanation.patch_grid for explanation in maps.values()):
        tasks = [task for task, explanation in maps.items() if explanation.patch_grid == grid]
        chosen = [items[k] for k in own] * len(tasks)
        found = evaluate(
            explainer,
            _joined([maps[task] for task in tasks], own),
            metrics=metrics,
            scored=[item.scored for item in chosen],
            negative=[str(item.negative) for item in chosen] if "contrast" in needs else None,
            labels=study.dataset.labels if "labels" in needs else None,
            masks=[item.mask for item in chosen] if "mask" in needs else None,
            max_batch=study.max_batch,
            truncate=study.truncate,
        )
        for number, task in enumerate(tasks):
            of_own = found.scores[0][number * len(own) : (number + 1) * len(own)]
            scores = dict(zip(own, of_own, strict=True))
            yield (
                task,
                [_row(item, dict(zip(metrics, scores[k], strict=True))) for item, k in zip(items, same, strict=True)],
            )


def _row(item: _Item, scores: dict[str, Score]) -> Record:
    """One item of a record: values, and where there are any curves, parts and flags."""
    return {
        "role": item.role,
        "text": str(item.text),
        "scored": str(item.scored),
        "values": {name: score.value for name, score in scores.items()},
        "curves": {n: [round(y, _DIGITS) for _, y in score.curve] for n, score in scores.items() if score.curve},
        "parts": {name: dict(score.parts) for name, score in scores.items() if score.parts},
        "flags": {name: list(score.flags) for name, score in scores.items() if score.flags},
    }
