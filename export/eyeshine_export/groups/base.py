"""What a group of graphs is: how its graphs are built, and the autograd oracle that they are checked with.

A group is named by ``eyeshine export --signals``. Its graphs yield signals that no other graph of a bundle yields, or
run a part of the model, and exist for the methods that read them; weights are shared by all graphs of a bundle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from eyeshine_export.config import ClipConfig
from eyeshine_export.graph.ops import Form
from eyeshine_export.graph.weights import TextWeights, VisionWeights
from eyeshine_export.oracle import Oracle

__all__ = ["Built", "Case", "Group", "Parts"]

Array = NDArray[np.generic]


@dataclass(frozen=True)
class Parts:
    """What graphs are built from.

    Attributes:
        config: sizes of both towers.
        vision, text: weights as graphs store them.
        form: operator set and precision.
        layers: K, explained blocks of the deep graph; a group that explains blocks takes as many where it has a choice.
    """

    config: ClipConfig
    vision: VisionWeights
    text: TextWeights
    form: Form
    layers: int


@dataclass(frozen=True)
class Built:
    """One graph.

    Attributes:
        model: the graph; its inputs and outputs are named signals.
        cost: rank among the graphs of a bundle: the runtime takes the cheapest that has what it needs. Of ``image`` it
            is 1, of ``deep`` the number of its blocks; a pass back through all tokens costs 1 for every block.
        blocks: blocks along the K axis of its per-block signals, ascending; empty without such signals.
    """

    model: ir.Model
    cost: int
    blocks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Case:
    """Inputs and what the oracle makes of them.

    Attributes:
        graphs: names of the graphs that are checked with it.
        shape: what is said of it where a graph fails.
        inputs: at least those of the graphs.
        expected: at least the graphs' outputs; of a per-block signal possibly more blocks than a graph has.
    """

    graphs: tuple[str, ...]
    shape: str
    inputs: Mapping[str, Array]
    expected: Mapping[str, Array]


def _plain(config: ClipConfig) -> bool:
    return config.plain


@dataclass(frozen=True)
class Group:
    """Graphs that are exported together.

    Attributes:
        name: on the command line and in the manifest.
        meaning: what its signals are for, one line.
        build: name -> graph.
        cases: from an oracle, the graphs of ``build`` and ``pixels``, ``text`` and ``tokens``: inputs and expected
            outputs of all its graphs. Called once for every shape that is checked, and once for the golden values;
            inputs other than those three are the group's own to draw, each under a name that no other group gives to
            another array.
        left_out: signals of a graph that are left out of the golden values, where ``image`` holds their last block and
            they would be most of the file.
        fits: whether it is built for such towers; by default for those with a class token and an end token.
    """

    name: str
    meaning: str
    build: Callable[[Parts], dict[str, Built]]
    cases: Callable[[Oracle, Mapping[str, Built], Mapping[str, Array]], Iterator[Case]]
    left_out: frozenset[str] = frozenset()
    fits: Callable[[ClipConfig], bool] = _plain
