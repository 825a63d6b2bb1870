"""The same explanation the usual way: eager PyTorch, open_clip's own modules, one backward pass per prompt.

It does what released codes of Grad-ECLIP do: the trunk runs as it is, the last block's attention is written out so that
its output is at hand, and ``torch.autograd.grad`` is called for every prompt with the graph retained. Parameters
require gradients, as they do in a model that was just loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.nn import functional as F

from benchmarks.gate import Array, Case, Facts
from benchmarks.registry import CaseSpec

if TYPE_CHECKING:
    from benchmarks.workload import Workload

__all__ = ["DTYPES", "EagerExplainer", "grad_eclip_map", "make", "synchronize"]

DTYPES: Final = {"fp32": torch.float32, "fp16": torch.float16}
"""What an eager network may compute in."""


def make(spec: CaseSpec, workload: Workload, visual: Any, precision: str = "fp32") -> Case:
    """The encoder ("network") or the explanation ("eager") on the workload's device.

    Args:
        spec: of one of the two kinds.
        workload: inputs, device and oracle.
        visual: open_clip's image tower on that device and in that precision.
        precision: "fp32" or "fp16".
    """
    device = workload.device
    pixels = torch.from_numpy(workload.normalised).to(device, DTYPES[precision])
    text = torch.from_numpy(workload.text(max(spec.prompts, 1))).to(device, DTYPES[precision])
    explainer = EagerExplainer(visual)

    def run() -> Mapping[str, torch.Tensor]:
        found = explainer.explain(pixels, text) if spec.kind == "eager" else explainer.encode(pixels)
        synchronize(device)
        return found

    def probe() -> Mapping[str, Array]:
        out = {name: tensor.float().cpu().numpy() for name, tensor in run().items()}
        if "gradient" in out:
            out["gradient"] = out["gradient"][:, :, None]
        return workload.watched(out)

    facts = Facts(spec, f"torch {device}", precision)
    return Case(facts, run, probe, lambda: workload.expected(max(spec.prompts, 1)))


def synchronize(device: str) -> None:
    """Wait for the device; the CPU is never ahead."""
    if device != "cpu":
        torch.cuda.synchronize()


class EagerExplainer:
    """Explains a batch of images.

    Args:
        visual: open_clip's image tower, in evaluation mode.
    """

    def __init__(self, visual: Any) -> None:
        self.visual = visual

    def encode(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Normalised pixels [B, 3, Y, X] -> embedding [B, E], without autograd."""
        with torch.inference_mode():
            return {"embedding": F.normalize(self.visual(pixels), dim=-1)}

    def explain(self, pixels: torch.Tensor, text: torch.Tensor) -> dict[str, torch.Tensor]:
        """Normalised pixels [B, 3, Y, X], unit texts [P, E] -> similarity, gradient [B, P, D], maps [B, P, N]."""
        visual = self.visual
        tokens = self._embed(pixels)
        *trunk, last = visual.transformer.resblocks
        for block in trunk:
            tokens = block(tokens)
        query, key, value, mixed = _attention(last.attn, last.ln_1(tokens))
        tokens = tokens + last.ls_1(last.attn.out_proj(mixed))
        tokens = tokens + last.ls_2(last.mlp(last.ln_2(tokens)))
        unit = F.normalize(visual.ln_post(tokens)[:, 0] @ visual.proj, dim=-1)
        similarity = unit @ text.T
        gradients, maps = [], []
        for prompt in range(len(text)):
            # Images of a batch do not interact: the gradient of the sum is each image's own.
            (gradient,) = torch.autograd.grad(similarity[:, prompt].sum(), mixed, retain_graph=True)
            with torch.no_grad():
                gradients.append(gradient[:, 0])
                maps.append(grad_eclip_map(gradient[:, 0], query[:, 0], key[:, 1:], value[:, 1:]))
        return {
            "similarity": similarity.detach(),
            "gradient": torch.stack(gradients, dim=1),
            "maps": torch.stack(maps, dim=1),
        }

    def _embed(self, pixels: torch.Tensor) -> torch.Tensor:
        visual = self.visual
        patches = visual.conv1(pixels).flatten(2).transpose(1, 2)
        first = visual.class_embedding.to(patches.dtype).expand(len(pixels), 1, -1)
        positions = visual.positional_embedding.to(patches.dtype)
        embedded: torch.Tensor = visual.ln_pre(torch.cat([first, patches], dim=1) + positions)
        return embedded


def _attention(module: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Query, key, value and attention output before the output projection, each [B, T, D]."""
    query, key, value = F.linear(x, module.in_proj_weight, module.in_proj_bias).chunk(3, dim=-1)
    images, length, width = x.shape
    q, k, v = (t.reshape(images, length, module.num_heads, -1).transpose(1, 2) for t in (query, key, value))
    attention = (q @ k.transpose(-2, -1) / (width // module.num_heads) ** 0.5).softmax(dim=-1)
    mixed = (attention @ v).transpose(1, 2).reshape(images, length, width)
    return query, key, value, mixed


def grad_eclip_map(
    gradient: torch.Tensor, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> torch.Tensor:
    """relu(<gradient, V_i>) * minmax_i cos(query, K_i): [B, D], [B, D], [B, N, D], [B, N, D] -> [B, N]."""
    cosine = F.cosine_similarity(query[:, None], keys, dim=-1)
    low, high = cosine.amin(dim=-1, keepdim=True), cosine.amax(dim=-1, keepdim=True)
    return F.relu((gradient[:, None] * values).sum(dim=-1)) * (cosine - low) / (high - low)
