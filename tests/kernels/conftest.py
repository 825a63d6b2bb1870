"""Kernels run on a CUDA device where there is one, else through Triton's interpreter; their outputs start poisoned.

On hardware: ``python -m pytest tests/kernels -m ""``, which adds the shapes that only a device can take.
"""

import pytest
import torch

HAS_GPU = torch.cuda.is_available()

# Largest absolute error over the largest absolute expected value, one row per dtype of the output (docs/numerics.md).
# The reference gets the same rounded inputs, so only the arithmetic (fp32 in every case) and the last rounding count.
TOLERANCES = {
    # Sums of up to a few thousand products in another order: eps 1.2e-7 times sqrt(terms), and a digit to spare.
    torch.float32: 1e-5,
    # An output stored with 10 bits of mantissa: half a unit in the last place is 4.9e-4.
    torch.float16: 1e-3,
    # An output stored with 7 bits of mantissa: half a unit in the last place is 3.9e-3.
    torch.bfloat16: 8e-3,
}


@pytest.fixture(scope="session")
def device():
    """Where kernels run: "cuda", or "cpu" through the interpreter."""
    return "cuda" if HAS_GPU else "cpu"


@pytest.fixture(scope="session")
def tolerances():
    """Tolerance per output dtype, relative to the largest expected value."""
    return TOLERANCES


@pytest.fixture(params=list(TOLERANCES), ids=["fp32", "fp16", "bf16"])
def dtype(request):
    """One input dtype."""
    return request.param


def poison(tensor):
    """Fill with what no kernel writes: NaN, or the dtype's largest integer."""
    if tensor.is_floating_point():
        return tensor.fill_(float("nan"))
    return tensor.fill_(True if tensor.dtype is torch.bool else torch.iinfo(tensor.dtype).max)


@pytest.fixture
def poisoned(monkeypatch):
    """Make torch.empty and torch.empty_like hand out poison, so that an element a kernel does not write fails.

    Returns a function that says how many tensors were poisoned, so that a test can tell that the patch was met.
    """
    count = 0

    def patched(create):
        def poisoned_create(*args, **kwargs):
            nonlocal count
            count += 1
            return poison(create(*args, **kwargs))

        return poisoned_create

    monkeypatch.setattr(torch, "empty", patched(torch.empty))
    monkeypatch.setattr(torch, "empty_like", patched(torch.empty_like))
    return lambda: count


@pytest.fixture
def assert_close(tolerances):
    """Compare a tensor or array with an expected array: no NaN anywhere, relative to the largest expected value."""
    import numpy as np

    def check(got, expected, dtype=torch.float32):
        got = got.detach().float().cpu().numpy() if isinstance(got, torch.Tensor) else np.asarray(got)
        assert got.shape == expected.shape
        assert np.isfinite(got).all(), f"{np.isnan(got).sum()} NaN of {got.size}"
        if got.size:
            scale = max(float(np.abs(expected).max()), 1e-6)
            error = float(np.abs(got - expected).max()) / scale
            assert error <= tolerances[dtype], (error, tolerances[dtype])

    return check
