"""``eyeshine demo``: the packaged street scene, explained, with pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]

DEMO_SEED = 1_000_000_003  # held out: the model never saw it
DEMO_SIZE = 480


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(demo)


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the pictures.")] = Path("out"),
    seed: Annotated[int, typer.Option(help="Which scene; from 1,000,000,000 on the model never saw it.")] = DEMO_SEED,
) -> None:
    """Explain a street scene with the embedded model and draw the pictures."""
    from PIL import Image

    from eyeshine import roads
    from eyeshine.explainer import Explainer
    from eyeshine.render import save_png, sheet
    from eyeshine.saving import make_folder, save_image_results

    make_folder(out)
    scene = roads.render(seed=seed, size=DEMO_SIZE)
    street = out / "street.png"
    save_png(Image.fromarray(scene.image), street)
    labels = list(dict.fromkeys(item.label for item in scene.objects))
    absent = [label for label in roads.LABELS if label not in labels][:1]
    texts = [roads.article(label) for label in (*labels[:4], *absent)]

    explainer = Explainer.load()
    explainer.warm_up()
    plain = explainer.explain(street, texts)
    files = save_image_results(plain, out, "street")
    cells = [("the scene", Image.fromarray(scene.image))]
    typer.echo(f"{street}: {explainer.bundle.name}, {plain.timings_ms['total']:.1f} ms for {len(texts)} texts")
    for index, text in enumerate(texts):
        note = " (not in the scene)" if labels[:4][index : index + 1] == [] else ""
        typer.echo(f"  {plain.similarities[0, index]:+.3f}  {text}{note}")
        cells.append((f"{text}{note}  {plain.similarities[0, index]:+.2f}", plain.overlay(0, index)))
    save_png(sheet(cells, title="Where the model looked for each text (grad_eclip)", columns=3), out / "texts.png")

    cells = []
    shown = texts[: min(3, len(labels))]
    for method, against in (("grad_eclip", None), ("grad_eclip", "rest"), ("chefer", None), ("chefer", "rest")):
        result = explainer.explain(street, texts, method=method, against=against)
        for index, text in enumerate(shown):
            rather = ", rather than the rest" if against else ""
            cells.append((f"{text}: {method}{rather}", result.overlay(0, index, scale="each")))
    title = "Two methods, each text by itself and rather than the rest"
    save_png(sheet(cells, title=title, columns=len(shown)), out / "targets.png")
    for path in [*files, out / "texts.png", out / "targets.png"]:
        typer.echo(f"  {path}")
