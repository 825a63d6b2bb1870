"""The attribution graph of a response: for every word, the patches and the earlier words that it rests on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eyeshine.errors import OptionError

if TYPE_CHECKING:
    from eyeshine.captioner.explanation import ResponseExplanation

__all__ = ["attribution_graph", "strongest"]


def strongest(weights: NDArray[np.float32], most: int) -> list[int]:
    """Places of the largest positive weights, largest first, at most ``most``."""
    order = np.argsort(-weights, kind="stable")[:most]
    return [int(place) for place in order if weights[place] > 0]


def attribution_graph(explanation: ResponseExplanation, patches: int, words: int) -> dict[str, Any]:
    """Nodes and edges, plain values for JSON.

    A node is a word (``w3``) or a patch (``p17``, counted row by row). An edge goes from what speaks for a word to that
    word; ``weight`` is its contribution, ``share`` its part of all that the word rests on. Only the strongest edges are
    there; ``kept`` of a word says which share of its contributions they hold.

    Args:
        explanation: of a response.
        patches, words: how many edges of either kind a word gets at most, 0 or more.

    Raises:
        OptionError: a negative number.
    """
    if min(patches, words) < 0:
        raise OptionError("edges of a word", got=(patches, words), allowed="0 and more of either kind")
    response, first, crop = explanation.response, explanation.first, explanation.crop
    nodes: list[dict[str, Any]] = [
        {"id": f"w{place}", "kind": "word", "word": word, "role": "prompt" if place < first else "response"}
        for place, word in enumerate(explanation.words)
    ]
    edges: list[dict[str, Any]] = []
    used: set[int] = set()
    for number in range(len(response.tokens)):
        seen, read = explanation.word_maps[number].reshape(-1), explanation.earlier[number]
        total = float(seen.sum(dtype=np.float64) + read.sum(dtype=np.float64))
        found = [(f"p{k}", float(seen[k])) for k in strongest(seen, patches)]
        used.update(int(name[1:]) for name, _ in found)
        found += [(f"w{k}", float(read[k])) for k in strongest(read, words)]
        target = nodes[first + number]
        target["log_probability"] = response.logprobs[number]
        target["image_share"] = float(explanation.image_shares[number])
        target["kept"] = sum(weight for _, weight in found) / total if total else 0.0
        edges += [
            {"source": source, "target": target["id"], "weight": weight, "share": weight / total}
            for source, weight in found
        ]
    rows, columns = explanation.map.shape
    high, wide = (crop.y1 - crop.y0) / rows, (crop.x1 - crop.x0) / columns
    for patch in sorted(used):
        row, column = divmod(patch, columns)
        left, top = crop.x0 + column * wide, crop.y0 + row * high
        box = [left, top, left + wide, top + high]
        nodes.append({"id": f"p{patch}", "kind": "patch", "row": row, "column": column, "box": box})
    return {
        "prompt": explanation.prompt,
        "response": response.text,
        "log_likelihood": explanation.log_likelihood,
        "grid": [rows, columns],
        "form": explanation.options.form,
        "nodes": nodes,
        "edges": edges,
    }
