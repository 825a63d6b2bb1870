"""Golden values: inputs with the outputs that autograd gives for them, so that any engine can be checked anywhere."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from eyeshine.signals import last_blocks
from eyeshine_export.groups import Built, Group
from eyeshine_export.oracle import Oracle

__all__ = ["golden_values"]

_LARGE = 2**18  # bytes


def golden_values(oracle: Oracle, groups: Mapping[Group, Mapping[str, Built]]) -> dict[str, NDArray[np.generic]]:
    """Inputs and the oracle's outputs for one image and two prompts: ``in/NAME`` and ``GRAPH/OUTPUT``.

    Of a large signal with an axis over blocks only the last block is kept: gradients and attention rows, which depend
    on every block, are kept whole, and the file of the embedded model is a third smaller.
    """
    config = oracle.source.config
    random = np.random.default_rng(1)
    pixels = random.random((1, 3, *config.vision.image_size), dtype=np.float32)
    text = random.standard_normal((2, config.embed_dim), dtype=np.float32)
    end, pad = config.text.vocab_size - 1 if config.text.end_id is None else config.text.end_id, config.text.pad_id
    tokens = np.array([[3, end, pad], [end, pad, pad]], dtype=np.int64)  # three is the shortest context there is
    if config.text.whole_context:
        tokens = np.pad(tokens, ((0, 0), (0, config.text.context_length - 3)), constant_values=pad)
    inputs: dict[str, NDArray[np.generic]] = {"pixels": pixels, "text": text, "tokens": tokens}
    values: dict[str, NDArray[np.generic]] = {}
    for group, graphs in groups.items():
        for case in group.cases(oracle, graphs, inputs):
            for name in case.graphs:
                built = graphs[name]
                values |= {f"in/{value.name}": case.inputs[str(value.name)] for value in built.model.graph.inputs}
                for value in built.model.graph.outputs:
                    output = str(value.name)
                    if output not in group.left_out:
                        kept = last_blocks(output, case.expected[output], len(built.blocks))
                        values[f"{name}/{output}"] = last_blocks(output, kept, 1) if kept.nbytes > _LARGE else kept
    return values
