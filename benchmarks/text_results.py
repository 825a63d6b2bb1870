"""Does the relevance of a word say what the word does? Measured on captions of held-out road scenes.

``python -m benchmarks.text_results [--bundle FOLDER] [--scenes 1000]`` writes benchmarks/results/text.json: each word
of a caption is left out in turn, and how far the cosine falls is held against the relevance that every method gave the
word. The bundle needs the group "words".
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from benchmarks import environment
from eyeshine import Explainer, roads
from eyeshine.text_side import TEXT_METHODS, TextGradEclip, TextMethod
from eyeshine.text_side.tails import by_tails

FIRST = roads.HELD_OUT_FROM + 800_000
"""First seed; held out, and used for nothing else."""
_LEAST_WORDS = 3
_WAYS: Final[dict[str, TextMethod]] = {
    **{name: method for name, method in TEXT_METHODS.items() if not by_tails(method)},
    "grad_eclip, signed": TextGradEclip(signed=True),
    "grad_eclip, signed, last block": TextGradEclip(signed=True, layers=1),
    "grad_eclip, signed, without lambda": TextGradEclip(signed=True, spatial=False),
    "grad_eclip, signed, lambda as released": TextGradEclip(signed=True, released=True),
}


@dataclass
class Row:
    """One method: of every caption the rank correlation with what words do, and what its most relevant word does."""

    correlations: list[float] = field(default_factory=list)
    top: list[float] = field(default_factory=list)

    def add(self, relevance: NDArray[np.float64], falls: NDArray[np.float64]) -> None:
        """One caption; words that a method holds equal correlate with nothing."""
        constant = float(np.ptp(relevance)) == 0
        self.correlations.append(0.0 if constant else float(spearmanr(relevance, falls).statistic))
        self.top.append(float(falls[relevance.argmax()]))

    def record(self) -> dict[str, float]:
        """Means and their standard errors."""
        found = {"correlation": np.array(self.correlations), "top_word": np.array(self.top)}
        means = {name: float(values.mean()) for name, values in found.items()}
        return means | {f"{name}_error": float(v.std(ddof=1) / len(v) ** 0.5) for name, v in found.items()}


def falls(explainer: Explainer, image: NDArray[np.float32], words: list[str]) -> NDArray[np.float64]:
    """How far the cosine of an image vector falls when each word is left out of the text."""
    without = [" ".join(words[:k] + words[k + 1 :]) for k in range(len(words))]
    vectors = explainer.encode_texts([" ".join(words), *without]).astype(np.float64)
    cosines = vectors @ image.astype(np.float64)
    return np.asarray(cosines[0] - cosines[1:])


def measure(explainer: Explainer, scenes: int) -> tuple[dict[str, Row], list[float], list[float]]:
    """Rows by method; of every caption the mean and the largest fall."""
    rows: dict[str, Row] = {name: Row() for name in _WAYS}
    mean: list[float] = []
    largest: list[float] = []
    for number in range(scenes):
        scene = roads.render(seed=FIRST + number)
        words = scene.caption.split()
        if len(words) < _LEAST_WORDS:
            continue
        image = explainer.encode_images(scene.image)[0]
        found = falls(explainer, image, words)
        mean.append(float(found.mean()))
        largest.append(float(found.max()))
        for name, method in _WAYS.items():
            explanation = explainer.explain(scene.image, [scene.caption], side="text", method=method)
            rows[name].add(np.array([value for _, value in explanation.words()]), found)
    return rows, mean, largest


def main() -> None:
    """Measure, and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, help="by default the embedded one")
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=0, help="0 takes all CPUs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "text.json")
    given = parser.parse_args()
    rows, mean, largest = measure(Explainer.load(given.bundle, threads=given.threads), given.scenes)
    record = {
        "scenes": given.scenes,
        "captions": len(mean),
        "machine": environment.machine(),
        "versions": environment.versions(),
        **environment.revision(),
        "fall_of_the_mean_word": float(np.mean(mean)),
        "fall_of_the_word_that_does_most": float(np.mean(largest)),
        "rows": {name: row.record() for name, row in rows.items()},
    }
    given.out.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
