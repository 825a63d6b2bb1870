"""Overlays mix photograph and colour as documented; sheets hold their cells and captions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from eyeshine.errors import OptionError, OutputError
from eyeshine.render import COLOURS, overlay, resize, save_png, sheet

RNG = np.random.default_rng(5)
PHOTO = RNG.integers(0, 256, (20, 256, 3), dtype=np.uint8)
RAMP = np.tile(np.linspace(0, 1, 256, dtype=np.float32), (20, 1))


def luminance(rgb: np.ndarray) -> np.ndarray:
    linear = (rgb / 255.0) ** 2.2
    return linear @ [0.2126, 0.7152, 0.0722]


def test_colours_rise_in_lightness_all_the_way():
    assert COLOURS.shape == (256, 3)
    assert COLOURS.dtype == np.uint8
    assert (np.diff(luminance(COLOURS)) > -1e-3).all()
    assert luminance(COLOURS)[::32].tolist() == sorted(luminance(COLOURS)[::32])
    assert luminance(COLOURS[-1]) > 0.8
    assert luminance(COLOURS[0]) < 0.02
    assert not COLOURS.flags.writeable


@pytest.mark.parametrize("matrix", [
    [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
], ids=["protanopia", "deuteranopia"])  # fmt: skip
def test_colours_keep_their_order_for_the_colour_blind(matrix):
    """Machado et al. 2009, full severity."""
    seen = np.clip(((COLOURS / 255.0) ** 2.2) @ np.array(matrix).T, 0, 1) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(seen[::8]) > 0).all()


def test_no_heat_leaves_the_photograph():
    same = overlay(PHOTO, np.zeros((20, 256), np.float32), mute=0.0)
    np.testing.assert_array_equal(np.asarray(same), PHOTO)


def test_full_heat_at_full_alpha_is_the_colour():
    got = overlay(PHOTO, np.ones((20, 256), np.float32), alpha=1.0)
    assert np.asarray(got)[3, 7].tolist() == COLOURS[255].tolist()


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9, 1.0])
def test_blend_equals_the_formula(alpha):
    got = np.asarray(overlay(PHOTO, RAMP, alpha=alpha, mute=0.0)).astype(float)
    share = (alpha * RAMP * RAMP * (3 - 2 * RAMP))[:, :, None]
    np.testing.assert_allclose(got, PHOTO * (1 - share) + COLOURS[None] * share, atol=1.6)


def test_muting_takes_the_photograph_to_grey():
    cold = np.zeros((20, 256), np.float32)
    grey = np.asarray(overlay(PHOTO, cold, mute=1.0))
    assert (grey == grey[:, :, :1]).all()
    np.testing.assert_array_equal(grey[:, :, 0], np.asarray(Image.fromarray(PHOTO).convert("L")))
    half = np.asarray(overlay(PHOTO, cold, mute=0.5)).astype(int)
    assert np.abs(half - (PHOTO.astype(int) + grey) / 2).max() <= 1


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.floats(0, 1))
def test_hotter_is_nearer_to_the_colour(height, width, cooler, hotter):
    cooler, hotter = sorted((cooler, hotter))
    image = np.zeros((height, width, 3), np.uint8)
    first, second = (overlay(image, np.full((height, width), value, np.float32)) for value in (cooler, hotter))
    assert first.size == (width, height)
    assert first.mode == "RGB"
    assert luminance(np.asarray(second)).mean() >= luminance(np.asarray(first)).mean() - 1e-3


def test_rounding_just_outside_the_range_is_accepted():
    heat = np.array([[-1e-6, 1.000001]], np.float32)
    got = np.asarray(overlay(np.zeros((1, 2, 3), np.uint8), heat, alpha=1.0))
    assert got.tolist() == [[[0, 0, 0], COLOURS[255].tolist()]]


def test_the_image_is_not_changed():
    before = PHOTO.copy()
    overlay(PHOTO, RAMP)
    np.testing.assert_array_equal(PHOTO, before)


@pytest.mark.parametrize("value", [-0.1, 1.1, np.nan, np.inf])
def test_heat_outside_the_range_is_refused(value):
    heat = RAMP.copy()
    heat[4, 5] = value
    with pytest.raises(OptionError, match=r"0\.\.1; cure"):
        overlay(PHOTO, heat)


@pytest.mark.parametrize("wrong", [{"alpha": -0.1}, {"alpha": 1.5}, {"mute": 2.0}, {"mute": float("nan")}])
def test_shares_are_checked(wrong):
    with pytest.raises(OptionError, match=next(iter(wrong))):
        overlay(PHOTO, RAMP, **wrong)


@pytest.mark.parametrize("image", [PHOTO[1:], PHOTO[:, :, 0], PHOTO / 255.0])
def test_image_and_heat_must_match(image):
    with pytest.raises(OptionError, match="do not match"):
        overlay(image, RAMP)


def test_resize_scales_to_height_and_width():
    halves = np.zeros((20, 30, 3), np.uint8)
    halves[:, 15:] = 255
    got = resize(halves, (40, 90))
    assert got.shape == (40, 90, 3)
    assert got.dtype == np.uint8
    assert (got[:, :30] == 0).all()
    assert (got[:, 60:] == 255).all()
    with pytest.raises(OptionError, match="image size"):
        resize(halves, (0, 5))


RED, BLUE = Image.new("RGB", (40, 30), "red"), Image.new("RGB", (30, 60), "blue")


def count(page: Image.Image, colour: tuple[int, int, int]) -> int:
    return int((np.asarray(page) == colour).all(axis=2).sum())


def ink(page: Image.Image) -> int:
    return int((np.asarray(page.convert("L")) < 60).sum())


def test_sheet_holds_every_picture_in_full():
    page = sheet([("red", RED), ("blue", BLUE), ("red again", RED)], columns=2, cell_width=80, legend=False)
    assert page.width == 2 * 80 + 16 + 2 * 16
    assert count(page, (255, 0, 0)) == 2 * 80 * 60
    assert count(page, (0, 0, 255)) == 80 * 160


def test_sheet_has_no_empty_columns():
    assert sheet([("red", RED)], columns=5, cell_width=80).width == 80 + 2 * 16


def test_captions_and_title_are_drawn():
    white = Image.new("RGB", (40, 30), "white")
    bare = sheet([("", white)], legend=False)
    captioned = sheet([("a cat", white)], legend=False)
    titled = sheet([("a cat", white)], title="Where CLIP looked", legend=False)
    assert ink(bare) == 0
    assert 0 < ink(captioned) < ink(titled)
    assert titled.height > captioned.height


def test_long_captions_wrap_and_stay_in_their_column():
    white = Image.new("RGB", (40, 30), "white")
    page = sheet([("word " * 200, white), ("", white), ("x" * 500, white)], columns=3, cell_width=120, legend=False)
    dark = np.asarray(page.convert("L")) < 60
    assert not dark[:, 16 + 120 : 16 + 2 * (120 + 16)].any()
    assert not dark[:, 16 + 3 * 120 + 2 * 16 + 1 :].any()
    assert dark[:, 16:136].sum() > 500
    assert page.height < 250


def test_legend_shows_the_colours():
    page = sheet([("red", RED)], cell_width=600)
    without = sheet([("red", RED)], cell_width=600, legend=False)
    assert page.height > without.height
    for level in (0, 100, 200, 255):
        colour = tuple(COLOURS[level].tolist())
        assert count(page, colour) > 0
        assert count(without, colour) == 0


@pytest.mark.parametrize("caption", ["", "   ", "猫", "line\nbreak", "e\u0301 👩‍🚀"])
def test_any_caption_can_be_drawn(caption):
    assert sheet([(caption, RED)], cell_width=64).width == 64 + 32


def test_sheet_options_are_checked():
    with pytest.raises(OptionError, match="1 or more cells"):
        sheet([])
    for wrong in ({"columns": 0}, {"cell_width": 10}):
        with pytest.raises(OptionError, match="not a sheet"):
            sheet([("red", RED)], **wrong)


def test_saved_picture_reads_back_equal(tmp_path):
    picture = overlay(PHOTO, RAMP)
    save_png(picture, tmp_path / "heat.png")
    with Image.open(tmp_path / "heat.png") as read:
        assert read.format == "PNG"
        np.testing.assert_array_equal(np.asarray(read), np.asarray(picture))


def test_unwritable_output_is_named(tmp_path):
    for path in (tmp_path / "missing" / "heat.png", tmp_path, "null\0.png"):
        with pytest.raises(OutputError, match="cannot write"):
            save_png(RED, path)
