"""Studies over a few scenes."""

from __future__ import annotations

import warnings

import pytest

from eyeshine.datasets import Roads
from eyeshine.errors import UnknownWordsWarning
from eyeshine.methods import METHODS
from eyeshine.study import PRESETS, Study, get_preset


@pytest.fixture(autouse=True)
def _words():
    """The tiny model knows few of the scenes' words."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnknownWordsWarning)
        yield


@pytest.fixture(scope="session")
def study_of():
    """A study of two methods over four small scenes; ``names`` are those of metrics, or of a preset."""

    def build(*names, texts="label", count=4, methods=("grad_eclip", "attention"), **given):
        preset = get_preset(names) if names else PRESETS["pointing"]
        data = Roads(count, texts=preset.texts if names[:1] and names[0] in PRESETS else texts, size=64)
        return Study(dataset=data, methods={name: METHODS[name] for name in methods}, preset=preset, **given)

    return build
