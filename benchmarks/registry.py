"""What is measured: cases, the groups in which they run side by side, and the wanted limits. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal

__all__ = [
    "ALL",
    "CASES",
    "COPY",
    "GPU_LIMITS",
    "GROUPS",
    "ITS_P50",
    "LAUNCHES",
    "LIMITS",
    "MODELS",
    "SECOND",
    "CaseSpec",
    "Group",
    "Limit",
    "base_of",
    "select",
]

Kind = Literal[
    "plain", "encode", "explain", "concept", "method", "call", "embedded", "network", "eager", "passes",
    "eager-passes", "post", "cold", "throughput", "large",
]  # fmt: skip
ALL: Final = 0
"""In place of a number of blocks: the whole tower."""


@dataclass(frozen=True)
class CaseSpec:
    """One thing to time.

    Attributes:
        name: in rows and options.
        title: in tables.
        kind: plain (torch.onnx's encoder), encode (encode.onnx), explain (the graph and the map),
            concept (the same with Concept Attribution: its own heads for one block, the best of all for more), method
            (the same with ``method``, which reads all explained blocks), call
            (``Explainer.explain``), embedded (the same with the bundle that comes with the package), network (the
            encoder in eager PyTorch), eager (the explanation there, with autograd), passes (a method that runs the
            model many times), eager-passes (the same there, see ``eager_methods``), post (what comes after the graph,
            alone), cold (a process from its start to its first map), throughput (many images in batches; the time is
            that of one), large (one kernel on a shape that fills a GPU).
        prompts: P.
        blocks: explained blocks, the last ones; ``ALL`` for the whole tower.
        engine: short name of the engine; empty for the one that the run measures.
        precision: of the bundle, or of the arithmetic where the engine chooses it; empty for that of the run.
        method: in the registry, of the kind "method"; its setting ``layers`` is ``blocks``.
    """

    name: str
    title: str
    kind: Kind
    prompts: int
    blocks: int = 1
    engine: str = ""
    precision: str = ""
    method: str = ""


@dataclass(frozen=True)
class Group:
    """Cases that run side by side, as many as memory holds; the others are compared with the first.

    Attributes:
        cases: keys of ``CASES``.
        models: keys of ``MODELS`` with which ``make bench`` runs it: a listed subset, to save time.
        rounds: at most.
        budget_s: no round begins later, but for the fewest that a ``Plan`` makes in any case.
        warmup: rounds that are not counted.
        stay: how often in a row a case runs in its turn, see ``Plan``.
    """

    cases: tuple[str, ...]
    models: tuple[str, ...]
    rounds: int = 60
    budget_s: float = 40.0
    warmup: int = 2
    stay: int = 1


@dataclass(frozen=True)
class Limit:
    """A wanted ratio of two cases' times: at most (or at least) ``bound``.

    Attributes:
        case: what is measured.
        over: what it is compared with: a case, ``ITS_P50`` (then it is the case's p99), ``SECOND``, or
            ``COPY`` (then it is the case's bandwidth).
        bound: of the ratio.
        at_least: whether the ratio must not be below instead.
        batch: images of the rows that it is meant for; None for all.
    """

    case: str
    over: str
    bound: float
    at_least: bool = False
    batch: int | None = None

    def holds(self, ratio: float) -> bool:
        return ratio >= self.bound if self.at_least else ratio <= self.bound


ITS_P50: Final = "its p50"
SECOND: Final = "1 s"
COPY: Final = "copy bandwidth"

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
        CaseSpec("two-1", "explain --layers 2, 1 prompt", "explain", 1, blocks=2),
        CaseSpec("two-10", "explain --layers 2, 10 prompts", "explain", 10, blocks=2),
        CaseSpec("four-1", "explain --layers 4, 1 prompt", "explain", 1, blocks=4),
        CaseSpec("four-10", "explain --layers 4, 10 prompts", "explain", 10, blocks=4),
        CaseSpec("all-1", "explain all layers, 1 prompt", "explain", 1, blocks=ALL),
        CaseSpec("concept-heads-1", "concept_attribution, heads, 1 prompt", "concept", 1),
        CaseSpec("concept-heads-10", "concept_attribution, heads, 10 prompts", "concept", 10),
        CaseSpec("concept-both-1", "concept_attribution, both, 1 prompt", "concept", 1, blocks=4),
        CaseSpec("concept-both-10", "concept_attribution, both, 10 prompts", "concept", 10, blocks=4),
        CaseSpec("eclip-1", "grad_eclip, 1 block, 1 prompt", "method", 1, method="grad_eclip"),
        CaseSpec("mmel-1", "mmel, 1 block, 1 prompt", "method", 1, method="mmel"),
        CaseSpec("eclip-four-1", "grad_eclip, 4 blocks, 1 prompt", "method", 1, blocks=4, method="grad_eclip"),
        CaseSpec("mmel-four-1", "mmel, 4 blocks, 1 prompt", "method", 1, blocks=4, method="mmel"),
        CaseSpec("eclip-four-10", "grad_eclip, 4 blocks, 10 prompts", "method", 10, blocks=4, method="grad_eclip"),
        CaseSpec("mmel-four-10", "mmel, 4 blocks, 10 prompts", "method", 10, blocks=4, method="mmel"),
        CaseSpec("network", "encoder in eager PyTorch", "network", 0),
        CaseSpec("eager-1", "eager PyTorch autograd, 1 prompt", "eager", 1),
        CaseSpec("eager-10", "eager PyTorch autograd, 10 prompts", "eager", 10),
        CaseSpec("rise", "RISE, 64 masks", "passes", 1),
        CaseSpec("eager-rise", "RISE in eager PyTorch", "eager-passes", 1),
        CaseSpec("kernel-shap", "Kernel SHAP, 64 passes", "passes", 1),
        CaseSpec("eager-kernel-shap", "Kernel SHAP in eager PyTorch", "eager-passes", 1),
        CaseSpec("m2ib", "M2IB, 10 steps of 10 copies", "passes", 1),
        CaseSpec("eager-m2ib", "M2IB in eager PyTorch, lower blocks once", "eager-passes", 1),
        CaseSpec("eager-m2ib-released", "M2IB in eager PyTorch as released, all blocks anew", "eager-passes", 1),
        CaseSpec("openvino-plain", "OpenVINO: plain encoder", "plain", 0, engine="openvino"),
        CaseSpec("openvino-10", "OpenVINO: explain, 10 prompts", "explain", 10, engine="openvino"),
        CaseSpec("openvino-bf16-plain", "OpenVINO, bf16: plain encoder", "plain", 0, engine="openvino-bf16"),
        CaseSpec("openvino-bf16-10", "OpenVINO, bf16: explain, 10 prompts", "explain", 10, engine="openvino-bf16"),
        CaseSpec("int8-10", "int8 bundle: explain, 10 prompts", "explain", 10, precision="int8"),
        CaseSpec("post-loop", "maps in eager torch, prompt after prompt", "post", 10),
        CaseSpec("post-batched", "maps in eager torch, all prompts at once", "post", 10),
        CaseSpec("post-numpy", "maps in NumPy", "post", 10),
        CaseSpec("post-triton", "maps in Triton", "post", 10),
        CaseSpec("copy", "copy of 256 MB", "large", 0),
        CaseSpec("normalize", "normalize, 64 images x 1000 prompts x 729 patches", "large", 1000),
        CaseSpec("upsample", "upsample, 64 images x 10 prompts to 480x640", "large", 10),
        CaseSpec("overlay", "overlay, 64 images x 10 prompts at 480x640", "large", 10),
        CaseSpec("engine-224", "engine alone, batches of 32: an image of 449", "throughput", 0),
        CaseSpec("curves-224", "deletion and insertion, 224 points: an image", "throughput", 1),
        CaseSpec("engine-10", "engine alone: an image of 21", "throughput", 0),
        CaseSpec("curves-10", "deletion and insertion, 10 points: an image", "throughput", 1),
        CaseSpec("engine-photo", "engine and preparation of photos: an image of 21", "throughput", 0),
        CaseSpec("curves-photo", "deletion and insertion, 10 points on the photo: an image", "throughput", 1),
        CaseSpec("cold-first", "process start to first map, first time on a machine", "cold", 1),
        CaseSpec("cold", "process start to first map", "cold", 1),
    )
}

MODELS: Final = {
    "b32": "ViT-B-32-quickgelu",
    "b16": "ViT-B-16-quickgelu",
    "l14": "ViT-L-14-quickgelu",
    "roads": "roads",
}
"""Short name -> name of the configuration."""

_EVERY = ("b32", "b16", "roads")
GROUPS: Final[dict[str, Group]] = {
    "last": Group(("plain", "encode", "explain-1", "explain-10", "explain-100", "call-1", "embedded-1"), _EVERY),
    # A camera's loop: what an explanation leaves behind slows its own next run. Side by side that is not seen.
    "loop": Group(("plain", "encode", "explain-1", "explain-10", "call-1"), _EVERY, budget_s=30.0, warmup=1, stay=4),
    "deep": Group(("plain", "two-1", "two-10", "four-1", "four-10", "all-1"), _EVERY, budget_s=30.0),
    "concept": Group(
        ("plain", "concept-heads-1", "concept-heads-10", "concept-both-1", "concept-both-10"), ("b16",), budget_s=25.0
    ),
    "mmel": Group(
        ("plain", "eclip-1", "mmel-1", "eclip-four-1", "mmel-four-1", "eclip-four-10", "mmel-four-10"),
        ("b16",),
        budget_s=40.0,
    ),
    "eager": Group(("plain", "explain-1", "explain-10", "eager-1", "eager-10"), _EVERY, budget_s=30.0),
    # A round takes half a minute with B/32: a few show the ratio, each is 64 passes. The gate has run each case once.
    "rise": Group(("rise", "eager-rise"), ("b32", "roads"), rounds=4, budget_s=25.0, warmup=1),
    "shap": Group(("kernel-shap", "eager-kernel-shap"), ("b32", "roads"), rounds=4, budget_s=25.0, warmup=1),
    "m2ib": Group(("m2ib", "eager-m2ib", "eager-m2ib-released"), ("b32", "roads"), rounds=4, budget_s=25.0, warmup=1),
    "openvino": Group(
        ("plain", "explain-10", "openvino-plain", "openvino-10", "openvino-bf16-plain", "openvino-bf16-10"),
        ("b32", "b16"),
        budget_s=25.0,
    ),
    "int8": Group(("plain", "explain-10", "int8-10"), ("b16",), budget_s=20.0),
    # Two sessions in turn. Of 300 rounds three may be slower than p99: fewer would make it the slowest of all.
    "turns": Group(("explain-10", "encode"), ("b16",), rounds=300, budget_s=60.0),
    "post": Group(("post-loop", "post-batched", "post-numpy"), ("b16",), rounds=300, budget_s=10.0),
    **{
        f"throughput-{points}": Group((f"engine-{points}", f"curves-{points}"), ("roads",), rounds=9, budget_s=10.0)
        for points in ("224", "10", "photo")
    },
    "cold": Group(("cold", "cold-first"), ("roads",), rounds=5),
}
"""Of the runner on the CPU; those of the GPU are in gpu.py."""

_PASSES: Final = tuple(Limit(f"eager-{name}", name, 2.0, at_least=True) for name in ("rise", "kernel-shap", "m2ib"))

LIMITS: Final[dict[str, tuple[Limit, ...]]] = {
    "b32": (
        Limit("explain-1", "plain", 0.97),
        Limit("explain-10", "plain", 0.97),
        Limit("explain-100", "plain", 1.12),
        Limit("eager-1", "explain-1", 1.8, at_least=True),
        Limit("eager-10", "explain-10", 2.5, at_least=True),
        *_PASSES,
    ),
    "b16": (
        Limit("explain-1", "plain", 0.95),
        Limit("explain-10", "plain", 0.95),
        Limit("explain-100", "plain", 1.00),
        Limit("call-1", "plain", 1.03),
        Limit("two-1", "plain", 1.00),
        Limit("two-10", "plain", 1.00),
        Limit("all-1", "plain", 1.95),
        Limit("concept-heads-1", "plain", 1.02),
        Limit("concept-both-1", "plain", 1.20),
        Limit("concept-both-10", "plain", 2.90),
        # The paper claims 1.15 over Grad-ECLIP at the same blocks.
        *(Limit(f"mmel-{case}", f"eclip-{case}", 1.03) for case in ("1", "four-1", "four-10")),
        Limit("eager-1", "explain-1", 1.35, at_least=True),
        Limit("eager-10", "explain-10", 2.1, at_least=True),
        # Wanted is fp32 >= 1.6 x int8, the same as this.
        Limit("int8-10", "explain-10", 1 / 1.6),
        Limit("explain-10", ITS_P50, 1.3),
    ),
    "roads": (
        Limit("cold-first", SECOND, 1.0),
        Limit("cold", SECOND, 1.0),
        # Wanted are 95 % of the engine's images per second, the same as this.
        *(Limit(f"curves-{points}", f"engine-{points}", 1 / 0.95) for points in ("224", "10", "photo")),
        *_PASSES,
    ),
}

GPU_LIMITS: Final[tuple[Limit, ...]] = (
    *(Limit(case, "plain", 1.05, batch=1) for case in ("explain-1", "explain-10")),
    *(Limit(case, "plain", 0.97, batch=64) for case in ("explain-1", "explain-10")),
    # Wanted are 10 x less time than the eager sequence, and two launches at most (LAUNCHES).
    Limit("post-triton", "post-loop", 0.1),
    *(Limit(case, COPY, 0.7, at_least=True) for case in ("normalize", "upsample", "overlay")),
)
"""On a GPU, for every model and precision."""

LAUNCHES: Final = {"post-triton": 2}
"""Most launches of a case."""


def select(group: str, only: Collection[str], model: str) -> tuple[str, ...]:
    """Cases of a group that are to run: those asked for with what they are compared with, or all.

    Args:
        group: a key of ``GROUPS``.
        only: names of cases; empty for what ``make bench`` runs with this model.
        model: a key of ``MODELS``.
    """
    spec = GROUPS[group]
    names = tuple(name for name in spec.cases if name != "embedded-1" or model == "roads")
    if not only and model not in spec.models:
        return ()
    wanted = {name for name in names if name != "plain" and (not only or name in only)}
    if not wanted:
        return ("plain",) if group == "last" and "plain" in only else ()
    bases = {names[0], *(base_of(name) for name in wanted)}
    return tuple(name for name in names if name in wanted | bases)


def base_of(case: str) -> str:
    """The case of ours that a case is held against; itself for one of these."""
    if case.startswith("eager-") and (ours := case.removeprefix("eager-").removesuffix("-released")) in CASES:
        return ours
    if case.startswith("mmel-"):
        return f"eclip-{case.removeprefix('mmel-')}"
    if case.startswith("curves-"):
        return f"engine-{case.removeprefix('curves-')}"
    for prefix in ("eager-", "int8-"):
        if case.startswith(prefix):
            return f"explain-{case.removeprefix(prefix)}"
    return case
