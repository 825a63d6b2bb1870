"""Images as data URLs, decoded again by Pillow."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from eyeshine.errors import ImageError
from eyeshine.responder.pictures import data_url

NOISE = np.random.default_rng(0).integers(0, 256, (60, 200, 3), dtype=np.uint8)


def decoded(url):
    head, data = url.split(",")
    return head, Image.open(io.BytesIO(base64.b64decode(data, validate=True)))


def test_a_small_image_is_sent_as_it_is():
    head, image = decoded(data_url(NOISE))
    assert (head, image.format) == ("data:image/png;base64", "PNG")
    assert np.array_equal(np.asarray(image), NOISE)


def test_whatever_is_an_image_can_be_sent(tmp_path):
    Image.fromarray(NOISE).save(tmp_path / "a.png")
    for image in (tmp_path / "a.png", (tmp_path / "a.png").read_bytes(), Image.fromarray(NOISE), NOISE / 255.0):
        assert np.array_equal(np.asarray(decoded(data_url(image))[1]), NOISE)


@pytest.mark.parametrize(("shape", "size"), [((60, 200), (100, 30)), ((200, 60), (30, 100)), ((1, 5000), (100, 1))])
def test_a_large_image_is_shrunk(shape, size):
    assert decoded(data_url(np.zeros((*shape, 3), np.uint8), max_side_px=100))[1].size == size


def test_what_is_large_as_png_is_sent_as_jpeg():
    png = len(base64.b64decode(data_url(NOISE).split(",")[1]))
    assert decoded(data_url(NOISE, max_bytes=png))[1].format == "PNG"
    head, image = decoded(data_url(NOISE, max_bytes=png - 1))
    assert (head, image.format) == ("data:image/jpeg;base64", "JPEG")
    assert image.size == (200, 60)


def test_the_cap_holds():
    with pytest.raises(ImageError, match=r"too large to send; got .* as JPEG; allowed: up to 1,000 bytes; cure"):
        data_url(NOISE, max_bytes=1000)


def test_what_is_no_image_is_refused():
    with pytest.raises(ImageError):
        data_url(b"not an image")
