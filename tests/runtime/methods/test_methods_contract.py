"""What holds for every graph method of the registry, on a grid that is not square, in a tower with all groups."""

import numpy as np
import pytest

from eyeshine import Explainer
from eyeshine.concept import ContrastOptions
from eyeshine.methods import METHODS, by_passes
from eyeshine.texts import TextVector
from eyeshine_export.write import ExportOptions, export_bundle
from oracle import relative
from tiny import tiny_config, tiny_source

TEXTS = ["a red car", "the dog", "a tree"]
NAMES = [name for name, method in METHODS.items() if not by_passes(method)]
OF_THE_TEXT = [name for name in NAMES if METHODS[name].uses_text]
OF_ALL_TEXTS = {"fm_g_cam", "clip_surgery"}
"""Their map of a text depends on the other texts of the call, as it is meant to."""


@pytest.fixture(scope="module")
def explainer(tmp_path_factory):
    """31 x 45 pixels in patches of 8: three by five of them, and pixels that belong to none."""
    folder = tmp_path_factory.mktemp("bundles") / "oblong"
    source = tiny_source(tiny_config(vision={"image_size": [31, 45]}))
    export_bundle(source, folder, ExportOptions(layers=4, signals=("all",)))
    return Explainer.load(folder, threads=1)


def photo(seed):
    return np.random.default_rng(seed).integers(0, 256, (40, 70, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", NAMES)
def test_an_image_has_its_map_in_any_batch_and_a_text_among_any_texts(explainer, name):
    together = explainer.explain([photo(0), photo(1)], TEXTS, method=name)
    assert together.maps.shape == (2, 3, 3, 5)
    assert together.maps.dtype == np.float32
    assert relative(together.maps[1], together.maps[0]) > 0.02
    for index in range(2):
        alone = explainer.explain(photo(index), TEXTS, method=name)
        assert relative(alone.maps[0], together.maps[index]) <= 1e-4
        assert np.abs(alone.similarities[0] - together.similarities[index]).max() <= 1e-6
    if name not in OF_ALL_TEXTS:
        one = explainer.explain([photo(0), photo(1)], TEXTS[1:2], method=name)
        assert relative(one.maps[:, 0], together.maps[:, 1]) <= 1e-4
    plain = explainer.explain([photo(0), photo(1)], TEXTS)
    assert np.abs(plain.similarities - together.similarities).max() <= 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_the_map_depends_on_the_text_where_the_method_says_so(explainer, name):
    maps = explainer.explain(photo(0), TEXTS, method=name).maps[0]
    if METHODS[name].uses_text:
        assert relative(maps[1], maps[0]) > 0.02
    else:
        assert np.array_equal(maps[1], maps[0])


@pytest.mark.parametrize("name", OF_THE_TEXT)
def test_a_text_vector_is_explained_as_the_text_whose_vector_it_is(explainer, name):
    vectors = explainer.encode_texts([*TEXTS, "the sky"])
    named = [TextVector(f"vector {index}", 3 * vector) for index, vector in enumerate(vectors)]
    for against, of_vectors in ((None, None), (["the sky"], named[3:]), ("rest", "rest")):
        wanted = explainer.explain([photo(0), photo(1)], TEXTS, method=name, against=against)
        found = explainer.explain([photo(0), photo(1)], named[:3], method=name, against=of_vectors)
        assert relative(found.maps, wanted.maps) <= 1e-4
        assert np.abs(found.similarities - wanted.similarities).max() <= 1e-6
        if against is not None:
            assert relative(wanted.maps, explainer.explain([photo(0), photo(1)], TEXTS, method=name).maps) > 0.02


@pytest.mark.parametrize("name", [name for name in OF_THE_TEXT if name not in OF_ALL_TEXTS])
def test_a_contrast_of_each_images_own_is_that_of_the_image_alone(explainer, name):
    options = ContrastOptions(candidates=["a dog", "a tree", "the sky", "a house"], top=1)
    photos = [photo(0), photo(1) // 8, photo(2) // 8 + 200, photo(3) // [1, 8, 8]]
    photos = [image.astype(np.uint8) for image in photos]
    together = explainer.explain(photos, TEXTS, method=name, against=options)
    chosen = [tuple(choice.chosen for choice in of_image) for of_image in together.details["contrast"]]
    assert len(set(chosen)) > 1  # else one target would do for all
    for index, (image, others) in enumerate(zip(photos, chosen, strict=True)):
        for prompt, (text, other) in enumerate(zip(TEXTS, others, strict=True)):
            alone = explainer.explain(image, [text], method=name, against=[other])
            assert relative(together.maps[index, prompt], alone.maps[0, 0]) <= 1e-4
