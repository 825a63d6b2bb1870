"""Products in pieces are the products, and leave no thread spinning."""

from __future__ import annotations

import numpy as np
import pytest

from eyeshine_kernels.products import gram, matmul

SHAPES = [
    ((3, 4), (4, 5)),
    ((480, 14), (3, 14, 14)),
    ((481, 14), (14, 640)),
    ((14, 14), (2, 14, 2744)),
    ((24, 24), (24, 13824)),
    ((2, 3, 5, 768), (2, 3, 768, 196)),
    ((2, 1, 1, 768), (3, 768, 196)),
    ((1, 512), (512, 1000)),
    ((1000, 768), (768, 1)),
    ((1000, 768), (768,)),
    ((512,), (512, 1000)),
    ((768,), (768,)),
    ((0, 3), (3, 4)),
    ((2, 0), (0, 4)),
    ((3, 4), (4, 0)),
    ((8, 300_000), (300_000, 8)),
    ((3, 20_000), (20_000,)),
    ((899, 513), (513,)),
    ((100, 16), (16, 576)),
]
LARGE = [shapes for shapes in SHAPES if np.prod(shapes[0]) * np.prod(shapes[1][1:]) > 50_000]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_product_in_pieces_is_the_product(shapes, dtype):
    left, right = (np.random.default_rng(i).standard_normal(shape).astype(dtype) for i, shape in enumerate(shapes))
    got, expected = matmul(left, right), left.astype(np.float64) @ right.astype(np.float64)
    assert got.dtype == dtype
    assert got.shape == expected.shape
    bound = np.sqrt(left.shape[-1]) * 20 * np.finfo(dtype).eps
    assert np.abs(got - expected).max(initial=0) <= bound * max(1, np.abs(expected).max(initial=0))


def test_kinds_mix_as_numpy_mixes_them():
    left, right = np.ones((600, 30), np.float32), np.ones((30, 600))
    assert matmul(left, right).dtype == np.float64


def test_views_that_are_not_contiguous():
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((64, 300)).T[::2], rng.standard_normal((400, 64)).T
    assert np.abs(matmul(left, right) - left @ right).max() < 1e-12


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="matmul"):
        matmul(np.ones((300, 300)), np.ones((200, 300)))
    with pytest.raises(ValueError, match="matmul"):
        matmul(np.ones((0, 3)), np.ones((4, 400_000)))


def test_a_tensor_is_left_to_torch():
    torch = pytest.importorskip("torch")
    left, right = torch.ones(3, 4), torch.ones(4, 5)
    assert torch.equal(matmul(left, right), left @ right)


@pytest.mark.parametrize(("count", "width"), [(1, 4), (5, 3), (56, 7), (57, 768), (196, 768), (257, 64), (0, 3)])
def test_gram_is_the_product_with_itself(count, width):
    vectors = np.random.default_rng(count).standard_normal((count, width)).astype(np.float32)
    exact = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    got = gram(vectors)
    assert got.shape == exact.shape
    assert got.dtype == np.float32
    assert np.abs(got - exact).max(initial=0) <= 4e-6 * width


@pytest.mark.parametrize("shapes", LARGE, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_thread_spins_after_a_product(shapes, dtype, left_running):
    left, right = (np.ones(shape, dtype) for shape in shapes)
    assert left_running(lambda: matmul(left, right)) == 0


@pytest.mark.parametrize(("count", "width"), [(196, 768), (576, 1024)])
def test_no_thread_spins_after_a_gram_matrix(count, width, left_running):
    vectors = np.ones((count, width), np.float32)
    assert left_running(lambda: gram(vectors)) == 0
