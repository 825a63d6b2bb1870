"""Attention flow: attention of all blocks as the capacities of a network, by networkx; a slow reference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from eyeshine.checks import check_whole
from eyeshine.errors import OptionError
from eyeshine.methods.passes import Model, Subject

__all__ = ["AttentionFlow"]


@dataclass(frozen=True)
class AttentionFlow:
    """The largest flow from the class token after the last block down to each patch before the first.

    Nodes are tokens between blocks, an edge from a token after block l to one before it has the capacity
    ``(mean_h A_h + I) / 2``, as in rollout. One maximum flow for every patch: for minutes of one image, where rollout
    takes the time of a forward pass. The same map for every prompt.

    All that leaves the class token is 1, and so is the flow to a patch that as much can reach: such patches are equal.

    Attributes:
        most_edges: refuse a larger network, 1..100,000,000. Time grows with edges times patches, memory (1 kB for each,
            about) with edges: tokens squared times blocks.

    Raises:
        OptionError: a number outside its range; by ``explain``, a larger network, or networkx not installed.
    """

    most_edges: int = 2_000_000

    name: ClassVar[str] = "attention_flow"
    signals: ClassVar[frozenset[str]] = frozenset({"attention_mean"})
    graphs: ClassVar[frozenset[str]] = frozenset({"rollout"})
    needs: ClassVar[frozenset[str]] = frozenset()
    uses_text: ClassVar[bool] = False
    cost: ClassVar[str] = "minutes"
    reference: ClassVar[str] = "Abnar and Zuidema, Quantifying Attention Flow in Transformers, ACL 2020, section 3"

    def __post_init__(self) -> None:
        check_whole("most_edges", self.most_edges, 1, 100_000_000)

    def explain(self, subject: Subject, model: Model) -> NDArray[np.float64]:
        """Maps [P, N] in 0..1."""
        run = model.run("rollout", {"pixels": subject.pixels[None]}, ["attention_mean"])
        attention = run["attention_mean"][0].astype(np.float64)
        depth, tokens, _ = attention.shape
        edges = ((depth - 1) * tokens + 1) * tokens
        if edges > self.most_edges:
            raise OptionError(
                "attention flow would take very long: too many edges", got=f"{edges} ({depth} blocks, {tokens} tokens)",
                allowed=f"most_edges, {self.most_edges}", cure="--set most_edges=..., or method rollout",
            )  # fmt: skip
        model.note(edges=edges)
        flows = flows_to_patches((attention + np.eye(tokens)) / 2)
        flow = np.fromiter(model.track(flows, tokens - 1, self.name), np.float64, tokens - 1)
        return np.tile(flow, (len(subject.targets), 1))


def flows_to_patches(capacities: NDArray[np.float64]) -> Iterator[float]:
    """Maximum flow from the class token above all blocks to each patch below them, patch after patch.

    Args:
        capacities: [L, T, T], from a token after a block (row) to a token before it (column), token 0 the class token.

    Raises:
        OptionError: networkx is not installed.
    """
    try:
        from networkx import DiGraph, maximum_flow_value
        from networkx.algorithms.flow import build_residual_network, shortest_augmenting_path
    except ImportError as error:
        raise OptionError(
            "attention flow needs networkx", got=str(error), cure="pip install 'eyeshine[concepts]'"
        ) from error
    depth, tokens, _ = capacities.shape
    network = DiGraph()
    for block, own in enumerate(capacities.tolist()):
        rows = (
            own if block < depth - 1 else own[:1]
        )  # the class token's is the only row of the last block that is asked
        network.add_weighted_edges_from(
            (((block + 1) * tokens + above, block * tokens + below, capacity)
             for above, row in enumerate(rows) for below, capacity in enumerate(row)),
            weight="capacity",
        )  # fmt: skip
    # Made once: it is most of the work of a flow. Of networkx's algorithms this one was the fastest, .3 s a flow on
    # 194,000 edges; preflow_push took .4 s, boykov_kolmogorov 1 s, dinitz 30 s.
    residual = build_residual_network(network, "capacity")
    for patch in range(1, tokens):
        yield float(
            maximum_flow_value(network, depth * tokens, patch, flow_func=shortest_augmenting_path, residual=residual)
        )
