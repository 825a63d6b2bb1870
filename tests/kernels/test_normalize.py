"""normalize: the definition against slow loops of the paper's equations, its properties, the kernel against both."""

import json
import math
import os
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from eyeshine_kernels.backend import KernelError
from eyeshine_kernels.normalize import NormalizeOptions, normalize

KERNELS = Path(__file__).parents[2] / "kernels"

# 1, primes, powers of two and their neighbours, real grids (7x7, 14x14, 27x27), a class token too many (577).
LENGTHS = [1, 2, 3, 7, 31, 49, 64, 65, 127, 196, 256, 257, 577, 729]
SETTINGS = {
    "defaults": NormalizeOptions(),
    "signed": NormalizeOptions(relu=False, alpha=0.3),
    "lifted": NormalizeOptions(beta=10, alpha=0.5),
    "filtered": NormalizeOptions(beta=0.05),
    "plain": NormalizeOptions(beta=1, alpha=1),
    "clipped": NormalizeOptions(boost="clip", beta=3, alpha=0.6),
    "suppressed": NormalizeOptions(background=0.2),
    "suppressed signed clip": NormalizeOptions(background=0.5, relu=False, boost="clip", beta=0.5, epsilon=1e-3),
}


def rows(*shape, seed=0, scale=1e-2):
    """Signed evidence of a usual size, float32."""
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def attention_rows(*shape, seed=1):
    """Rows of a softmax, heavy-tailed, float32."""
    logits = 3 * np.random.default_rng(seed).standard_normal(shape)
    return (np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)).astype(np.float32)


def paper_row(gradient, attention, o):
    """One row by the equations of Concept Attribution, in float64, element by element."""

    def min_max(row):  # III-A: (x - min x) / (max x - min x + eps)
        return [(x - min(row)) / (max(row) - min(row) + o.epsilon) for x in row]

    evidence = min_max([max(g, 0.0) if o.relu else g for g in gradient])
    if o.boost == "gamma":  # III-C, readings d): G~^(1/beta)
        boosted = [g ** (1 / o.beta) for g in evidence]
    else:  # readings b): min(1, beta G~)
        boosted = [min(1.0, o.beta * g) for g in evidence]
    if attention is None:
        heat = boosted
    else:  # III-A: Weighted-Attn = (1 - alpha) SA~ + alpha G~
        heat = [(1 - o.alpha) * s + o.alpha * g for s, g in zip(min_max(attention), boosted, strict=True)]
    if not o.background:
        return heat
    tau = o.background * max(heat)  # eq. (7)
    return [h if h > tau else 0.0 for h in heat]  # eq. (6)


def paper(gradient, attention, options):
    """All rows; attention [B, 1 or P, N] or None."""
    heat = np.empty(gradient.shape)
    for b, p in np.ndindex(gradient.shape[:2]):
        row = None if attention is None else attention[b, p % attention.shape[1]].tolist()
        heat[b, p] = paper_row(gradient[b, p].tolist(), row, options)
    return heat


# The definition


@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("attended", [None, 1, 3], ids=["alone", "shared", "own"])
def test_reference_equals_the_equations_of_the_paper(options, attended, assert_close):
    gradient = rows(2, 3, 49)
    attention = None if attended is None else attention_rows(2, attended, 49)
    heat = normalize(gradient, attention, options=options)
    assert heat.dtype == np.float32
    assert_close(heat, paper(gradient, attention, options))


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_equation_6_drops_what_equals_the_threshold(backend, device):
    gradient = np.array([[[0.0, 0.25, 0.5, 1.0]]], np.float32)
    given = torch.from_numpy(gradient).to(device) if backend == "triton" else gradient
    heat = normalize(given, options=NormalizeOptions(beta=1, background=0.25), backend=backend)
    np.testing.assert_array_equal(torch.as_tensor(heat).cpu(), [[[0, 0, 0.5, 1]]])


def test_the_result_is_between_0_and_1():
    for options in SETTINGS.values():
        heat = normalize(rows(3, 4, 196), attention_rows(3, 1, 196), options=options)
        assert heat.min() >= 0
        assert heat.max() <= 1


def test_alpha_0_is_the_attention_and_alpha_1_the_gradient():
    gradient, attention = rows(2, 3, 31), attention_rows(2, 3, 31)
    ends = [normalize(gradient, attention, options=NormalizeOptions(alpha=alpha)) for alpha in (0, 1)]
    alone = normalize(attention, options=NormalizeOptions(beta=1))
    np.testing.assert_array_equal(ends[0], alone)
    np.testing.assert_array_equal(ends[1], normalize(gradient))
    assert np.abs(ends[0] - ends[1]).max() > 0.5


def test_without_attention_alpha_is_not_read():
    gradient = rows(1, 2, 31)
    heats = [normalize(gradient, options=NormalizeOptions(alpha=alpha)) for alpha in (0, 0.8)]
    np.testing.assert_array_equal(*heats)


@pytest.mark.parametrize(("scale", "shift"), [(1, 3), (7, 0), (0.5, -2)])
def test_min_max_ignores_shift_and_positive_scale(scale, shift):
    gradient = rows(2, 2, 49, scale=1)
    options = NormalizeOptions(relu=False, beta=1)
    moved = normalize((gradient * scale + shift).astype(np.float32), options=options)
    np.testing.assert_allclose(moved, normalize(gradient, options=options), atol=2e-6)


def test_relu_makes_negative_evidence_no_evidence():
    gradient = np.array([[[-5.0, -1.0, 0.0, 2.0]]], np.float32)
    plain = NormalizeOptions(beta=1)
    np.testing.assert_allclose(normalize(gradient, options=plain), [[[0, 0, 0, 1]]], atol=1e-7)
    signed = normalize(gradient, options=NormalizeOptions(beta=1, relu=False))
    np.testing.assert_allclose(signed, [[[0, 4 / 7, 5 / 7, 1]]], atol=1e-6)


# What the paper claims of beta, as far as it is a property (readings A2); values 0, .01, .. 1.

RAMP = np.linspace(0, 1, 101, dtype=np.float32)[None, None]


def boosted(beta, boost="gamma"):
    return normalize(RAMP, options=NormalizeOptions(beta=beta, boost=boost))[0, 0]


@pytest.mark.parametrize("boost", ["gamma", "clip"])
def test_beta_1_changes_nothing(boost):
    np.testing.assert_allclose(boosted(1, boost), RAMP[0, 0], atol=1e-7)


@pytest.mark.parametrize("beta", [0.1, 0.25, 0.5, 2, 10, 20])
@pytest.mark.parametrize("boost", ["gamma", "clip"])
def test_boosting_is_monotone_and_stays_between_0_and_1(beta, boost):
    heat = boosted(beta, boost)
    assert (np.diff(heat) >= 0).all()
    assert heat[0] == 0
    assert heat.max() <= 1
    if boost == "gamma":
        assert heat[-1] == pytest.approx(1, abs=1e-6)


def test_beta_below_1_suppresses_weak_values_more_than_strong():
    heat = boosted(0.5)
    np.testing.assert_allclose(heat[[10, 50, 90]], [0.01, 0.25, 0.81], atol=1e-6)
    inner = heat[1:-1] / RAMP[0, 0, 1:-1]
    assert (inner < 1).all()
    assert (np.diff(inner) > 0).all()


def test_beta_above_1_lifts_weak_values_more_than_strong():
    inner = boosted(2)[1:-1] / RAMP[0, 0, 1:-1]
    assert (inner > 1).all()
    assert (np.diff(inner) < 0).all()


def test_a_large_beta_saturates():
    assert boosted(10)[10] == pytest.approx(0.794, abs=1e-3)
    assert boosted(20)[10] == pytest.approx(0.891, abs=1e-3)
    assert (boosted(100)[1:] > 0.95).all()
    assert boosted(100, "clip")[1:].min() == pytest.approx(1, abs=1e-6)


def test_beta_near_0_leaves_the_largest_value_alone():
    heat = boosted(0.001)
    assert heat[-1] == pytest.approx(1, abs=1e-4)
    assert heat[:-1].max() < 1e-4


def test_clip_scales_and_so_filters_nothing():
    """Why it is not the default: weak keeps its share of strong."""
    heat = boosted(0.5, "clip")
    np.testing.assert_allclose(heat[1:] / RAMP[0, 0, 1:], 0.5, rtol=1e-6)


# Edges of the definition


@pytest.mark.parametrize("value", [0.0, 0.25, -0.25])
@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
def test_constant_rows_are_zeros(value, options):
    row = np.full((1, 2, 49), value, np.float32)
    np.testing.assert_array_equal(normalize(row, options=options), 0)
    np.testing.assert_array_equal(normalize(row, row, options=options), 0)


@pytest.mark.parametrize("shape", [(0, 3, 49), (2, 0, 49), (2, 3, 0)])
def test_empty_in_empty_out(shape):
    shared = np.zeros((shape[0], 1, shape[2]), np.float32)
    for attention in (None, shared):
        heat = normalize(np.zeros(shape, np.float32), attention)
        assert heat.shape == shape
        assert heat.dtype == np.float32


def test_inputs_stay_as_they_were():
    gradient, attention = rows(1, 2, 7), attention_rows(1, 1, 7)
    before = gradient.copy(), attention.copy()
    normalize(gradient, attention, options=NormalizeOptions(background=0.2))
    np.testing.assert_array_equal(gradient, before[0])
    np.testing.assert_array_equal(attention, before[1])


def test_single_and_double_precision_agree(assert_close):
    gradient, attention = rows(2, 3, 196).astype(np.float64), attention_rows(2, 1, 196).astype(np.float64)
    heat = normalize(gradient, attention)
    assert heat.dtype == np.float64
    assert_close(normalize(gradient.astype(np.float32), attention.astype(np.float32)), heat)


def test_half_precision_is_computed_in_single():
    gradient = rows(2, 3, 196).astype(np.float16)
    heat = normalize(gradient)
    assert heat.dtype == np.float16
    np.testing.assert_array_equal(heat, normalize(gradient.astype(np.float32)).astype(np.float16))


# What is refused


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"alpha": -0.1}, "alpha is out of range: got -0.1, allowed 0..1"),
        ({"alpha": 1.5}, "alpha is out of range: got 1.5"),
        ({"alpha": math.nan}, "alpha is not a finite number: got nan"),
        ({"alpha": "0.5"}, "alpha is not a finite number: got '0.5'"),
        ({"beta": 0}, "beta is out of range: got 0, allowed 0.001..1000"),
        ({"beta": -1}, "beta is out of range"),
        ({"beta": math.inf}, "beta is not a finite number"),
        ({"beta": True}, "beta is not a finite number"),
        ({"epsilon": 0}, "epsilon is out of range: got 0"),
        ({"epsilon": 1e-40}, "epsilon is out of range"),
        ({"background": 1}, "background is out of range: got 1, allowed 0..1 without 1"),
        ({"background": -0.2}, "background is out of range"),
        ({"boost": "power"}, "unknown boost: got 'power', allowed gamma, clip"),
        ({"relu": 1}, "relu is not a truth value: got 1, allowed True, False"),
    ],
)
def test_options_check_themselves(setting, said):
    with pytest.raises(KernelError) as error:
        NormalizeOptions(**setting)
    assert said in str(error.value)


def test_options_are_frozen():
    with pytest.raises(FrozenInstanceError):
        NormalizeOptions().alpha = 0.5


@pytest.mark.parametrize("backend", ["reference", "triton"])
@pytest.mark.parametrize(
    ("gradient", "attention", "said"),
    [
        ((3, 49), None, "got shape (3, 49), allowed [B, P, N]"),
        ((2, 3, 49), (2, 49), "got shape (2, 49), allowed (2, 1, 49) or (2, 3, 49)"),
        ((2, 3, 49), (2, 2, 49), "attention does not fit"),
        ((2, 3, 49), (1, 3, 49), "attention does not fit"),
        ((2, 3, 49), (2, 1, 50), "attention does not fit"),
    ],
)
def test_wrong_shapes_are_refused(backend, gradient, attention, said, device):
    tensors = [None if shape is None else np.zeros(shape, np.float32) for shape in (gradient, attention)]
    if backend == "triton":
        tensors = [None if array is None else torch.from_numpy(array).to(device) for array in tensors]
    with pytest.raises(KernelError) as error:
        normalize(*tensors, backend=backend)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("backend", "tensor", "said"),
    [
        ("reference", np.zeros((1, 1, 4), complex), "gradient cannot be computed: got complex128"),
        ("reference", np.zeros((1, 1, 4), np.int64), "got int64"),
        ("reference", torch.zeros(1, 1, 4), "got Tensor, allowed a NumPy array"),
        ("triton", torch.zeros(1, 1, 4, dtype=torch.float64), "got torch.float64"),
        ("triton", np.zeros((1, 1, 4), np.float32), "got ndarray, allowed a torch tensor"),
    ],
)
def test_other_dtypes_and_kinds_are_refused(backend, tensor, said):
    with pytest.raises(KernelError) as error:
        normalize(tensor, backend=backend)
    assert said in str(error.value)


def test_a_row_that_fits_no_program_is_refused(device):
    with pytest.raises(KernelError, match="got 65537, allowed up to 65536"):
        normalize(torch.zeros(1, 1, 65537, device=device), backend="triton")


# The kernel


def compare(gradient, attention, options, dtype, device, assert_close):
    """The kernel on rounded inputs against the definition on the same rounded inputs, in float64."""
    inputs = [
        None if array is None else torch.from_numpy(array).to(dtype).to(device) for array in (gradient, attention)
    ]
    heat = normalize(*inputs, options=options, backend="triton")
    assert heat.dtype == dtype
    assert heat.device == inputs[0].device
    rounded = [None if tensor is None else tensor.double().cpu().numpy() for tensor in inputs]
    expected = normalize(*rounded, options=options)
    if options.background:
        # Within rounding of the threshold both answers are right; other values must fall on the same side.
        whole = normalize(*rounded, options=replace(options, background=0))
        near = (whole > 0) & (np.abs(whole - options.background * whole.max(axis=-1, keepdims=True)) < 1e-5)
        assert near.mean() < 0.02
        heat[torch.from_numpy(near).to(device)], expected[near] = 0, 0
    assert_close(heat, expected, dtype)


@pytest.mark.parametrize("patches", LENGTHS)
def test_kernel_equals_the_reference(patches, dtype, device, poisoned, assert_close):
    options = NormalizeOptions(background=0.2, relu=patches % 2 == 0)
    compare(rows(2, 3, patches), attention_rows(2, 1, patches), options, dtype, device, assert_close)
    assert poisoned() >= 1


@pytest.mark.parametrize("attended", [None, 1, 3], ids=["alone", "shared", "own"])
@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
def test_kernel_equals_the_reference_at_every_setting(options, attended, dtype, device, poisoned, assert_close):
    attention = None if attended is None else attention_rows(2, attended, 49)
    compare(rows(2, 3, 49), attention, options, dtype, device, assert_close)
    assert poisoned() >= 1


@pytest.mark.parametrize("shape", [(1, 1, 7), (1, 5, 7), (5, 1, 7), (3, 4, 7)])
def test_kernel_finds_every_row(shape, device, poisoned, assert_close):
    images, prompts, patches = shape
    for attended in (1, prompts):
        gradient, attention = rows(*shape), attention_rows(images, attended, patches)
        compare(gradient, attention, NormalizeOptions(), torch.float32, device, assert_close)
    assert poisoned() >= 2


@pytest.mark.parametrize("value", [0.0, 0.25, -0.25])
@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
def test_kernel_makes_zeros_of_constant_rows(value, options, device, poisoned):
    row = torch.full((1, 2, 49), value, device=device)
    for attention in (None, row):
        heat = normalize(row, attention, options=options, backend="triton")
        assert torch.equal(heat.cpu(), torch.zeros(1, 2, 49))
    assert poisoned() >= 2


@pytest.mark.parametrize("shape", [(0, 3, 49), (2, 0, 49), (2, 3, 0)])
def test_kernel_empty_in_empty_out(shape, dtype, device):
    gradient = torch.zeros(shape, dtype=dtype, device=device)
    for attention in (None, torch.zeros(shape[0], 1, shape[2], dtype=dtype, device=device)):
        heat = normalize(gradient, attention, backend="triton")
        assert heat.shape == shape
        assert heat.dtype == dtype


def test_kernel_reads_strided_inputs_in_place(device, poisoned, assert_close):
    """Rows without their class token, axes exchanged, every second patch: as graphs and callers hand them."""
    gradient = torch.from_numpy(rows(3, 2, 100)).to(device).transpose(0, 1)[..., 1::2]
    attention = torch.from_numpy(attention_rows(2, 51)).to(device)[:, None, 1:]
    assert not gradient.is_contiguous()
    assert not attention.is_contiguous()
    heat = normalize(gradient, attention, backend="triton")
    assert heat.is_contiguous()
    assert_close(heat, normalize(gradient.cpu().numpy(), attention.cpu().numpy()))
    assert poisoned() == 1


def test_kernel_mixes_dtypes(device, assert_close):
    gradient = torch.from_numpy(rows(2, 2, 31)).to(device)
    attention = torch.from_numpy(attention_rows(2, 1, 31)).half().to(device)
    heat = normalize(gradient, attention, backend="triton")
    assert heat.dtype == torch.float32
    assert_close(heat, normalize(gradient.cpu().numpy(), attention.cpu().numpy()))


@pytest.mark.parametrize("backend", ["reference", "triton"])
@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
def test_a_nan_stays_in_its_place(backend, options, device):
    """A defect upstream is seen, and costs its patch alone."""
    gradient = rows(1, 2, 49)
    gradient[0, 1, 5] = np.nan
    if backend == "triton":
        heat = normalize(torch.from_numpy(gradient).to(device), options=options, backend=backend).cpu().numpy()
    else:
        heat = normalize(gradient, options=options)
    np.testing.assert_array_equal(np.argwhere(np.isnan(heat)), [[0, 1, 5]])


PTX = """
import json
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from eyeshine_kernels.normalize.kernel import AOT
report = {}
for name, variant in AOT.items():
    kernel, types = variant["kernel"], {**dict.fromkeys(variant["constants"], "constexpr"), **variant["signature"]}
    source = ASTSource(kernel, {name: types[name] for name in kernel.arg_names}, constexprs=variant["constants"])
    options = {"num_warps": variant["num_warps"], "enable_fp_fusion": True}
    ptx = compile(source, target=GPUTarget("cuda", 80, 32), options=options).asm["ptx"]
    per_thread = variant["constants"]["BLOCK"] // (32 * variant["num_warps"])
    report[name] = [ptx.count(word) / per_thread for word in ("ld.global", "st.global", "ld.local", "st.local")]
import sys
report["torch"] = "torch" in sys.modules
print(json.dumps(report))
"""


def test_each_element_is_read_once_and_written_once(tmp_path):
    """Counted in the code for a GPU, which needs neither a GPU nor torch; a second pass would load again."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": str(KERNELS), "TRITON_CACHE_DIR": str(tmp_path), "TRITON_DEFAULT_FP_FUSION": "1"}
    done = subprocess.run([sys.executable, "-c", PTX], env=environment, capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    assert report.pop("torch") is False
    assert len(report) == 6
    for name, counts in report.items():
        assert counts == [2 if "fused" in name else 1, 1, 0, 0], (name, counts)


# On hardware: what the interpreter cannot show


@pytest.mark.gpu
@pytest.mark.parametrize("patches", [*LENGTHS, 1024, 4097, 65536])
def test_hardware_equals_the_reference_on_many_rows(patches, dtype, poisoned, assert_close):
    gradient, attention = rows(8, 64, patches), attention_rows(8, 1, patches)
    compare(gradient, attention, NormalizeOptions(), dtype, "cuda", assert_close)
    assert poisoned() >= 1


@pytest.mark.gpu
def test_hardware_counts_offsets_in_64_bits():
    """The last row lies beyond 2^31 elements: 4.4 GB per tensor in float16."""
    gradient = torch.zeros(33, 1024, 65536, dtype=torch.float16, device="cuda")
    gradient[-1, -1] = torch.linspace(0, 1, 65536, device="cuda")
    heat = normalize(gradient, options=NormalizeOptions(beta=1), backend="triton")
    torch.testing.assert_close(heat[-1, -1], gradient[-1, -1], atol=1e-3, rtol=0)
    assert not heat[:-1].any()
