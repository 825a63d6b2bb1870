"""M2IB the usual way: open_clip's blocks, autograd and ``torch.optim.Adam``, with the same settings and noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from eyeshine.methods.m2ib import M2ib

if TYPE_CHECKING:
    from benchmarks.eager_methods import EagerTower

__all__ = ["eager_m2ib"]


def eager_m2ib(options: M2ib, *, again: bool) -> Callable[[EagerTower, torch.Tensor, torch.Tensor], torch.Tensor]:
    """A normalised image [3, Y, X] and unit texts [P, E] to maps [P, N].

    Args:
        options: settings.
        again: run the whole image tower for every copy in every step, as the released code does (it runs the text tower
            as well, which is left out here), rather than the tokens below the bottleneck once, as eyeshine does.
    """

    def explain(tower: EagerTower, pixels: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        blocks = list(tower.visual.transformer.resblocks)
        below, above = blocks[: -options.blocks], blocks[-options.blocks :]
        image = pixels[None]
        copies = image.expand(options.copies, -1, -1, -1)
        # Gradients of weights would be computed for nothing.
        with _frozen(tower.visual), torch.enable_grad():
            once = None if again else _tokens(tower.visual, below, image)

            def tokens_of() -> torch.Tensor:
                return _tokens(tower.visual, below, copies) if once is None else once

            return torch.stack([_map(tower.visual, above, options, one, tokens_of) for one in text])

    return explain


def _map(
    visual: Any, above: list[Any], options: M2ib, text: torch.Tensor, tokens_of: Callable[[], torch.Tensor]
) -> torch.Tensor:
    """The map [N] of one text [E]: that of the last forward pass."""
    random = np.random.default_rng(options.seed)
    alpha = torch.full_like(tokens_of()[0], options.start).requires_grad_()
    adam = torch.optim.Adam([alpha], lr=options.rate)
    information = torch.empty(0)
    for _ in range(options.steps):
        tokens, share = tokens_of(), torch.sigmoid(alpha)
        noise = torch.from_numpy(random.standard_normal((options.copies, *alpha.shape), np.float32))
        state = share * tokens + (1 - share) * noise
        for block in above:
            state = block(state)
        unit = F.normalize(visual.ln_post(state[:, 0]) @ visual.proj, dim=-1)
        rest = 1 - share
        information = -0.5 * (1 + 2 * torch.log(rest) - (share * tokens[0]) ** 2 - rest**2)
        loss: Any = options.beta * information.mean() - (unit @ text).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    return information.detach().nansum(-1)[1:]


@torch.no_grad()
def _tokens(visual: Any, below: list[Any], pixels: torch.Tensor) -> torch.Tensor:
    """Tokens [B, T, D] below the bottleneck."""
    patches = visual.conv1(pixels).flatten(2).transpose(1, 2)
    first = visual.class_embedding.expand(len(pixels), 1, -1)
    tokens: torch.Tensor = visual.ln_pre(torch.cat([first, patches], dim=1) + visual.positional_embedding)
    for block in below:
        tokens = block(tokens)
    return tokens


@contextmanager
def _frozen(visual: Any) -> Iterator[None]:
    """Other cases of the same tower time gradients with parameters that require them."""
    parameters = [parameter for parameter in visual.parameters() if parameter.requires_grad]
    visual.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_()
