"""From a training run to the captioner's folder: graphs, checks against autograd, golden values, scores, manifest."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import shutil
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from eyeshine import Bundle, roads
from eyeshine.bundle import sha256_of
from eyeshine.captioner.bundle import GOLDEN, GRAPHS, SCHEMA, CaptionerFiles, CaptionerManifest
from eyeshine.captioner.features import patch_features, tower_graph
from eyeshine.captioner.words import END, Words
from eyeshine.engine import CpuOptions, OrtCpuSession, open_session
from eyeshine.errors import ExportError, OutputError
from eyeshine.manifest import MANIFEST, FileInfo
from eyeshine.preprocess import Preprocess
from eyeshine.verify import TOLERANCES, output_error
from eyeshine_export.captioner.evaluate import score
from eyeshine_export.captioner.graphs import decode_graph, explain_graph, memory_graph
from eyeshine_export.captioner.model import Captioner, Trace
from eyeshine_export.captioner.train import load
from eyeshine_export.write import write_graphs

__all__ = ["export_captioner", "reference", "ship"]

SCORES = "scores.json"
_GOLDEN_SCENE = roads.HELD_OUT_FROM
_PROMPT, _ANSWER = "is there a car?", "yes"

Array = NDArray[np.generic]


def reference(model: Captioner, inputs: dict[str, Array]) -> dict[str, dict[str, Array]]:
    """What every graph has to yield, by the model itself in float64 and ``torch.autograd``.

    Args:
        model: any float type; it is not changed.
        inputs: ``features`` [B, N, F], ``tokens`` and ``response`` [B, T].

    Returns:
        graph -> output -> float32.
    """
    exact = Captioner(model.shape).double().eval()
    exact.load_state_dict({name: tensor.double() for name, tensor in model.state_dict().items()})
    features, response = (torch.from_numpy(inputs[name].astype(np.float64)) for name in ("features", "response"))
    tokens, trace = torch.from_numpy(inputs["tokens"]), Trace()
    keys, values = exact.memory(features)
    logs = exact(tokens[:, None], keys, values, trace)[:, 0].log_softmax(-1)
    given = torch.nn.functional.pad(logs[:, :-1].gather(2, tokens[:, 1:, None])[..., 0], (1, 0))
    # Images of a batch do not interact: the gradient of the sum is each one's own.
    found = torch.autograd.grad((given * response).sum(), (*trace.cross_out, *trace.self_attention))
    layers = model.shape.layers

    def stack(parts: list[torch.Tensor] | tuple[torch.Tensor, ...]) -> Array:
        return _single(torch.stack([part[:, 0] for part in parts], 1))

    return {
        "memory": {"keys": _single(keys), "values": _single(values)},
        "decode": {"log_probabilities": _single(logs)},
        "explain": {
            "log_probabilities": _single(given),
            "cross_query": stack(trace.cross_query),
            "cross_attention": stack(trace.cross_attention),
            "cross_gradient": stack(found[:layers]),
            "self_attention": stack(trace.self_attention),
            "self_gradient": stack(found[layers:]),
        },
    }


def _single(tensor: torch.Tensor) -> Array:
    values: Array = tensor.detach().float().numpy()
    return values


def _check(folder: Path, model: Captioner) -> dict[str, dict[str, float]]:
    """Run every written graph on random inputs of several sizes beside autograd; largest relative errors."""
    random, shape = np.random.default_rng(0), model.shape
    sessions = {name: OrtCpuSession(folder / f"{name}.onnx", CpuOptions(threads=1)) for name in GRAPHS}
    worst: dict[str, dict[str, float]] = {name: {} for name in GRAPHS}
    for images, length in ((1, 2), (3, 17), (2, shape.context)):
        inputs: dict[str, Array] = {
            "features": random.standard_normal((images, shape.patches, shape.features), dtype=np.float32),
            "tokens": random.integers(0, shape.words, (images, length)),
            "response": random.integers(0, 2, (images, length)).astype(np.float32),
        }
        inputs["response"][0, -1] = 1  # a response without words has no gradient to compare
        expected = reference(model, inputs)
        inputs |= expected["memory"]
        for name, session in sessions.items():
            got = session.run({key: inputs[key] for key in session.input_dims}, list(session.output_dims)).outputs
            for output, value in got.items():
                error = output_error(output, value, expected[name][output])
                if not error <= TOLERANCES["fp32"]:
                    raise ExportError(
                        f"{name}.onnx disagrees with autograd in {output}",
                        got=f"relative error {error:.3g} at B={images}, T={length}",
                        allowed=f"{TOLERANCES['fp32']:g}", cure="report it; nothing was written",
                    )  # fmt: skip
                worst[name][output] = max(error, worst[name].get(output, 0.0))
    return worst


def _golden(model: Captioner, words: Words, bundle: Bundle) -> dict[str, Array]:
    """One scene as the tower sees it, one question about it, and what autograd makes of them."""
    image = roads.render(seed=_GOLDEN_SCENE).image
    pixels = Preprocess.from_manifest(bundle.manifest.preprocess).prepare(image).pixels[None]
    bytes_ = np.rint(pixels * 255).astype(np.uint8)
    session = open_session(bundle, tower_graph(bundle), CpuOptions(threads=1))
    features = patch_features(session, bytes_.astype(np.float32) / np.float32(255))
    asked = words.prompt(_PROMPT)
    tokens = np.array([[*asked, *words.encode(_ANSWER), END]])
    response = np.zeros(tokens.shape, np.float32)
    response[:, len(asked) :] = 1
    inputs: dict[str, Array] = {"tokens": tokens, "response": response}
    expected = reference(model, {**inputs, "features": features})
    golden: dict[str, Array] = {"tower/pixels": bytes_, "tower/features": features}
    golden |= {f"in/{name}": value for name, value in inputs.items()}
    return golden | {f"{graph}/{name}": value for graph, outputs in expected.items() for name, value in outputs.items()}


def export_captioner(run: Path, out: Path, bundle: Bundle, *, licence: str = "Apache-2.0") -> CaptionerManifest:
    """Write the captioner of a training run into the folder ``out``, which is replaced if it holds one.

    Raises:
        ExportError: a graph disagrees with autograd.
        OutputError: ``out`` holds something else.
    """
    if out.exists() and any(out.iterdir()) and not (out / MANIFEST).is_file():
        raise OutputError("target exists and is not a captioner", got=str(out), cure="name another folder")
    model, words, training = load(run)
    shape, grid = model.shape, bundle.manifest.grid
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        folder = Path(scratch, "captioner")
        folder.mkdir()
        builders = {"memory": memory_graph, "decode": decode_graph, "explain": explain_graph}
        write_graphs({name: builders[name](shape, state) for name in GRAPHS}, folder)
        parity = _check(folder, model)
        np.savez_compressed(folder / GOLDEN, allow_pickle=False, **_golden(model, words, bundle))
        manifest = CaptionerManifest(
            schema=SCHEMA, name="roads-captioner", tower=bundle.name, tower_hash=bundle.hash, layers=shape.layers,
            heads=shape.heads, width=shape.width, context=shape.context, grid=grid, words=words.names, licence=licence,
            training=training, exporter=_versions(), parity=parity, files=_files(folder),
        )  # fmt: skip
        manifest.write(folder)
        if out.exists():
            shutil.rmtree(out)
        folder.rename(out)
    return manifest


def _files(folder: Path) -> dict[str, FileInfo]:
    paths = sorted(path for path in folder.iterdir() if path.name != MANIFEST)
    return {path.name: FileInfo(path.stat().st_size, sha256_of(path)) for path in paths}


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("eyeshine", "torch", "onnx_ir", "onnxruntime", "numpy")}


def ship(run: Path, out: Path, *, scenes: int) -> None:
    """Export a run, score it with the runtime on held-out scenes, and add the scores to the folder."""
    bundle = Bundle.open()
    manifest = export_captioner(run, out, bundle)
    if scenes:
        scores = score(CaptionerFiles.open(out), bundle, scenes)
        (out / SCORES).write_text(json.dumps(asdict(scores), indent=1) + "\n", "utf-8")
        replace(manifest, files=_files(out)).write(out)
        print(json.dumps(asdict(scores), indent=1))


def main() -> None:
    """Ship a run from the command line."""
    parser = argparse.ArgumentParser(description="Export a captioner's training run, and score it.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=500, help="held-out scenes to score; 0 for none")
    given = parser.parse_args()
    ship(given.run, given.out, scenes=given.scenes)


if __name__ == "__main__":
    main()
