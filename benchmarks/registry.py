"""What is measured: models, cases, the groups in which they run side by side, and the wanted limits."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final, Literal

from tokenizers import Tokenizer

from benchmarks.bundles import Configuration
from eyeshine.bundle import default_bundle
from eyeshine.errors import BundleError
from eyeshine.manifest import Manifest
from eyeshine_export.compat import import_open_clip
from eyeshine_export.source import Tokens

__all__ = ["CASES", "GROUPS", "LIMITS", "MODELS", "CaseSpec", "Limit", "configuration", "select"]

Kind = Literal["plain", "encode", "explain", "two", "all", "call", "embedded", "eager"]


@dataclass(frozen=True)
class CaseSpec:
    """One thing to time.

    Attributes:
        name: in rows and options.
        title: in tables.
        kind: plain (torch.onnx's encoder), encode (encode.onnx), explain, two, all (the image graph and the deep graphs
            of two and of all blocks, and the map), call (``Explainer.explain``), embedded (the same with the bundle
            that comes with the package), eager (PyTorch with autograd, and the map).
        prompts: P.
    """

    name: str
    title: str
    kind: Kind
    prompts: int


@dataclass(frozen=True)
class Limit:
    """A wanted ratio of two cases' times: at most (or at least) ``bound``."""

    case: str
    over: str
    bound: float
    at_least: bool = False

    def holds(self, ratio: float) -> bool:
        return ratio >= self.bound if self.at_least else ratio <= self.bound


CASES: Final = {
    spec.name: spec
    for spec in (
        CaseSpec("plain", "plain encoder (torch.onnx)", "plain", 0),
        CaseSpec("encode", "encode.onnx", "encode", 0),
        CaseSpec("explain-1", "explain, 1 prompt", "explain", 1),
        CaseSpec("explain-10", "explain, 10 prompts", "explain", 10),
        CaseSpec("explain-100", "explain, 100 prompts", "explain", 100),
        CaseSpec("call-1", "Explainer.explain, 640x480 image, 1 prompt", "call", 1),
        CaseSpec("embedded-1", "the same, embedded weights", "embedded", 1),
        CaseSpec("two-1", "explain --layers 2, 1 prompt", "two", 1),
        CaseSpec("two-10", "explain --layers 2, 10 prompts", "two", 10),
        CaseSpec("all-1", "explain all layers, 1 prompt", "all", 1),
        CaseSpec("eager-1", "eager PyTorch autograd, 1 prompt", "eager", 1),
        CaseSpec("eager-10", "eager PyTorch autograd, 10 prompts", "eager", 10),
    )
}

# A group is what fits in memory side by side; each has its own plain encoder.
GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "last": ("plain", "encode", "explain-1", "explain-10", "explain-100", "call-1", "embedded-1"),
    "deep": ("plain", "two-1", "two-10", "all-1"),
    "eager": ("plain", "explain-1", "explain-10", "eager-1", "eager-10"),
}

MODELS: Final = {"b32": "ViT-B-32-quickgelu", "b16": "ViT-B-16-quickgelu", "roads": "roads"}
"""Short name -> name of the configuration."""

LIMITS: Final[dict[str, tuple[Limit, ...]]] = {
    "b32": (
        Limit("explain-1", "plain", 0.97),
        Limit("explain-10", "plain", 0.97),
        Limit("explain-100", "plain", 1.12),
        Limit("eager-1", "explain-1", 1.8, at_least=True),
        Limit("eager-10", "explain-10", 2.5, at_least=True),
    ),
    "b16": (
        Limit("explain-1", "plain", 0.95),
        Limit("explain-10", "plain", 0.95),
        Limit("explain-100", "plain", 1.00),
        Limit("call-1", "plain", 1.03),
        Limit("two-1", "plain", 1.00),
        Limit("two-10", "plain", 1.00),
        Limit("all-1", "plain", 1.95),
        Limit("eager-1", "explain-1", 1.35, at_least=True),
        Limit("eager-10", "explain-10", 2.1, at_least=True),
    ),
    "roads": (),
}


def configuration(model: str) -> Configuration:
    """The configuration behind a short name.

    Raises:
        BundleError: ``roads`` is asked for and the package carries no bundle.
    """
    if model == "roads":
        return _roads()
    raw = import_open_clip().get_model_config(MODELS[model])
    if raw is None:
        raise RuntimeError(f"open_clip knows no configuration {MODELS[model]}")
    return Configuration(MODELS[model], raw)


def _roads() -> Configuration:
    """Random weights of the embedded model's shape: a plain encoder needs weights in open_clip's keys.

    The text tower is small and of no account here; its shape is the trainer's default.
    """
    from eyeshine_export.roads.config import Shape

    folder = default_bundle()
    if not folder.is_dir():
        raise BundleError("the embedded bundle is missing", got="no models/roads in the package")
    manifest = Manifest.read(folder)
    model, words = manifest.model, manifest.tokenizer
    tokenizer = (folder / words.file).read_text("utf-8")
    raw: dict[str, Any] = Shape(embed=model.embed_dim).configuration()
    raw["quick_gelu"] = model.activation == "quick_gelu"
    raw["text_cfg"]["context_length"] = words.context_length
    raw["text_cfg"]["vocab_size"] = Tokenizer.from_str(tokenizer).get_vocab_size()
    raw["vision_cfg"] = {
        "image_size": list(model.image_size),
        "layers": model.layers,
        "width": model.width,
        "head_width": model.width // model.heads,
        "patch_size": list(model.patch_size),
    }
    tokens = Tokens(tokenizer, words.start, words.end, words.pad, words.unknown, words.clean)
    return Configuration("roads", raw, tokens)


def select(group: str, only: Collection[str], *, embedded: bool) -> tuple[str, ...]:
    """Cases of a group that are to run: those asked for with what they are compared to, or all.

    Args:
        group: a key of ``GROUPS``.
        only: names of cases; empty for all.
        embedded: whether the embedded bundle belongs to this model.
    """
    names = tuple(name for name in GROUPS[group] if embedded or name != "embedded-1")
    wanted = {name for name in names if name != "plain" and (not only or name in only)}
    if not wanted:
        return ("plain",) if group == "last" and "plain" in only else ()
    bases = {"plain", *(_base(name) for name in wanted)}
    return tuple(name for name in names if name in wanted | bases)


def _base(case: str) -> str:
    return case.replace("eager-", "explain-")
