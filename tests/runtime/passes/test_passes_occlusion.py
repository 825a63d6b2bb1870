"""Occlusion and blur against loops over windows and open_clip's own model."""

from __future__ import annotations

import numpy as np
import pytest

from eyeshine.errors import OptionError
from eyeshine.fills import blurred
from eyeshine.methods.occlusion import Blur, Occlusion, windows
from oracle import relative

TEXTS = ["a red car", "the dog", "a tree"]


def slow_map(ask, image, other, places, window):
    """[P, 4, 4]: the mean drop over the windows that cover a patch; ``places`` are the windows' upper left patches."""
    frames = []
    for row, column in places:
        frame = image.copy()
        place = (slice(None), slice(row * 8, (row + window) * 8), slice(column * 8, (column + window) * 8))
        frame[place] = other[place]
        frames.append(frame)
    drops = ask([image])[0] - ask(frames)
    result = np.zeros((3, 4, 4))
    for i in range(4):
        for j in range(4):
            covering = [
                drop
                for drop, (row, column) in zip(drops, places, strict=True)
                if row <= i < row + window and column <= j < column + window
            ]
            result[:, i, j] = np.mean(covering, axis=0)
    return result


ALL_OF_TWO = [(row, column) for row in range(3) for column in range(3)]


@pytest.mark.parametrize(
    ("method", "places"),
    [
        (Occlusion(window=2), ALL_OF_TWO),
        (Occlusion(window=2, fill="black"), ALL_OF_TWO),
        (Occlusion(window=3, stride=3), [(row, column) for row in (0, 1) for column in (0, 1)]),  # flush with the edge
        (Blur(window=2), ALL_OF_TWO),
    ],
)
def test_the_map_is_the_mean_drop_over_covering_windows(tiny, photo, ask, pixels, mean, method, places):
    image = pixels()
    other = {
        "mean": lambda: np.broadcast_to(mean, image.shape),
        "black": lambda: np.zeros_like(image),
        "blur": lambda: blurred(image.astype(np.float32), mean[:, 0, 0].astype(np.float32)).astype(np.float64),
    }[method.fill]()
    got = tiny.explain(photo(), TEXTS, method=method, max_batch=4)
    assert relative(got.maps[0], slow_map(ask, image, other, places, method.window)) <= 1e-4
    assert got.details["passes"]["encoded"] == len(places) + 2  # the image twice: once for the similarities


def test_windows_cover_every_patch_whatever_the_stride():
    for window in (1, 2, 3, 9):
        for stride in range(1, window + 1):
            found = windows((5, 7), window, stride)
            assert found.any(axis=0).all()
            assert (found.sum(axis=(1, 2)) == min(window, 5) * min(window, 7)).all()
            assert len(np.unique(found, axis=0)) == len(found)


@pytest.mark.parametrize("settings", [{"window": 0}, {"stride": 4}, {"fill": "random"}])
def test_settings_check_themselves(settings):
    with pytest.raises(OptionError, match=next(iter(settings))):
        Occlusion(**settings)
