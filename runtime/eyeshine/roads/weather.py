"""Light and weather over a drawn scene: dimming, tint, haze, rain, flakes and sensor noise."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from eyeshine.roads.draw import LAMP

_TINT: dict[str, tuple[float, float, float]] = {
    "day": (1.0, 1.0, 1.0),
    "dusk": (0.92, 0.72, 0.66),
    "night": (0.40, 0.44, 0.58),
}
_OVERCAST = {"clear": 1.0, "rain": 0.86, "fog": 1.0, "snow": 0.97}
_HAZE = {"clear": 0.0, "rain": 0.16, "fog": 0.62, "snow": 0.2}


@lru_cache(maxsize=1)
def _noise_bank() -> npt.NDArray[np.float32]:
    """Unit noise, float32 [512, 512, 3]; drawing it once is ten times cheaper than once a scene."""
    return np.random.default_rng(7).standard_normal((512, 512, 3), dtype=np.float32)


def _noise(size: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    bank = _noise_bank()
    down, right = (int(k) for k in rng.integers(256, size=2))
    if size <= 256:
        return bank[down : down + size, right : right + size]
    rows, columns = (np.arange(size) + down) % len(bank), (np.arange(size) + right) % len(bank)
    return bank[rows][:, columns]


def _falling(size: int, weather: str, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """How much of each pixel a rain streak or a snowflake covers, float32 [H, W, 1]."""
    layer = Image.new("L", (size, size), 0)
    draw = ImageDraw.Draw(layer)
    slant = float(rng.uniform(-0.02, 0.02))
    for x, y, z in rng.random((90, 3)) * (size, size, 1.0):
        if weather == "rain":
            length = (0.03 + 0.05 * z) * size
            draw.line((x, y, x + slant * size, y + length), fill=int(60 + 60 * z), width=max(1, size // 224))
        else:
            radius = (0.0025 + 0.005 * z) * size
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=int(150 + 100 * z))
    return np.asarray(layer, dtype=np.float32)[:, :, None] / np.float32(255)


def expose(
    picture: npt.NDArray[np.uint8],
    numbers: npt.NDArray[np.uint8],
    horizon: float,
    weather: str,
    light: str,
    rng: np.random.Generator,
) -> npt.NDArray[np.uint8]:
    """The picture as a camera would take it in this light and weather.

    Args:
        picture: uint8 [H, W, 3] in plain daylight.
        numbers: uint8 [H, W]; pixels flagged with ``LAMP`` keep their brightness at night.
        horizon: its y, as a fraction; haze is thickest there.
        weather, light: words from the vocabulary.
        rng: decides streaks, flakes, noise and exposure.

    Returns:
        uint8 [H, W, 3].
    """
    size = picture.shape[0]
    out = picture.astype(np.float32)
    tint = np.asarray(_TINT[light], dtype=np.float32) * _OVERCAST[weather]
    if light != "day" or weather != "clear":
        glow = (numbers >= LAMP)[:, :, None] & (light != "day")
        out *= np.where(glow, np.float32(1), tint)
    if weather != "clear":
        rows = (np.arange(size, dtype=np.float32) + 0.5) / size
        nearness = np.clip((rows - horizon) / (1 - horizon), 0, 1)
        alpha = (_HAZE[weather] * (1 - 0.75 * nearness))[:, None, None].astype(np.float32)
        out += alpha * (np.float32(206) * tint - out)
    if weather in ("rain", "snow"):
        fall = _falling(size, weather, rng)
        out += fall * (np.float32(245) * (0.6 + 0.4 * tint) - out)
    out *= np.float32(rng.uniform(0.9, 1.1))
    out += np.float32(rng.uniform(1.0, 5.0)) * _noise(size, rng)
    return np.clip(out, 0, 255).astype(np.uint8)
