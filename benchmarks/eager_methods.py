"""Methods by passes the usual way: eager PyTorch, open_clip's own image tower, the same masks in batches of 32.

What released codes do: masks and masked images are made batch by batch in torch, ``no_grad``, one forward pass a batch,
maps at pixel resolution. Ours takes its default, batches of 8 on a CPU; with these eager PyTorch is no faster: 17.9 ms
an image, 17.3 in batches of 32 (roads). A method is added by a ``Trial`` here and two cases in the registry; M2IB,
whose released code runs blocks over and over that never change, has a second eager version, as released.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.nn import functional as F

from benchmarks.eager_m2ib import eager_m2ib
from benchmarks.gate import Array, Case, Facts
from benchmarks.passes_oracle import kernel_shap_map, m2ib_map, rise_map
from eyeshine.bundle import Bundle
from eyeshine.encoding import BundleModel, Encoder, default_batch
from eyeshine.engine import EngineOptions
from eyeshine.methods import KernelShap, M2ib, PassesMethod, Rise
from eyeshine.methods.kernel_shap import coalitions, superpatches
from eyeshine.methods.passes import Subject
from eyeshine.methods.rise import draw_masks
from eyeshine.sessions import Sessions

if TYPE_CHECKING:
    from benchmarks.registry import CaseSpec
    from benchmarks.workload import Workload

__all__ = ["TRIALS", "EagerTower", "Trial", "eager_case", "our_case"]

_BATCH = 32
_PASSES = 64  # time is linear in them
_TOLERANCE = 1e-3
"""Maps are differences of cosines that differ by hundredths under random weights: a relative error of theirs is that of
the cosines (1e-6 to 1e-5) times up to a hundred."""


@dataclass(frozen=True)
class EagerTower:
    """open_clip's image tower in evaluation mode.

    Attributes:
        visual: the tower.
        grid, patch: patches (down, across), and their size in pixels.
    """

    visual: Any
    grid: tuple[int, int]
    patch: tuple[int, int]

    def scores(self, frames: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Cosines [n, P] of normalised images [n, 3, Y, X] and unit texts [P, E]."""
        return F.normalize(self.visual(frames), dim=-1) @ text.T


@dataclass(frozen=True)
class Trial:
    """One method, ours and the usual way.

    Attributes:
        method: ours, with the settings of both.
        eager: a normalised image [3, Y, X] and unit texts [P, E] to maps [P, N].
        expected: the same by an oracle that neither shares: the workload, and one image [3, Y, X] in 0..1.
        groups: of graphs that the bundle needs beside those that all have.
    """

    method: PassesMethod
    eager: Callable[[EagerTower, torch.Tensor, torch.Tensor], torch.Tensor]
    expected: Callable[[Workload, Array], Array]
    groups: tuple[str, ...] = ()


def our_case(spec: CaseSpec, workload: Workload, bundle: Bundle, options: EngineOptions) -> Case:
    """The method on the bundle, from the model's input to a map."""
    trial, sessions = TRIALS[spec.name], Sessions(bundle, options, check=False)
    subject = Subject(workload.pixels[0], 0, workload.text(spec.prompts))

    def run() -> Mapping[str, Array]:
        model = BundleModel(bundle, sessions, Encoder(sessions.get("encode"), options, default_batch(options)))
        model.begin()
        maps = trial.method.explain(subject, model)
        return {"maps": maps.reshape(1, len(maps), -1)}

    facts = Facts(spec, sessions.get("encode").provider, options.precision(bundle.manifest.precision), bundle.hash)
    return Case(facts, run, run, lambda: {"maps": trial.expected(workload, workload.pixels[0])}, _TOLERANCE)


def eager_case(spec: CaseSpec, workload: Workload, visual: Any) -> Case:
    """The method in eager PyTorch."""
    trial, vision = TRIALS[spec.name.removeprefix("eager-")], workload.source.config.vision
    tower = EagerTower(visual, vision.grid, vision.patch_size)
    pixels, text = (torch.from_numpy(x) for x in (workload.normalised[0], workload.text(spec.prompts)))

    def run() -> Mapping[str, Array]:
        with torch.no_grad():
            return {"maps": trial.eager(tower, pixels, text)[None].numpy()}

    facts = Facts(spec, f"torch {workload.device}")
    return Case(facts, run, run, lambda: {"maps": trial.expected(workload, workload.pixels[0])}, _TOLERANCE)


def _batches(count: int) -> Iterator[slice]:
    return (slice(start, start + _BATCH) for start in range(0, count, _BATCH))


def _rise(options: Rise) -> Callable[[EagerTower, torch.Tensor, torch.Tensor], torch.Tensor]:
    def explain(tower: EagerTower, pixels: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        size = pixels.shape[1:]
        grids, shifts = (torch.from_numpy(x) for x in draw_masks(options, (int(size[0]), int(size[1]))))
        weighed, shown, total = torch.zeros(len(text), *size), torch.zeros(size), torch.zeros(len(text))
        for rows in _batches(options.masks):
            masks = _enlarged(grids[rows], shifts[rows], options.cells, size)
            scores = tower.scores(pixels * masks, text)
            weighed += torch.einsum("np,nyx->pyx", scores, masks[:, 0])
            shown += masks[:, 0].sum(dim=0)
            total += scores.sum(dim=0)
        centred = weighed - (total / options.masks)[:, None, None] * shown
        maps = centred / (options.masks * options.probability)
        return F.avg_pool2d(maps[None], tower.patch)[0].flatten(1)

    return explain


def _enlarged(grids: torch.Tensor, shifts: torch.Tensor, cells: int, size: torch.Size) -> torch.Tensor:
    """Masks [n, 1, Y, X]: the grids enlarged bilinearly, mirrored at their edges, cut out at the shifts."""
    places = []
    for axis, length in enumerate(size):
        full = (cells + 1) * -(-length // cells)
        at = (torch.arange(length) + shifts[:, axis, None] + 0.5) * (cells / full) - 0.5
        places.append(2 * at / (cells - 1) - 1)  # -1 and 1 are the centres of the outermost cells
    down, across = places
    shape = (len(grids), *size)
    where = torch.stack([across[:, None].expand(shape), down[:, :, None].expand(shape)], dim=-1).float()
    return F.grid_sample(grids[:, None], where, "bilinear", "reflection", align_corners=True)


def _kernel_shap(options: KernelShap) -> Callable[[EagerTower, torch.Tensor, torch.Tensor], torch.Tensor]:
    def explain(tower: EagerTower, pixels: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        square = torch.from_numpy(superpatches(tower.grid, options.side))
        feature = square.repeat_interleave(tower.patch[0], 0).repeat_interleave(tower.patch[1], 1)
        count = int(square.max()) + 1
        drawn, weights = (torch.from_numpy(x) for x in coalitions(count, options))
        chosen = torch.cat([torch.zeros(1, count), torch.ones(1, count), drawn.float()])
        scores = torch.cat(
            [tower.scores(pixels * chosen[rows][:, feature][:, None], text) for rows in _batches(len(chosen))]
        )
        # The ends hold by a weight that nothing outweighs, as captum's do.
        root = torch.cat([torch.full((2,), 1e8), weights]).sqrt()[:, None]
        design = torch.cat([torch.ones(len(chosen), 1), chosen], dim=1).double()
        values: torch.Tensor = torch.linalg.lstsq(root * design, root * scores.double()).solution[1:].T
        return (values / torch.bincount(square.flatten()))[:, square.flatten()].float()

    return explain


_RISE: Final = Rise(masks=_PASSES)
_SHAP: Final = KernelShap(samples=_PASSES - 2, side=3)
_M2IB: Final = M2ib()


def _m2ib(*, again: bool) -> Trial:
    eager = eager_m2ib(_M2IB, again=again)
    return Trial(_M2IB, eager, lambda workload, pixels: m2ib_map(workload, pixels, _M2IB), ("hidden",))


TRIALS: Final[dict[str, Trial]] = {
    "rise": Trial(_RISE, _rise(_RISE), lambda workload, pixels: rise_map(workload, pixels, _RISE)),
    "kernel-shap": Trial(_SHAP, _kernel_shap(_SHAP), lambda workload, pixels: kernel_shap_map(workload, pixels, _SHAP)),
    "m2ib": _m2ib(again=False),
    "m2ib-released": _m2ib(again=True),
}
"""By the name of our case; the eager one's is "eager-" and the same, or "-released" after it."""
