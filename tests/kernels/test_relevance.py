"""relevance: the reference against slow loops and eyeshine's methods, the kernel against the reference."""

import importlib
import subprocess
import sys

import numpy as np
import pytest
import torch

from eyeshine.methods import BlockSignals, Chefer, GradEclip
from eyeshine_kernels.backend import KernelError, next_power_of_2, resolve
from eyeshine_kernels.relevance import PRESETS, RelevanceOptions, relevance

EVERY = [
    RelevanceOptions(attention_power=power, head_relu=relu, mean_heads=mean, signed=signed, class_token=token)
    for power in (0, 1)
    for relu in (False, True)
    for mean, signed, token in ((False, False, True), (True, True, True), (True, False, False), (False, True, False))
]


def inputs(images, prompts, blocks, heads, depth, patches, options, *, weights=None, spatial=False, seed=0):
    """Named random arrays, float32; ``weights`` is None, "shared", "blocks" or "prompts"."""
    random = np.random.default_rng(seed)
    tokens, width = patches + options.first_patch, heads * depth
    named = {
        "gradient": random.standard_normal((images, prompts, blocks, width)),
        "values": random.standard_normal((images, blocks, tokens, width)),
    }
    if options.attention_power:
        named["attention"] = random.dirichlet(np.ones(max(tokens, 1)), (images, blocks, heads))[..., :tokens]
    if weights:
        # Negative ones too: nothing says that a head's weight is positive.
        sizes = {"shared": (heads,), "blocks": (blocks, heads), "prompts": (images, prompts, blocks, heads)}
        named["head_weights"] = random.standard_normal(sizes[weights])
    if spatial:
        named["patch_weights"] = random.random((images, blocks, patches))
    return {name: array.astype(np.float32) for name, array in named.items()}


def as_tensors(named, device, dtype):
    """On the device; lambda and the head weights stay float32, as they come from float32 arithmetic."""
    kept = ("head_weights", "patch_weights")
    return {
        name: torch.from_numpy(array).to(device, torch.float32 if name in kept else dtype)
        for name, array in named.items()
    }


def as_doubles(tensors):
    return {name: tensor.detach().cpu().double().numpy() for name, tensor in tensors.items()}


def slow(named, heads, options):
    """Equation of section 0: out_i = phi_out(scale sum_h w_h phi(A_h[i]^p <g_h, V_{h,i}>)) lambda_i, one by one."""
    gradient, values = named["gradient"].astype(float), named["values"].astype(float)
    images, prompts, blocks, width = gradient.shape
    first, depth = options.first_patch, width // heads
    out = np.zeros((images, prompts, blocks, values.shape[2] - first))
    for b, p, k, i in np.ndindex(out.shape):
        total = 0.0
        for h in range(heads):
            channels = range(h * depth, (h + 1) * depth)
            term = sum(gradient[b, p, k, d] * values[b, k, i + first, d] for d in channels)
            if options.attention_power == 1:
                term *= named["attention"][b, k, h, i + first]
            if options.head_relu:
                term = max(term, 0.0)
            if "head_weights" in named:
                term *= np.broadcast_to(named["head_weights"], (images, prompts, blocks, heads))[b, p, k, h]
            total += term / heads if options.mean_heads else term
        total = total if options.signed else max(total, 0.0)
        out[b, p, k, i] = total * (named["patch_weights"][b, k, i] if "patch_weights" in named else 1)
    return out


@pytest.mark.parametrize("options", EVERY, ids=str)
@pytest.mark.parametrize(
    ("weights", "spatial"), [(None, True), ("shared", False), ("blocks", True), ("prompts", False)]
)
def test_reference_is_the_equation(options, weights, spatial, assert_close):
    named = inputs(2, 3, 2, 3, 4, 5, options, weights=weights, spatial=spatial)
    got = relevance(**named, heads=3, options=options)
    assert got.dtype == np.float32
    assert_close(got, slow(named, 3, options))


def signals(images=2, prompts=3, heads=4, depth=5, patches=7):
    random = np.random.default_rng(1)
    width, tokens = heads * depth, patches + 1
    return BlockSignals(
        spatial_weights=random.random((images, 1, patches), dtype=np.float32),
        values=random.standard_normal((images, 1, tokens, width)).astype(np.float32),
        class_attention=random.dirichlet(np.ones(tokens), (images, 1, heads)).astype(np.float32),
        gradient=random.standard_normal((images, prompts, 1, width)).astype(np.float32),
    )


def test_grad_eclip_is_a_setting(assert_close):
    block = signals()
    shared = {"gradient": block.gradient, "values": block.values}
    got = relevance(**shared, heads=4, options="grad_eclip", patch_weights=block.spatial_weights)
    assert_close(got[:, :, 0], GradEclip().maps(block, 3))
    got = relevance(**shared, heads=4, options="grad_eclip")
    assert_close(got[:, :, 0], GradEclip(spatial=False).maps(block, 3))


def test_chefer_is_a_setting(assert_close):
    block = signals()
    shared = {"gradient": block.gradient, "values": block.values}
    got = relevance(**shared, heads=4, options="chefer", attention=block.class_attention)
    assert_close(got[:, :, 0], Chefer().maps(block, 3))


def test_head_decomposition_sums_to_what_the_heads_write(assert_close):
    """sum_i s_i = sum_h <r_h, O_h>: patches' shares add up to the heads' output, read along the text's direction."""
    options = RelevanceOptions(attention_power=1, signed=True, class_token=False)
    assert options == RelevanceOptions(**{**vars(PRESETS["head_decomposition"]), "class_token": False})
    named = inputs(2, 3, 4, 3, 5, 11, options)
    per_head = named["values"].reshape(2, 4, 11, 3, 5)
    output = np.einsum("bkht,bkthd->bkhd", named["attention"], per_head).reshape(2, 4, 15)
    got = relevance(**named, heads=3, options=options)
    assert_close(got.sum(-1), np.einsum("bpkd,bkd->bpk", named["gradient"], output))


def check_kernel(device, dtype, shape, options, assert_close, poisoned, **optional):
    tensors = as_tensors(inputs(*shape, options, **optional), device, dtype)
    if options.class_token and tensors["values"].numel():
        tensors["values"][:, :, 0] = float("nan")  # the class token has no place in a map: reading it would show
    got = relevance(**tensors, heads=shape[3], options=options, backend="triton")
    assert poisoned() == 1
    assert got.dtype == torch.float32
    assert got.device == tensors["gradient"].device
    expected = relevance(**as_doubles(tensors), heads=shape[3], options=options)
    # Inputs are the same rounded numbers for both, sums and output are fp32: one tolerance for all input dtypes.
    assert_close(got, expected)


@pytest.mark.parametrize("options", EVERY, ids=str)
def test_kernel_is_the_reference_in_every_setting(options, device, assert_close, poisoned):
    shape = (2, 3, 2, 3, 8, 17)
    check_kernel(device, torch.float32, shape, options, assert_close, poisoned, weights="blocks", spatial=True)


@pytest.mark.parametrize("patches", [1, 2, 3, 7, 15, 16, 17, 31, 32, 33, 37, 49, 63, 65, 127, 129, 196, 256, 577, 729])
def test_kernel_on_any_number_of_patches(patches, device, assert_close, poisoned):
    check_kernel(device, torch.float32, (1, 2, 1, 2, 4, patches), PRESETS["chefer"], assert_close, poisoned)


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((1, 1, 1, 1, 1, 1), id="all-one"),
        pytest.param((3, 1, 2, 1, 5, 9), id="one-head"),
        pytest.param((2, 17, 1, 3, 7, 5), id="prompts-past-a-tile"),
        pytest.param((2, 67, 2, 2, 3, 70), id="two-tiles-of-prompts-three-of-patches"),
        pytest.param((1, 2, 3, 2, 65, 5), id="channels-past-a-tile"),
        pytest.param((1, 2, 1, 1, 130, 5), id="three-tiles-of-channels"),
        pytest.param((2, 3, 2, 13, 2, 3), id="many-heads"),
        pytest.param((1, 10, 1, 12, 64, 196), id="b16"),
    ],
)
@pytest.mark.parametrize("preset", ["grad_eclip", "chefer"])
def test_kernel_on_any_shape_and_dtype(shape, preset, dtype, device, assert_close, poisoned):
    check_kernel(device, dtype, shape, PRESETS[preset], assert_close, poisoned, spatial=True)


@pytest.mark.parametrize("weights", [None, "shared", "blocks", "prompts"])
def test_kernel_weighs_heads(weights, device, assert_close, poisoned):
    shape = (2, 2, 3, 4, 4, 6)
    check_kernel(device, torch.float32, shape, PRESETS["grad_eclip"], assert_close, poisoned, weights=weights)


def test_kernel_takes_a_float32_gradient_of_float16_values(device, assert_close):
    """An fp16 trunk with an fp32 vector-Jacobian product."""
    named = as_tensors(inputs(1, 2, 1, 2, 8, 9, PRESETS["chefer"]), device, torch.float16)
    named["gradient"] = named["gradient"].float() * 1e-9  # float16 would lose it
    got = relevance(**named, heads=2, options="chefer", backend="triton")
    expected = relevance(**as_doubles(named), heads=2, options="chefer")
    assert expected.max() > 0
    assert_close(got * 1e9, expected * 1e9)


@pytest.mark.parametrize("backend", ["reference", "triton"])
@pytest.mark.parametrize(
    ("images", "prompts", "blocks", "patches"), [(0, 2, 1, 3), (2, 0, 1, 3), (1, 1, 0, 3), (1, 2, 1, 0)]
)
def test_empty(backend, images, prompts, blocks, patches, device):
    named = inputs(images, prompts, blocks, 2, 4, patches, PRESETS["chefer"], weights="blocks", spatial=True)
    if backend == "triton":
        named = as_tensors(named, device, torch.float32)
    got = relevance(**named, heads=2, options="chefer", backend=backend)
    assert tuple(got.shape) == (images, prompts, blocks, patches)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_kernel_of_zeros_is_zero(preset, device):
    named = as_tensors(inputs(1, 2, 1, 2, 4, 5, PRESETS[preset]), device, torch.float32)
    named["gradient"].zero_()
    assert (relevance(**named, heads=2, options=preset, backend="triton") == 0).all()


@pytest.mark.parametrize("backend", ["reference", "triton"])
@pytest.mark.parametrize("preset", ["grad_eclip", "chefer"])
def test_a_nan_is_not_hidden(backend, preset, device):
    """ReLU of a NaN is a NaN, in its patch and nowhere else."""
    named = inputs(1, 2, 1, 2, 4, 5, PRESETS[preset])
    named["values"][0, 0, 1 + 3, 2] = np.nan
    if backend == "triton":
        named = as_tensors(named, device, torch.float32)
    got = np.asarray(torch.as_tensor(relevance(**named, heads=2, options=preset, backend=backend)).cpu())
    assert np.isnan(got[..., 3]).all()
    assert np.isfinite(np.delete(got, 3, axis=-1)).all()


def test_kernel_is_linear_where_it_is_signed(device, assert_close):
    """p = 1, phi = phi_out = id: the map of a sum of gradients is the sum of the maps."""
    named = as_tensors(inputs(1, 2, 1, 2, 4, 9, PRESETS["head_decomposition"]), device, torch.float32)
    shared = {"heads": 2, "options": "head_decomposition", "backend": "triton"}
    maps = relevance(**named, **shared)
    named["gradient"] = named["gradient"].sum(1, keepdim=True)
    assert_close(relevance(**named, **shared)[:, 0], maps.sum(1).cpu().numpy())


@pytest.mark.gpu
@pytest.mark.parametrize("preset", ["grad_eclip", "chefer"])
def test_offsets_pass_two_to_the_31st(preset):
    """B * T * D above 2^31 elements; the last image alone is compared."""
    images, heads, depth, patches = 2900, 12, 64, 1024
    random = torch.Generator("cuda").manual_seed(0)
    values = torch.zeros((images, 1, patches + 1, heads * depth), dtype=torch.float16, device="cuda")
    assert values.numel() > 2**31
    values[-1].normal_(generator=random)
    gradient = torch.randn((images, 1, 1, heads * depth), device="cuda", generator=random).half()
    named = {"gradient": gradient, "values": values}
    if preset == "chefer":
        shape = (images, 1, heads, patches + 1)
        named["attention"] = torch.rand(shape, device="cuda", generator=random).half()
    got = relevance(**named, heads=heads, options=preset, backend="triton")
    last = {name: tensor[-1:].double().cpu().numpy() for name, tensor in named.items()}
    expected = relevance(**last, heads=heads, options=preset)
    assert np.abs(got[-1:].cpu().numpy() - expected).max() <= 1e-5 * expected.max()
    assert (got[:-1] == 0).all()


def arguments(**changed):
    named = inputs(2, 3, 1, 2, 4, 5, RelevanceOptions())
    named |= {"heads": 2, **changed}
    return {name: entry for name, entry in named.items() if entry is not None}


ZEROS = np.zeros
WRONG = {
    "rank": ({"gradient": ZEROS((2, 3, 8), np.float32)}, r"gradient \(2, 3, 8\)"),
    "images": ({"values": ZEROS((1, 1, 6, 8), np.float32)}, r"values: got \(1, 1, 6, 8\)"),
    "no-token": ({"values": ZEROS((2, 1, 0, 8), np.float32)}, "class_token=False"),
    "heads": ({"heads": 3}, "heads: got 3, allowed a divisor of the 8"),
    "no-heads": ({"heads": 0}, "heads: got 0"),
    "attention-missing": ({"options": "chefer"}, "attention: needed"),
    "attention-unused": ({"attention": ZEROS((2, 1, 2, 6), np.float32)}, "attention: refused"),
    "attention-shape": (
        {"options": "chefer", "attention": ZEROS((2, 1, 2, 5), np.float32)},
        r"attention: got \(2, 1, 2, 5\), allowed \(2, 1, 2, 6\)",
    ),
    "head-weights": (
        {"head_weights": ZEROS(3, np.float32)},
        r"head_weights: got \(3,\), allowed \(2,\) or \(1, 2\)",
    ),
    "lambda": ({"patch_weights": ZEROS((2, 1, 6), np.float32)}, r"patch_weights: got \(2, 1, 6\)"),
    "preset": ({"options": "legrad"}, "unknown relevance preset: got 'legrad'"),
    "integers": ({"values": ZEROS((2, 1, 6, 8), np.int64)}, "values: got int64"),
    "tensor": ({"values": torch.zeros((2, 1, 6, 8))}, "values: got Tensor, backend 'reference' takes NumPy"),
    "backend": ({"backend": "cuda"}, "unknown kernel backend: got 'cuda', allowed reference, triton"),
    "array": ({"backend": "triton"}, "gradient: got ndarray, backend 'triton' takes torch tensors"),
}


@pytest.mark.parametrize(("changed", "message"), WRONG.values(), ids=WRONG)
def test_wrong_arguments_are_named(changed, message):
    with pytest.raises(KernelError, match=message):
        relevance(**arguments(**changed))


def test_tensors_that_the_kernel_cannot_take_are_named(device):
    named = as_tensors(inputs(2, 3, 1, 2, 4, 5, RelevanceOptions()), device, torch.float32)
    shared = {"heads": 2, "backend": "triton"}
    with pytest.raises(KernelError, match=r"values: got torch\.float64"):
        relevance(**{**named, "values": named["values"].double()}, **shared)
    with pytest.raises(KernelError, match=r"gradient: got strides .* call \.contiguous\(\)"):
        relevance(**{**named, "gradient": named["gradient"].transpose(0, 1)}, **shared)
    with pytest.raises(KernelError, match="values: got device meta"):
        relevance(**{**named, "values": named["values"].to("meta")}, **shared)


@pytest.mark.parametrize(
    "field",
    [{"attention_power": 2}, {"attention_power": True}, {"head_relu": 1}, {"signed": None}, {"class_token": "no"}],
)
def test_options_check_themselves(field):
    with pytest.raises(KernelError, match=f"{next(iter(field))}: got"):
        RelevanceOptions(**field)


@pytest.mark.parametrize(("number", "power"), [(0, 1), (1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (196, 256), (257, 512)])
def test_next_power_of_2(number, power):
    assert next_power_of_2(number) == power


def test_the_backend_is_explicit():
    assert resolve(None) == "reference"
    assert resolve("triton") == "triton"


def test_a_missing_wheel_is_named(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "triton" else find(name))
    with pytest.raises(KernelError, match=r"needs the wheel triton.*pip install 'eyeshine\[kernels\]'"):
        resolve("triton")


def test_a_missing_device_is_named(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(KernelError, match=r"needs a CUDA device and torch .* sees none"):
        resolve("triton")


def test_the_reference_needs_neither_torch_nor_triton():
    program = (
        "import sys, numpy; from eyeshine_kernels.relevance import relevance; "
        "relevance(numpy.ones((1, 1, 1, 2)), numpy.ones((1, 1, 3, 2)), heads=1); "
        "sys.exit(bool({'torch', 'triton', 'eyeshine'} & set(sys.modules)))"
    )
    folder = importlib.import_module("eyeshine_kernels").__path__[0]
    environment = {"PYTHONPATH": folder.rpartition("/")[0]}
    assert subprocess.run([sys.executable, "-c", program], env=environment).returncode == 0
