"""Attention flow: attention of all blocks as the capacities of a network, by scipy or, slow and exact, networkx."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from eyeshine.checks import check_choice, check_whole
from eyeshine.errors import OptionError
from eyeshine.methods.passes import Model, Subject

__all__ = ["AttentionFlow"]


@dataclass(frozen=True)
class AttentionFlow:
    """The largest flow from the class token after the last block down to each patch before the first.

    Nodes are tokens between blocks, an edge from a token after block l to one before it has the capacity
    ``(mean_h A_h + I) / 2``, as in rollout. One maximum flow for every patch: about a second for an image of the
    embedded model (196 patches, 194,000 edges), where rollout takes a forward pass. The same map for every prompt.

    All that leaves the class token is 1, and so is the flow to a patch that as much can reach: such patches are equal.

    Attributes:
        solver: "scipy" takes capacities as multiples of 2^-30, 5 ms for a flow; "networkx" as they are, the slow
            reference, 300 ms.
        most_edges: refuse a larger network, 1..100,000,000. Time grows with edges times patches, memory (networkx:
            about 1 kB for each) with edges: tokens squared times blocks.

    Raises:
        OptionError: an unknown solver, a number outside its range; by ``explain``, a larger network, or the solver not
            installed.
    """

    solver: Literal["scipy", "networkx"] = "scipy"
    most_edges: int = 2_000_000

    name: ClassVar[str] = "attention_flow"
    signals: ClassVar[frozenset[str]] = frozenset({"attention_mean"})
    graphs: ClassVar[frozenset[str]] = frozenset({"rollout"})
    needs: ClassVar[frozenset[str]] = frozenset()
    uses_text: ClassVar[bool] = False
    cost: ClassVar[str] = "seconds"
    reference: ClassVar[str] = "Abnar and Zuidema, Quantifying Attention Flow in Transformers, ACL 2020, section 3"

    def __post_init__(self) -> None:
        check_choice("solver", self.solver, tuple(_SOLVERS))
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
        flows = _SOLVERS[self.solver]((attention + np.eye(tokens)) / 2)
        flow = np.fromiter(model.track(flows, tokens - 1, self.name), np.float64, tokens - 1)
        return np.tile(flow, (len(subject.targets), 1))


def by_scipy(capacities: NDArray[np.float64]) -> Iterator[float]:
    """Maximum flow from the class token above all blocks to each patch below them, patch after patch.

    Args:
        capacities: [L, T, T] in 0..1, from a token after a block (row) to a token before it (column), token 0 the class
            token, whose row of the last block sums to 1 at most.

    Raises:
        OptionError: scipy is not installed.
    """
    try:
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import maximum_flow
    except ImportError as error:
        raise _not_installed("scipy", error) from error
    depth, tokens, _ = capacities.shape
    above, below, own = _edges(capacities)
    whole = np.rint(own * _UNITS).astype(np.int32)
    network = csr_array((whole, (above, below)), shape=((depth + 1) * tokens,) * 2)
    for patch in range(1, tokens):
        yield float(maximum_flow(network, depth * tokens, patch).flow_value) / _UNITS


def by_networkx(capacities: NDArray[np.float64]) -> Iterator[float]:
    """The same of capacities as they are, whatever they are.

    Raises:
        OptionError: networkx is not installed.
    """
    try:
        from networkx import DiGraph, maximum_flow_value
        from networkx.algorithms.flow import build_residual_network, shortest_augmenting_path
    except ImportError as error:
        raise _not_installed("networkx", error) from error
    depth, tokens, _ = capacities.shape
    network = DiGraph()
    edges = (column.tolist() for column in _edges(capacities))
    network.add_weighted_edges_from(zip(*edges, strict=True), weight="capacity")
    # Made once: it is most of the work of a flow. Of networkx's algorithms this one was the fastest, .3 s a flow on
    # 194,000 edges; preflow_push took .4 s, boykov_kolmogorov 1 s, dinitz 30 s.
    residual = build_residual_network(network, "capacity")
    for patch in range(1, tokens):
        yield float(
            maximum_flow_value(network, depth * tokens, patch, flow_func=shortest_augmenting_path, residual=residual)
        )


_UNITS = 2**30
"""Of a capacity of 1: what leaves the class token has to stay below 2^31."""
_SOLVERS = {"scipy": by_scipy, "networkx": by_networkx}


def _edges(capacities: NDArray[np.float64]) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
    """Node above, node below and capacity of every edge; of the last block the class token's row alone is asked for."""
    depth, tokens, _ = capacities.shape
    block, token = np.arange(depth, dtype=np.int32)[:, None, None] * tokens, np.arange(tokens, dtype=np.int32)
    above, below, own = np.broadcast_arrays(block + tokens + token[:, None], block + token, capacities)
    asked = slice(((depth - 1) * tokens + 1) * tokens)
    return above.reshape(-1)[asked], below.reshape(-1)[asked], own.reshape(-1)[asked]


def _not_installed(library: str, error: ImportError) -> OptionError:
    cure = "pip install 'eyeshine[concepts]'"
    return OptionError(f"attention flow needs {library}", got=str(error), cure=cure)
