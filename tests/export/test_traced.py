"""A third oracle for the gradient: torch's own backward, traced by ``make_fx`` and exported by ``torch.onnx``.

It works for one batch size and one number of prompts only, which is why the graphs are written by hand.
"""

import io

import numpy as np
import onnxruntime
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from eyeshine_export.graph.towers import explain_graph
from eyeshine_export.graph.weights import vision_weights
from oracle import cosines, relative, run_onnxruntime, trace
from tiny import arrays, tiny_config, tiny_model, tiny_source

BLOCKS, IMAGES, PROMPTS = 3, 2, 2


def traced_backward(raw, pixels, text):
    """Bytes of an ONNX graph, pixels and text -> gradient [B, P, K, D], that torch made by itself."""
    model = tiny_model(raw).requires_grad_(False)

    def gradient(pixels, text):
        embedding, kept = trace(model, pixels.requires_grad_())
        rows = []
        for column in cosines(embedding, text).T:
            per_block = torch.autograd.grad(column.sum(), kept["mixed"][-BLOCKS:], retain_graph=True)
            rows.append(torch.stack([g[:, 0] for g in per_block], 1))
        return torch.stack(rows, 1)

    graph = make_fx(lambda pixels, text: gradient(pixels, text))(pixels, text).eval()
    buffer = io.BytesIO()
    torch.onnx.export(graph, (pixels.detach(), text), buffer, dynamo=True, opset_version=20, verbose=False)
    return buffer.getvalue()


@pytest.mark.parametrize("quick_gelu", [False, True], ids=["gelu", "quick_gelu"])
def test_the_graph_equals_torchs_own_backward_as_a_graph(quick_gelu):
    raw = tiny_config(vision={"ls_init_value": 0.1}, quick_gelu=quick_gelu)
    source = tiny_source(raw)
    config, size = source.config, source.config.vision.image_size
    random = np.random.default_rng(0)
    inputs = {
        "pixels": random.random((IMAGES, 3, *size), dtype=np.float32),
        "text": random.standard_normal((PROMPTS, config.embed_dim), dtype=np.float32),
    }
    mean, std = source.normalisation.mean, source.normalisation.std
    vision = vision_weights(arrays(source, np.float32), config.vision, config.embed_dim, mean, std)
    got = run_onnxruntime(explain_graph(config, vision, BLOCKS), inputs)["gradient"]

    shift, scale = (np.float32(x).reshape(1, 3, 1, 1) for x in (mean, std))
    prepared = (inputs["pixels"] - shift) / scale
    backward = traced_backward(raw, torch.from_numpy(prepared), torch.from_numpy(inputs["text"]))
    session = onnxruntime.InferenceSession(backward, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    (expected,) = session.run(None, dict(zip(names, (prepared, inputs["text"]), strict=True)))
    assert relative(got, expected) <= 1e-4
