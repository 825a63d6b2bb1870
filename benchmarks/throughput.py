"""Whether deletion and insertion run as fast as the engine encodes: ``python -m benchmarks.throughput``.

Each evaluation is timed beside the bare engine on as many images in batches of the same size, in one interleaved run.
On the model's input the bare engine gets images that are ready; on the photo's canvas, where the protocol prepares
every image anew, it gets photos, and prepares them as well. On a CPU that others use, ``--clock cpu`` counts the time
of this process alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import Final

import numpy as np

from benchmarks import environment
from benchmarks.timing import Plan, interleave
from eyeshine import Explainer, roads
from eyeshine.datasets import Roads
from eyeshine.explanation import Explanation
from eyeshine.metrics import Deletion, Insertion, Metric, Steps, evaluate
from eyeshine.metrics.presets import PRESETS

__all__ = ["Result", "measure"]

BOUND: Final = 0.95
"""Of the bare engine's images per second."""
_RESULTS: Final = Path(__file__).parent / "results" / "throughput.json"
_FIRST: Final = roads.HELD_OUT_FROM + 900_000
_CASES: Final[dict[str, dict[str, Metric]]] = {
    "rise, 224 points": PRESETS["rise"],
    "10 points": {
        "deletion": Deletion("prob", Steps(points=10)),
        "insertion": Insertion("prob", Steps(insert=True, fill="blur", points=10)),
    },
    "gradeclip-imagenet": {name: PRESETS["gradeclip-imagenet"][name] for name in ("deletion@1", "insertion@1")},
}


@dataclass(frozen=True)
class Result:
    """One protocol.

    Attributes:
        protocol: its name.
        images: encoded images of one round.
        batch: images of one forward pass.
        rounds: counted rounds.
        images_per_second: of the evaluation, at the median.
        encode_images_per_second: of the bare engine, at the median.
        ratio: median over the rounds of the engine's time over the evaluation's.
        prepares: whether the bare engine prepared photos too.
        holds: whether the ratio reaches ``BOUND``.
    """

    protocol: str
    images: int
    batch: int
    rounds: int
    images_per_second: float
    encode_images_per_second: float
    ratio: float
    prepares: bool
    holds: bool


def measure(
    explainer: Explainer, scenes: int, max_batch: int, plan: Plan, clock: Callable[[], float] = perf_counter
) -> list[Result]:
    """Every protocol beside the bare engine, on one explanation of each of some held-out scenes."""
    contents = [sample.open() for sample in Roads(scenes, first=_FIRST).samples()]
    found = [explainer.explain(content.image, content.texts) for content in contents]
    labels = [roads.article(label) for label in roads.LABELS]
    results = []
    for name, metrics in _CASES.items():
        prepares = any(getattr(view, "canvas", "input") == "native" for m in metrics.values() for view in m.views)
        counts = [
            evaluate(explainer, each, metrics=metrics, labels=labels, max_batch=max_batch).encoded for each in found
        ]
        cases = {
            "encode": _engine(explainer, counts, max_batch, contents[0].image if prepares else None),
            "evaluate": _evaluation(explainer, found, metrics, labels, max_batch),
        }
        timings = interleave(cases, plan, clock)
        per_second = {case: sum(counts) * 1e3 / timings.percentile_ms(case, 50) for case in cases}
        ratio = timings.ratio("encode", "evaluate")
        result = Result(
            protocol=name,
            images=sum(counts),
            batch=max_batch,
            rounds=timings.rounds,
            images_per_second=per_second["evaluate"],
            encode_images_per_second=per_second["encode"],
            ratio=ratio,
            prepares=prepares,
            holds=ratio >= BOUND,
        )
        results.append(result)
    return results


def _engine(
    explainer: Explainer,
    counts: list[int],
    max_batch: int,
    photo: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] | None,
) -> Callable[[], None]:
    """The bare session on so many images for each explanation, in full batches and a rest."""
    session = explainer._session("encode")
    size = explainer.preprocess.size
    batch = np.random.default_rng(0).random((max_batch, 3, *size), dtype=np.float32)

    def encode() -> None:
        for count in counts:
            for start in range(0, count, max_batch):
                filled = batch[: min(max_batch, count - start)]
                if photo is not None:
                    for pixels in filled:
                        pixels[:] = explainer.preprocess.prepare(photo).pixels
                session.run({"pixels": filled}, ["embedding"])

    return encode


def _evaluation(
    explainer: Explainer, found: list[Explanation], metrics: dict[str, Metric], labels: list[str], max_batch: int
) -> Callable[[], None]:
    def run() -> None:
        for each in found:
            evaluate(explainer, each, metrics=metrics, labels=labels, max_batch=max_batch)

    return run


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=2)
    parser.add_argument("--max-batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--budget", type=float, default=120.0, help="seconds per protocol")
    parser.add_argument("--threads", type=int, default=0, help="0 takes all CPUs")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--out", type=Path, default=_RESULTS)
    given = parser.parse_args()
    explainer = Explainer.load(threads=given.threads)
    plan = Plan(rounds=given.rounds, budget_s=given.budget, warmup=1)
    clock = process_time if given.clock == "cpu" else perf_counter
    results = measure(explainer, given.scenes, given.max_batch, plan, clock)
    print("| protocol | images/s | bare engine | ratio |\n| --- | ---: | ---: | ---: |")
    for row in results:
        beside = f"{row.encode_images_per_second:.1f}{' with preparation' if row.prepares else ''}"
        print(f"| {row.protocol} | {row.images_per_second:.1f} | {beside} | {row.ratio:.3f} |")
    facts = {**explainer.options.metadata(), "clock": given.clock, "bound": BOUND}
    record = {**environment.origin(), **facts, "rows": [asdict(row) for row in results]}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
