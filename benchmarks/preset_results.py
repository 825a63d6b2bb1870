"""The presets of ``eyeshine evaluate`` with all methods of one run, on held-out road scenes; writes their page.

``python -m benchmarks.preset_results [--scenes 200] [--imagenet-scenes 30] [--work FOLDER]`` carries on what an
interrupted run left. Where something is drawn, every study has three seeds, and a cell their mean and deviation.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks import environment
from benchmarks.notes import write_page
from eyeshine import Explainer
from eyeshine.datasets import Roads
from eyeshine.methods import METHODS, AnyMethod, by_passes
from eyeshine.study import PRESETS, Study, run, write_report
from eyeshine.text_side import TEXT_METHODS

_ROOT = Path(__file__).parent.parent
SEEDS: Final = (0, 1, 2)
LONGEST: Final = "imagenet"
"""Two labels, three seeds, and two curves of 21 photos for every map: most of a scene's time."""


def study(name: str, scenes: int) -> Study:
    """One preset on the first held-out scenes: methods by passes are left out, they have a table of their own."""
    preset = PRESETS[name]
    image_side = {key: method for key, method in METHODS.items() if not by_passes(method)}
    methods: dict[str, AnyMethod] = dict(TEXT_METHODS) if preset.side == "text" else image_side
    return Study(dataset=Roads(scenes, texts=preset.texts), methods=methods, preset=preset, seeds=SEEDS)


def work(folder: Path, scenes: int, longest: int, bundle: Path | None, name: str) -> None:
    """Run one preset to its end, with one thread, and write its report."""
    explainer = Explainer.load(bundle, threads=1)
    own = study(name, longest if name == LONGEST else scenes)
    run(own, explainer, folder / name, resume=True)
    write_report(own, explainer, folder / name)
    print(f"{name}: done", flush=True)


def page(folder: Path, names: Sequence[str]) -> str:
    """All reports as sections of one page, without their pictures."""
    lines = [
        "# The papers' tables, measured on drawn scenes",
        "",
        "`python -m benchmarks.preset_results` makes this page: the presets of [evaluation](evaluation.md) on held-out",
        "road scenes, the embedded model, all methods of one run. These are the papers' protocols, not their data: no",
        f"figure here can be held against a printed one. {environment.describe(environment.origin())}.",
        "",
    ]
    for name in names:
        report = (folder / name / "report.md").read_text("utf-8").splitlines()
        lines += [f"#{line}" if line.startswith("# ") else line for line in report if not line.startswith("![")]
    return "\n".join(lines).rstrip() + "\n\n"


def main(given: Sequence[str] | None = None) -> None:
    """Run what is not done, then write the page; what stands below its marker is kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--imagenet-scenes", type=int, default=30)
    parser.add_argument("--preset", action="append", choices=list(PRESETS), help="by default all")
    parser.add_argument("--bundle", type=Path, help="by default the embedded one")
    parser.add_argument("--work", type=Path, default=_ROOT / "out" / "presets")
    parser.add_argument("--out", type=Path, default=_ROOT / "docs" / "results-presets.md")
    options = parser.parse_args(given)
    names = options.preset or list(PRESETS)
    options.work.mkdir(parents=True, exist_ok=True)
    one = partial(work, options.work, options.scenes, options.imagenet_scenes, options.bundle)
    # A fork would copy the engine's threads and their locks. The longest goes first.
    with multiprocessing.get_context("spawn").Pool(len(os.sched_getaffinity(0))) as pool:
        pool.map(one, sorted(names, key=lambda name: name != LONGEST), chunksize=1)
    write_page(options.out, page(options.work, names))


if __name__ == "__main__":
    main()
