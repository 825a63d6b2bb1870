"""Import open_clip where torchvision has no compiled operators.

A CPU build of torch beside torchvision from the registry fails at ``import open_clip`` with "operator
torchvision::nms does not exist" (pytorch/vision#9085). Nothing here calls those operators, so declaring their
schemas is enough.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_keep: list[Any] = []  # a torch.library.Library undoes its definitions when it is collected


def import_open_clip() -> ModuleType:
    """Return the ``open_clip`` module, declaring torchvision's missing operators first where they are missing."""
    if not _keep:
        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for name in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, name):
                library.define(f"{name}{_SCHEMA}")  # type: ignore[no-untyped-call]
        _keep.append(library)
    import open_clip

    module: ModuleType = open_clip
    return module
