"""What is withheld from the image tower in training, so that its last block's map shows where things are.

Left to itself, a small ViT tells cones apart in its first blocks, broadcasts "cone" through its class token or to idle
patches in a corner, and reads it there: the last block then points at the corner. Three kinds of dropout make that
unreliable, and so the class token comes to read each object at its place. None of them changes the model, and none
knows what is where in a picture.
"""

from __future__ import annotations

import threading
from typing import Any

import torch


class LocalPatchDropout(torch.nn.Module):
    """Leaves out patches, as open_clip's ``PatchDropout`` does, and at times lets them see their neighbours alone.

    Args:
        grid: patches along one side.
        prob: share of patches left out.
        local: chance of a batch in which no patch attends to the class token or farther than ``reach`` patches away.
        reach: in patches, along either axis.
    """

    def __init__(self, grid: int, *, prob: float, local: float, reach: int = 2) -> None:
        super().__init__()
        self.prob, self.local = prob, local
        row, column = torch.arange(grid * grid) // grid, torch.arange(grid * grid) % grid
        far = (row[:, None] - row).abs().maximum((column[:, None] - column).abs()) > reach
        self.register_buffer("far", far, persistent=False)
        self._of_thread = threading.local()  # shards run through the one module at the same time

    @property
    def mask(self) -> torch.Tensor | None:
        """What to add to the attention's logits after the latest ``forward`` of this thread, [B, 1 + n, 1 + n]."""
        mask: torch.Tensor | None = getattr(self._of_thread, "mask", None)
        return mask

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens [B, 1 + N, C], class token first, less the patches that are left out."""
        self._of_thread.mask = None
        if not self.training:
            return x
        count = x.shape[1] - 1
        kept = torch.rand(len(x), count).topk(max(1, round(count * (1 - self.prob))), dim=1).indices
        if float(torch.rand(())) < self.local:
            assert isinstance(self.far, torch.Tensor)
            far = self.far[kept[:, :, None], kept[:, None, :]]
            hidden = torch.nn.functional.pad(far, (1, 0, 1, 0))
            hidden[:, 1:, 0] = True
            self._of_thread.mask = torch.zeros(hidden.shape).masked_fill_(hidden, float("-inf"))
        patches = x[:, 1:].gather(1, kept[:, :, None].expand(-1, -1, x.shape[2]))
        return torch.cat([x[:, :1], patches], dim=1)


def withhold(visual: Any, *, patches: float, local: float, forget: float) -> LocalPatchDropout:
    """Put all three kinds of dropout on an open_clip image tower; they act in training mode alone.

    Args:
        visual: the image tower.
        patches: share of patches left out.
        local: chance of a batch whose patches see their neighbours alone.
        forget: chance that a picture's class token is replaced by the batch's mean before the last block.

    Returns:
        The module that leaves out patches, whose ``prob`` may be changed as the run goes on.
    """
    dropout = LocalPatchDropout(visual.grid_size[0], prob=patches, local=local)
    visual.patch_dropout = dropout
    blocks = visual.transformer.resblocks

    def near(block: torch.nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[Any, ...] | None:
        mask = dropout.mask if block.training else None
        if mask is None:
            return None
        heads: Any = blocks[0].attn.num_heads
        return args, {**given, "attn_mask": mask.repeat_interleave(heads, dim=0)}

    def lose(block: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not block.training:
            return None
        x, *rest = args
        lost = torch.rand(len(x), 1, 1) < forget
        first = torch.where(lost, x[:, :1].mean(0, keepdim=True), x[:, :1])
        return (torch.cat([first, x[:, 1:]], dim=1), *rest)

    for block in blocks[:-1]:
        block.register_forward_pre_hook(near, with_kwargs=True)
    blocks[-1].register_forward_pre_hook(lose)
    return dropout
