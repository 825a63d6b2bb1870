"""What a CLIP is made of: the sizes and kinds of both towers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from eyeshine.clean import Cleaning
from eyeshine.errors import ExportError

__all__ = ["Activation", "ClipConfig", "PoolerConfig", "TextConfig", "TowerConfig", "VisionConfig"]

Activation = Literal["gelu", "quick_gelu", "gelu_tanh"]
Pool = Literal["class", "average", "latent"]
"""What an image's embedding is made of: the class token, the mean over the patches, or a learned query's attention."""
TextPool = Literal["end", "last", "appended"]
"""What a text's embedding is made of: its end token, the last place of the context, or a token put behind it (CoCa)."""


@dataclass(frozen=True)
class TowerConfig:
    """What both towers share.

    Attributes:
        width: D.
        layers: number of blocks.
        heads: H, a divisor of the width.
        activation: of the MLP.
        eps: of every LayerNorm.
    """

    width: int
    layers: int
    heads: int
    activation: Activation
    eps: float

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads"):
            if getattr(self, name) < 1:
                raise ExportError(f"{name} must be positive", got=getattr(self, name))
        if self.width % self.heads:
            raise ExportError("heads do not divide the width", got=f"width {self.width}, heads {self.heads}")


@dataclass(frozen=True)
class PoolerConfig(TowerConfig):
    """An attention whose query is learned, over the tokens of a tower; its first query's row is the embedding's.

    Attributes:
        mlp: whether an MLP with its LayerNorm follows (SigLIP), or nothing (CoCa).
    """

    mlp: bool


@dataclass(frozen=True)
class VisionConfig(TowerConfig):
    """An image tower.

    Attributes:
        image_size: (height, width) in pixels.
        patch_size: (height, width) in pixels.
        pre_norm: whether there is a LayerNorm before the first block.
        class_token: whether a class token stands before the patches.
        pool: what the embedding is made of.
        norm_after_pool: whether the last LayerNorm comes after the mean over the patches; of ``pool`` "average" alone.
        pooler: the attention of ``pool`` "latent".
    """

    image_size: tuple[int, int]
    patch_size: tuple[int, int]
    pre_norm: bool
    class_token: bool = True
    pool: Pool = "class"
    norm_after_pool: bool = False
    pooler: PoolerConfig | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.grid) < 1:
            raise ExportError("image holds no whole patch", got=f"image {self.image_size}, patch {self.patch_size}")
        if (self.pool == "latent") != (self.pooler is not None) or (self.pool == "class" and not self.class_token):
            raise ExportError("image tower and its pooling do not fit together", got=self.pool)

    @property
    def depth(self) -> int:
        """Blocks, a pooler counted as the last of them."""
        return self.layers + (self.pooler is not None)

    @property
    def grid(self) -> tuple[int, int]:
        """Patches (down, across); open_clip drops pixels that do not fill a patch."""
        return self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1]


@dataclass(frozen=True)
class TextConfig(TowerConfig):
    """A text tower.

    Attributes:
        context_length: tokens at most, start and end included.
        vocab_size: number of token ids.
        end_id: of ``pool`` "end": id of the end-of-text token, None where it is the largest id of a text.
        pool: what the embedding is made of.
        causal: whether a token attends to earlier ones only.
        pad_id: id that the appended token does not attend to.
        tokenizer: name of the tokenizer, where it is not CLIP's own.
        clean: what is done to a text before that tokenizer.
        projection: whether a matrix takes the row to the joint space, or it is there already.
        strip_end: whether its end token is taken for padding (CLIPA).
    """

    context_length: int
    vocab_size: int
    end_id: int | None
    pool: TextPool = "end"
    causal: bool = True
    pad_id: int = 0
    tokenizer: str | None = None
    clean: Cleaning = "whitespace"
    projection: bool = True
    strip_end: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pool == "appended" and not self.causal:
            raise ExportError("text tower and its pooling do not fit together", got="an appended token without a mask")

    @property
    def whole_context(self) -> bool:
        """Whether every text takes all places of the context: padding changes its embedding."""
        return not self.causal or self.pool != "end"


@dataclass(frozen=True)
class ClipConfig:
    """Both towers and the joint space of dimension ``embed_dim``."""

    name: str
    embed_dim: int
    vision: VisionConfig
    text: TextConfig

    def __post_init__(self) -> None:
        if self.embed_dim < 1:
            raise ExportError("embed_dim must be positive", got=self.embed_dim)

    @property
    def plain(self) -> bool:
        """Whether a class token stands for the image and the end token, under a causal mask, for the text."""
        return self.vision.pool == "class" and not self.text.whole_context
