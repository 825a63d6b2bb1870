"""A second oracle: open_clip's own modules, called one after another with attention written out.

It knows nothing of ``eyeshine_export``. That it is open_clip's model is checked against ``encode_image`` itself.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch.nn import functional as F

Trace = dict[str, list[torch.Tensor]]


def trace(model: Any, pixels: torch.Tensor) -> tuple[torch.Tensor, Trace]:
    """Normalised pixels -> embedding (not unit) and, per block, its tensors from ``input`` to ``output``."""
    visual, kept = model.visual, defaultdict(list)
    patches = visual.conv1(pixels).flatten(2).transpose(1, 2)
    first = visual.class_embedding.expand(len(pixels), 1, -1)
    x = visual.ln_pre(torch.cat([first, patches], dim=1) + visual.positional_embedding)
    for block in visual.transformer.resblocks:
        attn = block.attn
        heads, width = attn.num_heads, x.shape[-1]
        normed = block.ln_1(x)
        packed = F.linear(normed, attn.in_proj_weight, attn.in_proj_bias)
        query, key, value = packed[..., :width], packed[..., width : 2 * width], packed[..., 2 * width :]
        q, k, v = (t.unflatten(-1, (heads, width // heads)) for t in (query, key, value))
        attention = torch.einsum("bihd,bjhd->bhij", q, k).div((width // heads) ** 0.5).softmax(-1)
        mixed = torch.einsum("bhij,bjhd->bihd", attention, v).flatten(2)
        parts = {"input": x, "normed": normed, "query": query, "key": key, "value": value}
        for name, tensor in {**parts, "attention": attention, "mixed": mixed}.items():
            kept[name].append(tensor)
        y = x + block.ls_1(attn.out_proj(mixed))
        x = y + block.ls_2(block.mlp(block.ln_2(y)))
        kept["output"].append(x)
    return visual.ln_post(x[:, 0]) @ visual.proj, dict(kept)


def normalised(pixels: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """RGB in 0..1 -> open_clip's input, float64."""
    shift, scale = (np.asarray(x, np.float64).reshape(1, 3, 1, 1) for x in (mean, std))
    return torch.from_numpy((pixels.astype(np.float64) - shift) / scale)


def cosines(embedding: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """[B, P]."""
    return F.cosine_similarity(embedding[:, None], text[None], dim=-1)


def signals(model: Any, pixels: torch.Tensor, text: torch.Tensor, layers: int) -> dict[str, np.ndarray]:
    """The signals of the last ``layers`` blocks under the names that graphs give them; one backward per prompt."""
    embedding, kept = trace(model, pixels)
    similarity = cosines(embedding, text)
    last = slice(-layers, None)
    gradient = [
        torch.stack([g[:, 0] for g in torch.autograd.grad(column.sum(), kept["mixed"][last], retain_graph=True)], 1)
        for column in similarity.T
    ]
    query, keys = (torch.stack(kept[name][last], 1) for name in ("query", "key"))
    result = {
        "embedding": F.normalize(embedding, dim=-1),
        "similarity": similarity,
        "class_query": query[:, :, 0],
        "keys": keys,
        "spatial_weights": torch.from_numpy(spatial_weights(query[:, :, 0].detach().numpy(), keys.detach().numpy())),
        "values": torch.stack(kept["value"][last], 1),
        "class_attention": torch.stack(kept["attention"][last], 1)[:, :, :, 0],
        "gradient": torch.stack(gradient, 1),
    }
    return {name: tensor.detach().numpy() for name, tensor in result.items()}


def spatial_weights(query: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Grad-ECLIP's lambda, patch by patch: query [..., D] and keys [..., T, D], token 0 no patch -> [..., N]."""
    if query.ndim > 1:
        return np.stack([spatial_weights(q, k) for q, k in zip(query, keys, strict=True)])
    cosines = [float(query @ key) / max(math.sqrt((query @ query) * (key @ key)), 1e-12) for key in keys[1:]]
    spread = max(cosines) - min(cosines)
    return np.array([(c - min(cosines)) / spread if spread > 1e-6 else 0.0 for c in cosines])


def evaluate(model: ir.Model, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run a graph with onnx's reference evaluator, in the graph's own precision, operator by operator in NumPy.

    Its Erf (and so its Gelu) rounds to float32, its Attention takes the root of a float32 scale and its Resize places
    of float32, whatever they are given; these four are replaced.
    """
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.op_run import OpRun

    erf = np.vectorize(math.erf, otypes=[np.float64])

    class Erf(OpRun):
        def _run(self, x):
            return (erf(x).astype(x.dtype),)

    class Gelu(OpRun):
        def _run(self, x, approximate=None):
            if approximate == "tanh":
                return ((0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))).astype(x.dtype),)
            return ((0.5 * x * (1 + erf(x / math.sqrt(2)))).astype(x.dtype),)

    class Attention(OpRun):
        def _run(self, q, k, v, mask=None, is_causal=0, scale=None, **_):
            exact = 1 / math.sqrt(q.shape[3])
            assert np.float32(scale) == np.float32(exact)
            scores = np.einsum("bhid,bhjd->bhij", q, k) * exact
            if mask is not None:
                scores = scores + mask
            if is_causal:
                scores = np.where(np.tri(q.shape[2], dtype=bool), scores, -np.inf)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            return (np.einsum("bhij,bhjd->bhid", weights, v),)

    class Resize(OpRun):
        def _run(self, x, roi=None, scales=None, sizes=None, cubic_coeff_a=None, **_):
            assert np.float32(cubic_coeff_a) == np.float32(-0.75)
            rows, columns = (cubic(length, int(wanted)) for length, wanted in zip(x.shape[2:], sizes[2:], strict=True))
            return (np.einsum("yi,bcij,xj->bcyx", rows, x, columns),)

    names = [value.name for value in model.graph.outputs]
    evaluator = ReferenceEvaluator(ir.to_proto(model), new_ops=[Erf, Gelu, Attention, Resize])
    return dict(zip(names, evaluator.run(names, inputs), strict=True))


def cubic(length: int, wanted: int) -> np.ndarray:
    """[wanted, length]: bicubic interpolation along one axis, pixel centres, a = -0.75, the edge repeated."""
    weights = np.zeros((wanted, length))
    for place in range(wanted):
        centre = (place + 0.5) * length / wanted - 0.5
        for neighbour in range(math.floor(centre) - 1, math.floor(centre) + 3):
            t = abs(centre - neighbour)
            inner, outer = 1.25 * t**3 - 2.25 * t**2 + 1, -0.75 * (t**3 - 5 * t**2 + 8 * t - 4)
            weights[place, min(max(neighbour, 0), length - 1)] += inner if t <= 1 else outer
    return weights


def run_onnxruntime(model: ir.Model, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run a graph with onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def relative(got: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the largest expected value; shapes must agree."""
    assert got.shape == expected.shape
    largest, difference = np.abs(expected).max(), np.abs(got - expected).max()
    return float(difference / largest) if difference or largest else 0.0  # all zeros are equal to all zeros
