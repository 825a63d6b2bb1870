"""Whole graphs: ``encode``, ``image`` (last block explained), ``deep`` (K blocks explained), ``text``.

One builder makes every tower from three settings: mask (none or causal), the row that carries the output (class token,
mean or learned query of an image; end, last or appended token of a text), and head.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from eyeshine.signals import SIGNALS
from eyeshine_export.config import ClipConfig, VisionConfig
from eyeshine_export.graph.ends import finish, head_of, normalise, row_mask, text_tower, vision_tower
from eyeshine_export.graph.explained import TO_THE_END, Stack
from eyeshine_export.graph.forward import Tokens, Tower
from eyeshine_export.graph.ops import PLAIN, Dim, Form
from eyeshine_export.graph.readout import ClassReadout, Readout, read_out
from eyeshine_export.graph.trunk import as_stored
from eyeshine_export.graph.vjp import Head, Vjp
from eyeshine_export.graph.weights import TextWeights, VisionWeights

__all__ = ["encode_graph", "explain_graph", "output_blocks", "text_graph"]


def encode_graph(config: ClipConfig, weights: VisionWeights, form: Form = PLAIN) -> ir.Model:
    """pixels -> embedding, with the last block cut to the row that is read."""
    tower, tokens = vision_tower(config, weights, form)
    _, head = _read(tower, tokens, config, weights, 0)
    tower.g.output("embedding", head.unit, ["B", config.embed_dim])
    return finish(tower.g, "encode", "pixels to image embedding")


def explain_graph(
    config: ClipConfig, weights: VisionWeights, layers: int = 1, form: Form = PLAIN, *, queries: bool = False
) -> ir.Model:
    """pixels and text -> embedding, similarity and the signals of the last ``layers`` blocks.

    With ``queries`` those of the patches as well; the last block computes the class row's alone otherwise.

    Raises:
        UnsupportedError: several layers of a tower that is read by a learned query.
    """
    tower, tokens = vision_tower(config, weights, form)
    g = tower.g
    text = g.input("text", ["P", config.embed_dim])
    output, head = _read(tower, tokens, config, weights, layers)

    unit_text = normalise(g, text)[0]
    similarity = g.op("Gemm", head.unit, unit_text, transB=1)
    vjp = Vjp(output.tower, g.shape(head.unit, 0), g.shape(unit_text, 0))
    signals = output.signals(vjp, vjp.head(head, unit_text, similarity))
    if queries:
        assert isinstance(output, ClassReadout)
        signals["queries"] = _patch_queries(tower, output.stack)

    g.output("embedding", head.unit, ["B", config.embed_dim])
    g.output("similarity", similarity, ["B", "P"])
    output_blocks(output.tower, config.vision, signals, layers)
    name = "queries" if queries else "image" if layers == 1 else "deep"
    return finish(g, name, f"pixels and text vectors to similarity, signals and gradient of {layers} block(s)")


def text_graph(config: ClipConfig, weights: TextWeights, form: Form = PLAIN) -> ir.Model:
    """tokens -> text embedding; the last block computes the row that carries it only.

    Where that row is the end token's under a causal mask the token axis is dynamic: what stands after the last
    end-of-text token can be left out by the caller. Elsewhere it is the whole context. There is no such graph in int8:
    a text is embedded once, its vector is used for ever.
    """
    tower, tokens, row_index = text_tower(config, weights, form)
    g, length = tower.g, tokens.length
    for block in weights.blocks[:-1]:
        tokens = tower.trunk_block(tokens, block)
    last = weights.blocks[-1]
    normed = tower.norm(tokens.flat, f"{last.name}.norm1", last.norm1)

    def take(flat: ir.Value) -> ir.Value:
        return g.op("GatherND", tower.tokens3d(flat, length), row_index, batch_dims=1)

    mask = row_mask(tower, row_index, length)
    output = tower.output_block(tokens, take(tokens.flat), normed, take(normed), last, mask)
    head = head_of(tower, "text", output.out, weights, project=config.text.projection)
    g.output("text_embedding", head.unit, ["P", config.embed_dim])
    return finish(g, "text", "token ids to text embedding")


# -- parts -----------------------------------------------------------------------------------------------------


def _read(
    tower: Tower, tokens: Tokens, config: ClipConfig, weights: VisionWeights, layers: int
) -> tuple[Readout, Head]:  # fmt: skip
    """All blocks, what reads them, and the head."""
    pooler = config.vision.pooler
    blocks = as_stored(weights.blocks, tower.g.form, but=1 if pooler is None else 0)
    output = read_out(tower, tokens, weights, blocks, layers)
    project = pooler is None or not pooler.mlp
    return output, head_of(output.tower, "visual", output.row, weights, norm=not output.normed, project=project)


def _patch_queries(tower: Tower, stack: Stack) -> ir.Value:
    """[B, K, N, D]; the only product that a last block does not make otherwise."""
    g, trunk, last = tower.g, tower.explained, stack.weights[-1]
    normed = tower.norm(stack.before_output.flat, f"{last.name}.norm1", last.norm1)
    flat = trunk.leave(trunk.linears(trunk.enter(normed), last, "query")[0])
    queries = [*(x.query for x in stack.whole), tower.tokens3d(flat, stack.before_output.length)]
    return g.slice(g.stack(queries, 1), 2, 1, TO_THE_END)


def output_blocks(tower: Tower, vision: VisionConfig, signals: Mapping[str, ir.Value], count: int) -> None:
    """Declare per-block signals of ``count`` attentions of ``tower`` as outputs, under their names."""
    patches = vision.grid[0] * vision.grid[1]
    sizes: dict[str, Dim] = {"K": count, "D": tower.config.width, "H": tower.config.heads}
    if not tower.g.form.any_size:
        sizes |= {"T": 1 + patches, "N": patches}
    for name, value in signals.items():
        tower.g.output(name, value, [sizes.get(dim, dim) for dim in SIGNALS[name].dims])
