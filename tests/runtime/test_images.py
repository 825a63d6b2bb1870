"""Every kind of source becomes the same 8-bit RGB; everything else is refused with a reason."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from eyeshine.errors import ImageError
from eyeshine.images import load_image

RNG = np.random.default_rng(3)
RGB = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
GREY = RGB[:, :, 0]


def encoded(image: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, **{"format": "PNG"} | options)
    return file.getvalue()


def grey_as_rgb(grey: np.ndarray) -> np.ndarray:
    return np.stack([grey] * 3, axis=2)


@pytest.fixture
def png(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(Image.fromarray(RGB)))
    return path


def test_every_way_to_name_an_image_gives_the_same(png):
    with png.open("rb") as file:
        got = [load_image(source) for source in (png, str(png), png.read_bytes(), file, Image.fromarray(RGB), RGB)]
    for image in got:
        assert image.dtype == np.uint8
        assert image.flags.c_contiguous
        np.testing.assert_array_equal(image, RGB)


def test_rgb_array_is_not_copied():
    assert load_image(RGB) is RGB


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation):
    upright = {
        1: RGB, 2: RGB[:, ::-1], 3: RGB[::-1, ::-1], 4: RGB[::-1], 5: RGB.transpose(1, 0, 2), 6: np.rot90(RGB, -1),
        7: RGB[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(RGB),
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(load_image(encoded(Image.fromarray(RGB), exif=exif)), upright[orientation])


def test_the_callers_image_is_left_alone():
    exif = Image.Exif()
    exif[0x0112] = 6
    theirs = Image.open(io.BytesIO(encoded(Image.fromarray(RGB), exif=exif)))
    assert load_image(theirs).shape == (9, 6, 3)
    assert theirs.size == (9, 6)
    assert load_image(theirs).shape == (9, 6, 3)


@pytest.mark.parametrize("source", [GREY, GREY[:, :, None], Image.fromarray(GREY), encoded(Image.fromarray(GREY))])
def test_grey(source):
    np.testing.assert_array_equal(load_image(source), grey_as_rgb(GREY))


def test_one_bit():
    bits = Image.fromarray(GREY).convert("1", dither=Image.Dither.NONE)
    np.testing.assert_array_equal(load_image(bits), grey_as_rgb(np.where(GREY >= 128, 255, 0)))


def on_white(rgba: np.ndarray) -> np.ndarray:
    alpha = rgba[:, :, 3:] / 255.0
    return np.rint(rgba[:, :, :3] * alpha + 255.0 * (1.0 - alpha))


@pytest.mark.parametrize("kind", ["array", "pil", "png", "float"])
def test_alpha_is_composited_on_white(kind):
    rgba = np.dstack([RGB, GREY[::-1]])
    rgba[0, 0, 3], rgba[0, 1, 3] = 0, 255
    pil = Image.fromarray(rgba)
    source = {"array": rgba, "pil": pil, "png": encoded(pil), "float": (rgba / 255.0).astype(np.float32)}[kind]
    got = load_image(source)
    np.testing.assert_array_equal(got, on_white(rgba))
    assert got[0, 0].tolist() == [255, 255, 255]
    assert got[0, 1].tolist() == RGB[0, 1].tolist()


def test_grey_with_alpha():
    pil = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(GREY[::-1].copy())])
    np.testing.assert_array_equal(load_image(encoded(pil)), on_white(np.dstack([grey_as_rgb(GREY), GREY[::-1]])))


def test_palette_with_a_transparent_entry():
    indexed = np.array([[0, 1, 2]], np.uint8)
    pil = Image.frombytes("P", (3, 1), indexed.tobytes())
    pil.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    assert load_image(encoded(pil)).tolist() == [[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]
    assert load_image(encoded(pil, transparency=1)).tolist() == [[[255, 0, 0], [255, 255, 255], [0, 0, 255]]]


def test_rgb_with_a_transparent_colour():
    black_hole = RGB.copy()
    black_hole[2, 3] = 0
    got = load_image(encoded(Image.fromarray(black_hole), transparency=(0, 0, 0)))
    assert got[2, 3].tolist() == [255, 255, 255]
    assert got[2, 4].tolist() == RGB[2, 4].tolist()


def test_cmyk():
    cmyk = Image.fromarray(RGB).convert("CMYK")
    got = load_image(encoded(cmyk, format="TIFF"))
    np.testing.assert_array_equal(got, RGB)


def test_16_bit_png_tiff_and_array_are_scaled():
    deep = RNG.integers(0, 65536, (5, 7), dtype=np.uint16)
    deep[0, :4] = [0, 65535, 128, 129]
    expected = grey_as_rgb(np.rint(deep / 65535.0 * 255.0))
    pil = Image.fromarray(deep)
    sources = [deep, deep[:, :, None], pil, encoded(pil), encoded(pil, format="TIFF"), pil.convert("I")]
    for source in sources:
        np.testing.assert_array_equal(load_image(source), expected)


def test_float_image_and_array():
    grey = (GREY / 255.0).astype(np.float32)
    for source in (grey, grey.astype(np.float16), grey.astype(np.float64), Image.fromarray(grey), grey[:, :, None]):
        np.testing.assert_array_equal(load_image(source), grey_as_rgb(GREY))
    np.testing.assert_array_equal(load_image(RGB / 255.0), RGB)


def test_non_contiguous_array_is_made_contiguous():
    got = load_image(RGB[::-1, ::2])
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, RGB[::-1, ::2])


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    animation = encoded(frames[0], format="GIF", save_all=True, append_images=frames[1:])
    assert load_image(animation)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "BMP"])
def test_common_formats(form):
    flat = Image.new("RGB", (16, 8), (200, 100, 50))
    assert np.abs(load_image(encoded(flat, format=form)).astype(int) - (200, 100, 50)).max() <= 3


def test_missing_file_folder_and_address(tmp_path):
    with pytest.raises(ImageError, match=r"no such image file.*nothing\.png"):
        load_image(tmp_path / "nothing.png")
    with pytest.raises(ImageError, match="folder"):
        load_image(tmp_path)
    with pytest.raises(ImageError, match="download"):
        load_image("https://example.org/cat.jpg")
    with pytest.raises(ImageError):
        load_image("null\0character")
    with pytest.raises(ImageError):
        load_image("long" * 2000)


@pytest.mark.parametrize("content", [b"", b"hello, this is text", b"\x89PNG\r\n\x1a\n"])
def test_not_an_image(tmp_path, content):
    path = tmp_path / "notes.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"notes\.png"):
        load_image(path)
    with pytest.raises(ImageError, match=f"{len(content)} bytes"):
        load_image(content)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_file(form, share):
    noise = Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    whole = encoded(noise, format=form)
    with pytest.raises(ImageError):
        load_image(whole[: int(share * len(whole))])


def test_damaged_files_give_an_image_error_or_an_image():
    """Whatever byte is wrong, no other exception comes out."""
    whole = encoded(Image.fromarray(RGB), exif=Image.Exif())
    refused = 0
    for place in range(8, len(whole)):
        broken = bytearray(whole)
        broken[place] ^= 0xFF
        try:
            assert load_image(bytes(broken)).shape[2] == 3
        except ImageError:
            refused += 1
    assert refused > 10


def test_too_many_pixels_are_refused_before_decoding(png):
    assert load_image(png, max_pixels=54).shape == (6, 9, 3)
    for source in (png, RGB, Image.fromarray(RGB), GREY):
        with pytest.raises(ImageError, match=r"9x6 = 54 pixels.*up to 53"):
            load_image(source, max_pixels=53)


def test_decompression_bomb():
    """A file of 25 kB that claims 200 million pixels, and one that Pillow would only warn of."""
    for side in (20_000, 10_100):
        bomb = encoded(Image.new("1", (side, side)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with pytest.raises(ImageError, match="too large"):
                load_image(bomb)


def test_pillows_bomb_warning_as_an_error_is_an_image_error():
    with pytest.raises(ImageError, match="too large"):
        load_image(encoded(Image.new("1", (10_100, 10_100))), max_pixels=10**9)


@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 0), (0, 0, 1)])
def test_no_pixels(shape):
    with pytest.raises(ImageError, match="no pixels"):
        load_image(np.zeros(shape, np.uint8))
    with pytest.raises(ImageError, match="no pixels"):
        load_image(Image.new("RGB", (0, 4)))


@pytest.mark.parametrize("shape", [(5,), (5, 5, 2), (5, 5, 5), (1, 5, 5, 3), (3, 8, 8), ()])
def test_wrong_shape(shape):
    with pytest.raises(ImageError, match="shape"):
        load_image(np.zeros(shape, np.uint8))


def test_channels_first_names_the_cure():
    with pytest.raises(ImageError, match="channels last"):
        load_image(np.zeros((3, 8, 8), np.uint8))


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.bool_, np.complex64, "U1"])
def test_wrong_type(dtype):
    with pytest.raises(ImageError, match="type"):
        load_image(np.zeros((4, 4, 3), dtype))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.01, 1.01, 255.0])
def test_float_outside_the_range(value):
    image = np.full((4, 4, 3), 0.5, np.float32)
    image[2, 1, 0] = value
    with pytest.raises(ImageError, match=r"0\.\.1"):
        load_image(image)
    with pytest.raises(ImageError, match=r"0\.\.1"):
        load_image(Image.fromarray(image[:, :, 0]))


@pytest.mark.parametrize("value", [-1, 65536])
def test_32_bit_image_outside_16_bits(value):
    with pytest.raises(ImageError, match="16 bits"):
        load_image(Image.fromarray(np.full((3, 3), value, np.int32)))


@pytest.mark.parametrize("source", [None, 7, [[1, 2], [3, 4]]])
def test_other_objects(source):
    with pytest.raises(ImageError, match="not an image"):
        load_image(source)


def test_a_32_bit_image_made_from_8_bits_keeps_its_brightness():
    grey = Image.new("L", (4, 3), 200)
    assert (load_image(grey.convert("I")) == 200).all()


def test_either_byte_order_of_16_bits():
    values = np.full((2, 2), 65535, ">u2")
    assert (load_image(values) == 255).all()
