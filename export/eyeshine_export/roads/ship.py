"""From a training run to the embedded bundle: export, score on held-out scenes with the runtime, write the card.

Or from the embedded bundle to itself in another form: the same weights, so the scores and the card stay.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eyeshine import Explainer, roads
from eyeshine.bundle import Bundle
from eyeshine.manifest import Manifest
from eyeshine.preprocess import Preprocess
from eyeshine_export.graph.unfold import state_of
from eyeshine_export.open_clip_config import parse_config
from eyeshine_export.roads.config import Shape
from eyeshine_export.roads.scores import roc_auc
from eyeshine_export.source import Normalisation, Source, resolve
from eyeshine_export.words import read_word_tokenizer
from eyeshine_export.write import ExportOptions, add_file, export_bundle

LAYERS = 4  # explained by deep.onnx: what Concept Attribution reads
CARD, SCORES = "MODEL_CARD.md", "scores.json"
WAYS = (
    ("attention", None), ("grad_eclip", None), ("grad_eclip", "rest"), ("chefer", None), ("chefer", "rest"),
)  # fmt: skip
FIRST = roads.HELD_OUT_FROM + 500_000  # the first held-out scenes were looked at while the training was set up
_BATCH = 20


@dataclass(frozen=True)
class Scores:
    """Scores on held-out scenes, each a mean over classes.

    Attributes:
        scenes: how many, from seed ``FIRST`` on.
        auc: presence by the cosine with "a LABEL", per label.
        pointing: "METHOD, TARGET" -> hit rate of the hottest pixel on the label's visible pixels, per label.
        chance: share of the picture that the label covers, per label.
    """

    scenes: int
    auc: dict[str, float]
    pointing: dict[str, dict[str, float]]
    chance: dict[str, float]

    @staticmethod
    def mean(values: dict[str, float]) -> float:
        """Mean over the classes that occur."""
        return float(np.nanmean(list(values.values())))


def score(bundle: Path, scenes: int) -> Scores:
    """Score a bundle with the runtime on ``scenes`` held-out scenes from seed ``FIRST`` on, at their own resolution."""
    explainer = Explainer.load(bundle)
    texts = [roads.article(label) for label in roads.LABELS]
    names = [f"{method}, {'rather than the rest' if against else 'text alone'}" for method, against in WAYS]
    similarities: list[NDArray[np.float32]] = []
    present: list[NDArray[np.bool_]] = []
    covered: list[NDArray[np.float64]] = []
    hits: dict[str, list[NDArray[np.float64]]] = {name: [] for name in names}
    for start in range(0, scenes, _BATCH):
        batch = [roads.render(seed=FIRST + k) for k in range(start, min(start + _BATCH, scenes))]
        masks = [_masks(scene) for scene in batch]
        present += [_present(mask) for mask in masks]
        covered += [_where_present(mask, mask.mean(axis=(1, 2))) for mask in masks]
        for name, (method, against) in zip(names, WAYS, strict=True):
            rather = "rest" if against else None
            result = explainer.explain([s.image for s in batch], texts, method=method, against=rather)
            hits[name] += [_where_present(m, _hits(result.heatmap(k, "each"), m)) for k, m in enumerate(masks)]
            if not against and method == "grad_eclip":
                similarities += list(result.similarities)
    scored, there = np.stack(similarities), np.stack(present)
    return Scores(
        scenes=scenes,
        auc={label: float(roc_auc(scored[:, k], there[:, k])) for k, label in enumerate(roads.LABELS)},
        pointing={name: _by_label(rows) for name, rows in hits.items()},
        chance=_by_label(covered),
    )


def ship(run: Path, out: Path, *, scenes: int, notes: str) -> Scores:
    """Write the bundle of a training run into ``out``, with a model card that holds its scores.

    Args:
        run: holds config.json, model.safetensors and tokenizer.json.
        out: folder of the bundle, replaced.
        scenes: held-out scenes to score.
        notes: how it was trained, for the card.
    """
    with tempfile.TemporaryDirectory() as scratch:
        config = Path(shutil.copy(run / "config.json", Path(scratch, "roads.json")))
        source = resolve(
            str(config),
            checkpoint=run / "model.safetensors",
            tokens=run / "tokenizer.json",
            licence="Apache-2.0",
        )
        export_bundle(
            source, out, ExportOptions(min(LAYERS, source.config.vision.layers), "roads", True, signals=("all",))
        )
    scores = score(out, scenes)
    add_file(out, SCORES, json.dumps(asdict(scores), indent=1) + "\n")
    add_file(out, CARD, card(scores, notes))
    return scores


def again(bundle: Path, out: Path, options: ExportOptions) -> Manifest:
    """Export the weights of a roads bundle anew; scores and card are carried over.

    Args:
        bundle: a bundle of the default ``Shape``.
        out: folder of the new bundle; may be ``bundle`` itself.
        options: of the export; its name and ``force`` are set here.

    Raises:
        ExportError: a bundle of another shape, or whose weights were rounded.
    """
    opened = Bundle.open(bundle)
    model = opened.manifest.model
    raw = Shape().configuration()
    config = parse_config(model.name, raw)
    source = Source(
        config,
        state_of(opened),
        model.source,
        model.licence,
        Normalisation(model.mean, model.std),
        Preprocess.from_manifest(opened.manifest.preprocess),
        read_word_tokenizer(bundle / opened.manifest.tokenizer.file, config.text.vocab_size),
    )
    kept = {name: (bundle / name).read_text("utf-8") for name in (SCORES, CARD)}
    manifest = export_bundle(source, out, replace(options, name=opened.name, force=True))
    for name, text in kept.items():
        manifest = add_file(out, name, text)
    return manifest


def card(scores: Scores, notes: str) -> str:
    """The model card, Markdown."""
    labels = sorted(roads.LABELS, key=lambda label: -scores.auc[label])
    ways = list(scores.pointing)
    best = max(ways, key=lambda way: Scores.mean(scores.pointing[way]))
    lines = [
        "# roads",
        "",
        "A small CLIP for road scenes **drawn by this project**, trained on them from nothing. It exists so that",
        "eyeshine explains something the moment it is installed, and so that heat maps can be scored against masks",
        "that are right to the pixel. It knows nothing of photographs and no word outside its drawings.",
        "",
        f"Scores on {scores.scenes:,} held-out scenes (seeds from {FIRST:,} on, used for nothing else),",
        'means over classes, prompts "a LABEL". Presence: ROC-AUC of the cosine. Pointing: the hottest pixel of the',
        "heat map lies on a visible pixel of the label; a map without evidence is a miss.",
        "",
        f"- presence AUC **{Scores.mean(scores.auc):.3f}**",
        *(f"- pointing, {way}: **{Scores.mean(scores.pointing[way]):.3f}**" for way in ways),
        f"- pointing by chance (area of the label): {Scores.mean(scores.chance):.3f}",
        "",
        f"| label | presence AUC | chance | {' | '.join(ways)} |",
        "| --- | --- | --- |" + " --- |" * len(ways),
    ]
    for label in labels:
        row = " | ".join(f"{scores.pointing[way][label]:.2f}" for way in ways)
        lines.append(f"| {label} | {scores.auc[label]:.3f} | {scores.chance[label]:.3f} | {row} |")
    lines += ["", f"The best way to point is {best}.", "", "## Training", "", notes.strip(), ""]
    return "\n".join(lines)


def _masks(scene: roads.Scene) -> NDArray[np.bool_]:
    """Visible pixels of every label [labels, H, W]."""
    masks = np.zeros((len(roads.LABELS), *scene.image.shape[:2]), dtype=np.bool_)
    for thing in scene.objects:
        masks[roads.LABELS.index(thing.label)] |= thing.mask
    return masks


def _hits(heat: NDArray[np.float32], masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """1 where the hottest pixel lies in the mask, 0 elsewhere and for maps without evidence; [labels]."""
    flat = heat.reshape(len(heat), -1)
    hottest = flat.argmax(axis=1)
    inside = masks.reshape(len(masks), -1)[np.arange(len(masks)), hottest]
    hits: NDArray[np.float64] = np.asarray(inside & (flat.max(axis=1) > 0), dtype=np.float64)
    return hits


def _where_present(masks: NDArray[np.bool_], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """NaN for labels that are not in the scene."""
    kept = values.copy()
    kept[~_present(masks)] = math.nan
    return kept


def _present(masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which labels are in the scene [labels]."""
    present: NDArray[np.bool_] = np.asarray(masks.any(axis=(1, 2)))
    return present


def _by_label(rows: list[NDArray[np.float64]]) -> dict[str, float]:
    """Mean over the scenes that hold a label; NaN for a label that no scene holds."""
    table = np.stack(rows)
    seen = ~np.isnan(table)
    means = np.divide(
        np.where(seen, table, 0).sum(0), seen.sum(0), out=np.full(table.shape[1], math.nan), where=seen.any(0)
    )
    return dict(zip(roads.LABELS, means.tolist(), strict=True))


def main() -> None:
    """Ship a run from the command line."""
    parser = argparse.ArgumentParser(description="Export a training run as the embedded bundle, and score it.")
    parser.add_argument("run", type=Path, help="folder of a run; with --again, of a roads bundle")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--notes", type=Path, help="Markdown: how it was trained")
    parser.add_argument("--again", action="store_true", help="export a bundle's weights anew; scores are carried over")
    given = parser.parse_args()
    if given.again:
        again(given.run, given.out, ExportOptions(LAYERS, signals=("all",)))
        return
    if given.notes is None:
        parser.error("--notes is needed to write the model card")
    scores = ship(given.run, given.out, scenes=given.scenes, notes=given.notes.read_text("utf-8"))
    print(f"presence AUC {Scores.mean(scores.auc):.3f}, chance {Scores.mean(scores.chance):.3f}")
    for way, rates in scores.pointing.items():
        print(f"{way:40s} {Scores.mean(rates):.3f}")


if __name__ == "__main__":
    main()
