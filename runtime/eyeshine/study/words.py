"""One sample of a study of the text side: the words of its captions, explained once per method."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from eyeshine.datasets import Sample
from eyeshine.errors import OptionError, TextError
from eyeshine.metrics.retrieval import prepare_caption
from eyeshine.metrics.text import TextCase
from eyeshine.study.sample import Failures, Record, Task, encode_timed, record_of, turned
from eyeshine.text_side import TextExplanation, TextMethod
from eyeshine.text_side.run import graph_of

if TYPE_CHECKING:
    from eyeshine.explainer import Explainer
    from eyeshine.study.run import Study

__all__ = ["check_words", "encode_ids", "examine_words"]

_TEXTS = 256  # of one run


def check_words(study: Study, explainer: Explainer) -> None:
    """Raise where the words of texts cannot be explained: before anything is run.

    Raises:
        SignalError: the bundle lacks the graph of a method, or blocks of it.
        OptionError: the explainer has templates, whose words are none of a caption's.
    """
    for method in study.methods.values():
        graph_of(explainer.bundle, cast(TextMethod, method))
    if explainer.texts.templates:
        got = ", ".join(explainer.texts.templates)
        raise OptionError("captions are explained as they stand", got=got, cure="leave --template out")


def examine_words(
    study: Study, explainer: Explainer, sample: Sample, todo: Collection[Task], *, strict: bool = False
) -> list[Record]:
    """The records of a sample, one per task; each item has a caption's words with their relevance.

    Raises:
        ImageError, TextError, EngineError: where ``strict``; else the record of such a task says what was wrong.
    """
    failures = Failures(sample, strict)
    made: dict[Task, Record] = {}
    with failures.of(todo):
        content = sample.open()
        captions = [prepare_caption(caption) for caption in content.captions]
        if not captions or not all(captions):
            raise TextError("a caption of which nothing is left", got=repr(content.captions), cure="leave it out")
        image, encode_ms = encode_timed(explainer, content.image)
        for task in turned(todo, sample.key):
            with failures.of([task]):
                method = cast(Any, study.method(*task))
                started = perf_counter()
                found = explainer.explain(content.image, captions, method=method, side="text", truncate=study.truncate)
                wall_ms = (perf_counter() - started) * 1e3 - found.timings_ms.get("load", 0.0)
                items = list(_items(study, explainer, found, image, task[1]))
                made[task] = record_of(sample, task, wall_ms, encode_ms, items)
    return [made.get(task) or failures.records[task] for task in todo]


def encode_ids(explainer: Explainer, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Unit vectors [P, E] of token ids [P, L], as they are, some hundred at a time."""
    session = explainer._session("text")
    parts = (ids[start : start + _TEXTS] for start in range(0, len(ids), _TEXTS))
    return np.concatenate(
        [session.run({"tokens": part}, ["text_embedding"]).outputs["text_embedding"] for part in parts]
    )


def _items(
    study: Study, explainer: Explainer, found: TextExplanation, image: NDArray[np.float32], seed: int
) -> Iterator[Record]:
    tokenizer = explainer.texts.tokenizer
    for prompt, text in enumerate(found.texts):
        case = TextCase(
            ids=np.array(found.ids[prompt], np.int64),
            relevance=found.of(0, prompt),
            image=image,
            encode=lambda ids: encode_ids(explainer, ids),
            start=tokenizer.start,
            end=tokenizer.end,
            pad=tokenizer.pad,
        )
        read = {name: metric for name, metric in study.metrics(seed).items() if hasattr(metric, "read_text")}
        yield {
            "role": "truth",
            "text": text,
            "scored": text,
            "words": [[word, value] for word, value in found.words(0, prompt)],
            "values": {name: metric.read_text(case).value for name, metric in read.items()},
            "curves": {},
            "parts": {},
        }
