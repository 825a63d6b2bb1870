"""multiscale: the definition against torch's own operators in float64, the paper's printed form, the kernel."""

import importlib
import itertools
import math
import subprocess
import sys
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from torch.nn import functional

from eyeshine_kernels.backend import KernelError
from eyeshine_kernels.multiscale import MLP, MultiscaleOptions, enhance_contrast, multiscale
from eyeshine_kernels.multiscale.reference import area_matrix, bilinear_matrix

RESOLUTION = MultiscaleOptions()
LITERAL = MultiscaleOptions(form="literal")
SETTINGS = {
    "defaults": RESOLUTION,
    "context": MultiscaleOptions(rho=0.05),
    "one scale": MultiscaleOptions(scales=(1.0,)),
    "small scales": MultiscaleOptions(scales=(0.9, 0.3, 0.15, 0.01)),
    "sharp": MultiscaleOptions(temperature=0.02, alpha=3, beta=0.5),
    "soft": MultiscaleOptions(temperature=1.0, alpha=0.5, beta=5, rho=1),
}
# 1 x 1, 1 x N, N x 1, primes, odd and even, powers of two and their neighbours, the real ones.
GRIDS = [(1, 1), (1, 2), (3, 1), (1, 13), (2, 2), (5, 7), (7, 7), (3, 21), (5, 13), (127, 1), (14, 14)]
LARGE = [(16, 16), (24, 24), (1, 577), (27, 27)]


def inputs(images, blocks, prompts, grid, channels, *, seed=0):
    """Float32 queries in three clusters around a shared direction, a sparse base map as ReLU leaves it, theta."""
    random = np.random.default_rng(seed)
    patches = math.prod(grid)
    means = random.standard_normal((images, blocks, 3, channels))
    cluster = np.sort(random.integers(0, 3, patches))
    queries = 2 + means[:, :, cluster] + 0.5 * random.standard_normal((images, blocks, patches, channels))
    base = np.maximum(random.standard_normal((images, prompts, patches)) + (cluster == 0), 0) * 1e-3
    theta = random.standard_normal(blocks)
    return {
        "queries": queries.astype(np.float32),
        "base": base.astype(np.float32),
        "layer_weights": theta.astype(np.float32),
    }


def as_tensors(named, device, dtype=torch.float32):
    """On the device; theta stays float32."""
    kept = ("layer_weights",)
    return {
        name: torch.from_numpy(array).to(device, torch.float32 if name in kept else dtype)
        for name, array in named.items()
    }


def as_doubles(tensors):
    return {name: tensor.detach().cpu().double().numpy() for name, tensor in tensors.items()}


def slow(named, grid, options):
    """The reading of readings.md, part B, with torch's operators, float64, image by image and prompt by prompt."""
    queries, base = (torch.from_numpy(named[name]).double() for name in ("queries", "base"))
    theta = torch.from_numpy(named["layer_weights"]).double()
    blocks, channels = queries.shape[1], queries.shape[3]
    weights = functional.softplus(theta) / functional.softplus(theta).sum()
    maps, semantics = torch.zeros(base.shape).double(), torch.zeros(base.shape).double()
    for b, p in np.ndindex(*base.shape[:2]):
        share = base[b, p] / base[b, p].sum()
        for k, s in itertools.product(range(blocks), options.scales):
            size = (math.ceil(s * grid[0]), math.ceil(s * grid[1]))
            centred = queries[b, k] - queries[b, k].mean(0)
            image = centred.T.reshape(1, channels, *grid)
            f = functional.normalize(functional.interpolate(image, size, mode="area").flatten(2)[0].T)
            e = functional.interpolate(share.reshape(1, 1, *grid), size, mode="area").flatten()
            r = (f @ f.T / options.temperature).softmax(-1) @ e
            r = functional.interpolate(r.reshape(1, 1, *size), grid, mode="bilinear", align_corners=False).flatten()
            if r.std(correction=0) > 0.01 * r.mean():
                z = (r - r.mean()) / r.std(correction=0)
                semantics[b, p] += weights[k] / len(options.scales) * z
        level = semantics[b, p]
        maps[b, p] = base[b, p] * (1 + options.alpha * torch.sigmoid(options.beta * level))
        if options.rho and level.max() > level.min():
            context = (level - level.min()) / (level.max() - level.min())
            maps[b, p] += options.rho * options.alpha * base[b, p].max() * context
    return maps.numpy(), semantics.numpy()


class Network(torch.nn.Module):
    """MMEL's eq. 1 to 9 as printed, the mean over keys for SemanticLevel, the mean over layers."""

    def __init__(self, channels, *, identity=False):
        super().__init__()
        linears = torch.nn.Linear(channels, 2 * channels), torch.nn.Linear(2 * channels, channels)
        layers = [linears[0], torch.nn.ReLU(), linears[1], torch.nn.LayerNorm(channels)]
        self.transform = torch.nn.Sequential(*([] if identity else layers))

    def forward(self, queries, base, theta, options):
        total = 0
        for s in options.scales:
            f = functional.normalize(self.transform(queries * s), dim=-1)
            attention = f @ f.transpose(-1, -2) / math.sqrt(queries.shape[-1])
            weighted = attention * functional.softplus(theta)[:, None, None]
            total = total + weighted.mean(-1).mean(1)
        semantics = total[:, None].expand(base.shape)
        return base * (1 + options.alpha * torch.sigmoid(semantics)), semantics


def network(channels, *, biased=True, identity=False):
    """A seeded float64 network and its weights; ``biased`` draws all biases and LayerNorm's gain, too."""
    torch.manual_seed(0)
    module = Network(channels, identity=identity).double()
    if identity:
        return module, None
    first, _, second, norm = module.transform
    with torch.no_grad():
        for linear in (first, second):
            if not biased:
                linear.bias.zero_()
        if biased:
            norm.weight.normal_(1, 0.1)
            norm.bias.normal_(0, 0.1)
    optional = {"first_bias": first.bias, "second_bias": second.bias, "gain": norm.weight, "shift": norm.bias}
    weights = {"first": first.weight, "second": second.weight, **(optional if biased else {})}
    return module, {name: weight.detach() for name, weight in weights.items()}


def kendall(first, second):
    """Tau-a over all pairs: ties of one that are no ties of the other count against it."""
    pairs = np.triu_indices(len(first), 1)
    signs = [np.sign(row[pairs[0]] - row[pairs[1]]) for row in (first, second)]
    return float((signs[0] == signs[1]).mean() - (signs[0] == -signs[1])[signs[0] != 0].sum() / len(pairs[0]))


# Resizing


@pytest.mark.parametrize("size", [1, 2, 3, 7, 14, 16, 27])
def test_resizing_is_that_of_torch(size):
    for cells in range(1, size + 1):
        row = torch.randn(1, 1, size, dtype=torch.float64)
        area = functional.interpolate(row, cells, mode="area")
        np.testing.assert_allclose(area_matrix(size, cells) @ row[0, 0].numpy(), area[0, 0], atol=1e-12)
        up = functional.interpolate(area, size, mode="linear", align_corners=False)
        np.testing.assert_allclose(bilinear_matrix(cells, size) @ area[0, 0].numpy(), up[0, 0], atol=1e-12)


def test_scales_round_up():
    options = MultiscaleOptions(scales=(1.0, 0.75, 0.5, 0.55, 0.01))
    assert options.cells((14, 7)) == ((14, 7), (11, 6), (7, 4), (8, 4), (1, 1))
    assert options.cells((20, 100)) == ((20, 100), (15, 75), (10, 50), (11, 55), (1, 1))


# The resolution form


@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("grid", [(1, 2), (1, 13), (5, 7), (8, 8), (11, 3)], ids=str)
def test_reference_is_the_reading(options, grid, assert_close):
    named = inputs(2, 3, 2, grid, 6)
    got = multiscale(**named, grid=grid, options=options)
    maps, semantics = slow(named, grid, options)
    assert got.maps.dtype == got.semantics.dtype == np.float32
    assert_close(got.maps, maps)
    assert_close(got.semantics, semantics)
    double = multiscale(**{name: array.astype(float) for name, array in named.items()}, grid=grid, options=options)
    np.testing.assert_allclose(double.maps, maps, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(double.semantics, semantics, rtol=1e-9, atol=1e-12)


def test_twelve_blocks_with_weights_of_their_own(assert_close):
    named = inputs(1, 12, 2, (5, 4), 8, seed=3)
    assert len(set(named["layer_weights"].tolist())) == 12
    got = multiscale(**named, grid=(5, 4), options=RESOLUTION)
    maps, semantics = slow(named, (5, 4), RESOLUTION)
    assert_close(got.maps, maps)
    assert_close(got.semantics, semantics)
    equal = multiscale(**{**named, "layer_weights": None}, grid=(5, 4), options=RESOLUTION)
    assert np.abs(got.semantics - equal.semantics).max() > 0.01 * np.abs(equal.semantics).max()


def test_the_gate_is_neither_constant_nor_saturated():
    """What the printed form is (B4); the spread and the change of order are those that the reading states."""
    named = inputs(1, 4, 1, (14, 14), 64)
    named["base"] += 1e-4
    got = multiscale(**named, grid=(14, 14))
    gate = got.maps / named["base"]
    assert 1 <= gate.min() < 1.9
    assert 2.5 < gate.max() <= 3
    assert 0.5 < kendall(named["base"][0, 0], got.maps[0, 0]) < 0.99


def test_context_lights_up_patches_without_evidence():
    named = inputs(1, 2, 1, (7, 7), 16)
    dark = named["base"][0, 0] == 0
    assert dark.any()
    assert (multiscale(**named, grid=(7, 7)).maps[0, 0, dark] == 0).all()
    lit = multiscale(**named, grid=(7, 7), options=MultiscaleOptions(rho=0.05)).maps[0, 0, dark]
    assert (lit > 0).mean() > 0.9
    assert lit.max() <= 0.05 * 2 * named["base"].max() * (1 + 1e-6)


@pytest.mark.parametrize("backend", ["reference", "triton"])
class TestBothBackends:
    """Properties of the definition, held by the kernel as well."""

    @pytest.fixture
    def run(self, backend, device):
        def call(named, grid, **more):
            if backend == "triton":
                named = as_tensors(named, device)
            got = multiscale(**named, grid=grid, backend=backend, **more)
            return [np.asarray(torch.as_tensor(entry).cpu()) for entry in (got.maps, got.semantics)]

        return call

    def test_an_all_zero_base_gives_an_all_zero_map(self, run):
        named = inputs(1, 2, 3, (3, 4), 5)
        named["base"][0, 1] = 0
        maps, semantics = run(named, (3, 4), options=MultiscaleOptions(rho=1))
        assert (maps[0, 1] == 0).all()
        assert (semantics[0, 1] == 0).all()
        assert (maps[0, [0, 2]].max(-1) > 0).all()

    @pytest.mark.parametrize("value", [0.0, 0.1, -3.3, 1e4])
    def test_equal_queries_change_no_order(self, run, value):
        named = inputs(1, 2, 1, (7, 6), 9)
        named["queries"][:] = np.float32(value) * np.arange(1, 10, dtype=np.float32)
        maps, semantics = run(named, (7, 6))
        assert (semantics == 0).all()
        np.testing.assert_allclose(maps, 2 * named["base"], rtol=1e-6)

    def test_queries_equal_up_to_rounding_are_equal(self, run):
        named = inputs(1, 1, 1, (7, 6), 9)
        noise = np.random.default_rng(0).choice([-1, 0, 1], named["queries"].shape) * 1.2e-7
        named["queries"][:] = 5 * (1 + noise)
        assert (run(named, (7, 6))[1] == 0).all()

    def test_queries_that_cancel_out_in_a_coarse_cell_leave_a_map(self, run):
        """A chessboard of opposite queries: at scale .5 all that is left of a cell is rounding error."""
        named = inputs(1, 1, 2, (6, 6), 9)
        board = np.where(np.indices((6, 6)).sum(0) % 2, 1, -1).reshape(36, 1)
        named["queries"][0, 0] = board * np.linspace(0.1, 3, 9, dtype=np.float32)
        maps, semantics = run(named, (6, 6), options=MultiscaleOptions(scales=(1.0, 0.5)))
        assert np.isfinite(semantics).all()
        assert (maps >= named["base"]).all()
        assert (maps <= 3 * named["base"] * (1 + 1e-6)).all()

    def test_a_constant_base_is_relevant_everywhere(self, run):
        named = inputs(1, 2, 1, (5, 5), 9)
        named["base"][:] = 0.25
        maps, semantics = run(named, (5, 5))
        assert (semantics == 0).all()
        np.testing.assert_allclose(maps, 0.5, rtol=1e-6)

    def test_the_unit_of_the_base_map_is_kept(self, run):
        named = inputs(1, 2, 2, (5, 5), 9)
        maps, semantics = run(named, (5, 5))
        scaled = run({**named, "base": named["base"] * np.float32(2.0**-60)}, (5, 5))
        np.testing.assert_allclose(scaled[1], semantics, atol=1e-5)
        np.testing.assert_allclose(scaled[0] * 2.0**60, maps, rtol=1e-4)

    def test_theta_weighs_blocks(self, run):
        named = inputs(1, 3, 1, (5, 5), 9)
        named["layer_weights"][:] = (-60, 3, -60)
        alone = {**named, "queries": named["queries"][:, 1:2].copy(), "layer_weights": named["layer_weights"][1:2]}
        np.testing.assert_allclose(run(named, (5, 5))[1], run(alone, (5, 5))[1], atol=1e-5)
        named["layer_weights"][:] = -60  # softplus is e^-60: the shares are equal all the same
        equal = run(named, (5, 5))[1]
        del named["layer_weights"]
        np.testing.assert_allclose(equal, run(named, (5, 5))[1], atol=1e-5)

    @pytest.mark.parametrize("options", [MultiscaleOptions(rho=0.1), LITERAL], ids=["resolution", "literal"])
    def test_a_nan_is_not_hidden(self, run, options):
        named = inputs(2, 2, 2, (3, 4), 5)
        named["base"][0, 1, 3] = np.nan
        maps, _ = run(named, (3, 4), options=options)
        assert np.isnan(maps[0, 1, 3])
        assert np.isnan(maps[0, 1]).all() == (options.form == "resolution")
        assert np.isfinite(maps[[0, 1, 1], [0, 0, 1]]).all()
        named = inputs(2, 2, 2, (3, 4), 5)
        named["queries"][0, 1, 7, 2] = np.nan
        maps, semantics = run(named, (3, 4), options=options)
        assert np.isnan(semantics[0]).all()
        assert np.isnan(maps[0]).all()
        assert np.isfinite(maps[1]).all()

    @pytest.mark.parametrize(("images", "prompts"), [(0, 2), (2, 0), (0, 0)])
    @pytest.mark.parametrize("options", [RESOLUTION, LITERAL], ids=["resolution", "literal"])
    def test_empty(self, run, images, prompts, options):
        for entry in run(inputs(images, 2, prompts, (3, 4), 5), (3, 4), options=options):
            assert entry.shape == (images, prompts, 12)

    @pytest.mark.parametrize("mlp", [False, True])
    def test_literal_of_equal_and_of_zero_queries(self, run, backend, device, mlp):
        named = inputs(1, 2, 1, (3, 4), 5)
        weights = network(5, biased=False)[1]
        tensors = {name: weight.float().to(device) for name, weight in weights.items()}
        given = tensors if backend == "triton" else {name: entry.cpu().numpy() for name, entry in tensors.items()}
        for value in (0, 1.5):
            named["queries"][:] = value
            more = {"options": LITERAL, "mlp": MLP(**given) if mlp else None}
            maps, semantics = run(named, (3, 4), **more)
            assert np.ptp(semantics) <= 1e-6
            assert (semantics == 0).all() == (value == 0)
            assert np.isfinite(maps).all()


# The literal form


@pytest.mark.parametrize("identity", [True, False], ids=["identity", "mlp"])
def test_literal_reference_is_the_equations(identity, assert_close):
    named = inputs(2, 3, 2, (5, 7), 6)
    module, weights = network(6, identity=identity)
    doubles = {name: torch.from_numpy(array).double() for name, array in named.items()}
    with torch.no_grad():
        maps, semantics = module(doubles["queries"], doubles["base"], doubles["layer_weights"], LITERAL)
    single = weights and MLP(**{name: weight.float().numpy() for name, weight in weights.items()})
    got = multiscale(**named, grid=(5, 7), options=LITERAL, mlp=single)
    assert got.maps.dtype == got.semantics.dtype == np.float32
    assert_close(got.maps, maps.numpy())
    assert_close(got.semantics, semantics.numpy())


@pytest.mark.parametrize("identity", [True, False], ids=["identity", "mlp"])
def test_the_literal_form_ranks_as_its_base_map(identity):
    """readings.md B4: the gate lies within 1.929..2.071, and so swaps only patches that are nearly equal."""
    named = inputs(1, 4, 1, (14, 14), 768)
    named["base"][:] = np.random.default_rng(1).gamma(0.5, size=named["base"].shape)
    weights = network(768, identity=identity)[1]
    mlp = weights and MLP(**{name: weight.numpy() for name, weight in weights.items()})
    got = multiscale(named["queries"], named["base"], grid=(14, 14), options=LITERAL, mlp=mlp)
    gate = got.maps / named["base"]
    assert gate.min() >= 1.929
    assert gate.max() <= 2.071
    assert kendall(named["base"][0, 0], got.maps[0, 0]) >= 0.99


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_scales_of_the_literal_form_change_nothing_without_biases(backend, device, assert_close):
    """readings.md B2: T(s x) = T(x), so three scales are three times one; with biases they differ."""
    named = {name: array.astype(np.float32) for name, array in inputs(1, 2, 1, (5, 5), 8).items()}
    for biased in (False, True):
        weights = network(8, biased=biased)[1]
        if backend == "triton":
            given = as_tensors(named, device)
            mlp = MLP(**{name: weight.float().to(device) for name, weight in weights.items()})
        else:
            given, mlp = named, MLP(**{name: weight.float().numpy() for name, weight in weights.items()})
        shared = {"grid": (5, 5), "mlp": mlp, "backend": backend}
        levels = [
            torch.as_tensor(
                multiscale(**given, **shared, options=MultiscaleOptions(form="literal", scales=s)).semantics
            )
            .cpu()
            .numpy()
            for s in ((1.0, 0.75, 0.5), (1.0,))
        ]
        if biased:
            assert np.abs(levels[0] - 3 * levels[1]).max() > 1e-3 * np.abs(levels[0]).max()
        else:
            assert_close(levels[0], 3 * levels[1])


# The kernel


def check_kernel(device, shape, options, assert_close, poisoned, *, dtype=torch.float32, theta=True):
    grid = shape[3]
    named = inputs(*shape)
    if not theta:
        del named["layer_weights"]
    tensors = as_tensors(named, device, dtype)
    got = multiscale(**tensors, grid=grid, options=options, backend="triton")
    assert poisoned() == (5 if options.form == "resolution" else 3)
    expected = multiscale(**as_doubles(tensors), grid=grid, options=options)
    # Inputs are the same rounded numbers for both, arithmetic and outputs are fp32: one tolerance for all dtypes.
    for name in ("maps", "semantics"):
        tensor = getattr(got, name)
        assert tensor.dtype == torch.float32
        assert tensor.device == tensors["queries"].device
        assert_close(tensor, getattr(expected, name))


@pytest.mark.parametrize("options", [*SETTINGS.values(), LITERAL], ids=[*SETTINGS, "literal"])
@pytest.mark.parametrize("theta", [True, False])
def test_kernel_is_the_reference_in_every_setting(options, theta, device, assert_close, poisoned):
    check_kernel(device, (2, 2, 2, (5, 4), 6), options, assert_close, poisoned, theta=theta)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_kernel_on_any_grid(grid, device, assert_close, poisoned):
    check_kernel(device, (1, 1, 1, grid, 4), MultiscaleOptions(rho=0.05), assert_close, poisoned)


@pytest.mark.parametrize("grid", LARGE, ids=str)
def test_kernel_on_large_grids(grid, device, assert_close, poisoned, monkeypatch):
    """In the interpreter with tiles of its own: there a program costs the same whatever its size."""
    if device == "cpu":
        launch = importlib.import_module("eyeshine_kernels.multiscale.launch")
        monkeypatch.setattr(launch, "CELLS", 128)
        monkeypatch.setattr(launch, "KEYS", 512)
    check_kernel(device, (1, 1, 2, grid, 4), MultiscaleOptions(rho=0.05), assert_close, poisoned)


@pytest.mark.parametrize("grid", [*GRIDS, *LARGE], ids=str)
def test_literal_kernel_on_any_grid(grid, device, assert_close, poisoned):
    check_kernel(device, (1, 2, 2, grid, 4), LITERAL, assert_close, poisoned)


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((1, 1, 1, (1, 3), 1), id="one-channel"),
        pytest.param((3, 2, 3, (2, 3), 5), id="several-of-all"),
        pytest.param((1, 1, 17, (2, 5), 7), id="prompts-past-the-least-tile"),
        pytest.param((1, 2, 1, (3, 3), 131), id="three-tiles-of-channels"),
        pytest.param((1, 5, 1, (2, 2), 3), id="many-blocks"),
    ],
)
@pytest.mark.parametrize("options", [RESOLUTION, LITERAL], ids=["resolution", "literal"])
def test_kernel_on_any_shape_and_dtype(shape, options, dtype, device, assert_close, poisoned):
    check_kernel(device, shape, options, assert_close, poisoned, dtype=dtype)


def test_kernel_on_more_prompts_than_a_tile(device, assert_close, poisoned):
    check_kernel(device, (2, 1, 67, (4, 5), 5), MultiscaleOptions(scales=(0.5,)), assert_close, poisoned)


@pytest.mark.gpu
@pytest.mark.parametrize("options", [RESOLUTION, LITERAL], ids=["resolution", "literal"])
@pytest.mark.parametrize("shape", [(1, 4, 10, (14, 14), 768), (2, 2, 130, (24, 24), 1024)], ids=["b16", "l14-336"])
def test_kernel_on_real_shapes(shape, options, dtype, device, assert_close, poisoned):
    check_kernel(device, shape, options, assert_close, poisoned, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_kernel_takes_a_float32_base_of_half_queries(dtype, device, assert_close):
    tensors = as_tensors(inputs(1, 2, 2, (5, 5), 8), device, dtype)
    tensors["base"] = tensors["base"].float() * 1e-9  # float16 would lose it
    got = multiscale(**tensors, grid=(5, 5), backend="triton")
    expected = multiscale(**as_doubles(tensors), grid=(5, 5))
    assert expected.maps.max() > 0
    assert_close(got.maps * 1e12, expected.maps * 1e12)


@pytest.mark.parametrize("biased", [True, False])
def test_literal_kernel_with_an_mlp(biased, dtype, device, assert_close, poisoned):
    tensors = as_tensors(inputs(2, 3, 2, (5, 7), 6), device, dtype)
    weights = {name: weight.float().to(device) for name, weight in network(6, biased=biased)[1].items()}
    before = poisoned()  # torch's own layers were met
    got = multiscale(**tensors, grid=(5, 7), options=LITERAL, mlp=MLP(**weights), backend="triton")
    assert poisoned() == before + 3
    expected = multiscale(**as_doubles(tensors), grid=(5, 7), options=LITERAL, mlp=MLP(**as_doubles(weights)))
    assert_close(got.maps, expected.maps)
    assert_close(got.semantics, expected.semantics)


@pytest.mark.parametrize("options", [RESOLUTION, LITERAL], ids=["resolution", "literal"])
def test_softplus_of_the_kernel_is_exact_where_it_is_small(options, device, assert_close):
    """(1 + exp(-15)) - 1 is 17 % off in float32: the logarithm of the sum would be, too."""
    tensors = as_tensors(inputs(1, 4, 1, (3, 4), 5), device)
    tensors["layer_weights"] = torch.tensor([-15.0, -14.0, -13.5, -16.2], device=device)
    got = multiscale(**tensors, grid=(3, 4), options=options, backend="triton")
    assert_close(got.semantics * 1e6, multiscale(**as_doubles(tensors), grid=(3, 4), options=options).semantics * 1e6)


def test_a_prompt_does_not_see_the_others(device):
    tensors = as_tensors(inputs(1, 2, 19, (3, 5), 7), device)
    together = multiscale(**tensors, grid=(3, 5), backend="triton").maps
    alone = multiscale(**{**tensors, "base": tensors["base"][:, 17:18].contiguous()}, grid=(3, 5), backend="triton")
    np.testing.assert_allclose(together[:, 17:18].cpu(), alone.maps.cpu(), rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("options", [RESOLUTION, LITERAL], ids=["resolution", "literal"])
def test_offsets_pass_two_to_the_31st(options):
    """B * N * D above 2^31 elements; the last image alone is compared."""
    images, grid, channels = 2900, (32, 32), 768
    random = torch.Generator("cuda").manual_seed(0)
    queries = torch.zeros((images, 1, 1024, channels), dtype=torch.float16, device="cuda")
    assert queries.numel() > 2**31
    queries[-1].normal_(generator=random)
    base = torch.rand((images, 1, 1024), device="cuda", generator=random)
    got = multiscale(queries, base, grid=grid, options=options, backend="triton")
    last = [tensor[-1:].double().cpu().numpy() for tensor in (queries, base)]
    expected = multiscale(*last, grid=grid, options=options).maps
    assert np.abs(got.maps[-1:].cpu().numpy() - expected).max() <= 1e-5 * expected.max()
    assert torch.isfinite(got.maps).all()


# Contrast enhancement


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("length", [1, 2, 7, 101, 196])
def test_contrast_is_a_percentile_clip_and_a_min_max(length, dtype):
    maps = np.random.default_rng(0).gamma(0.5, size=(2, 3, length)).astype(dtype)
    got = enhance_contrast(maps, low_percent=5, high_percent=90)
    assert got.dtype == dtype
    for row, out in zip(maps.reshape(-1, length).astype(float), got.reshape(-1, length), strict=True):
        ranked, ends = sorted(row), []
        for percent in (5, 90):
            place = percent / 100 * (length - 1)
            below = math.floor(place)
            ends.append(ranked[below] + (place - below) * (ranked[min(below + 1, length - 1)] - ranked[below]))
        low, high = ends
        expected = [(min(max(x, low), high) - low) / (high - low) if high > low else 0.0 for x in row]
        np.testing.assert_allclose(out, expected, atol=1e-3 if dtype == np.float16 else 1e-5)


def test_contrast_of_a_constant_row_is_zero_and_a_nan_shows():
    maps = np.ones((3, 5), np.float32)
    maps[1] = 0
    maps[2, 1] = np.nan
    got = enhance_contrast(maps)
    assert (got[:2] == 0).all()
    assert np.isnan(got[2]).all()
    assert enhance_contrast(np.ones((0, 5))).shape == (0, 5)


@pytest.mark.parametrize(
    ("maps", "percents"),
    [
        ([1.0], (1, 99)),
        (np.ones(3, int), (1, 99)),
        (np.ones((2, 0)), (1, 99)),
        (np.ones(()), (1, 99)),
        (np.ones(3), (99, 1)),
        (np.ones(3), (-1, 99)),
        (np.ones(3), (float("nan"), 99)),
    ],
)
def test_contrast_refuses(maps, percents):
    with pytest.raises(KernelError, match=r"got .* allowed"):
        enhance_contrast(maps, low_percent=percents[0], high_percent=percents[1])


# What is refused

NAMED = inputs(2, 3, 4, (5, 7), 6)
SQUARE = np.ones((6, 6), np.float32)
WRONG = {
    "backend": ({"backend": "cuda"}, "unknown kernel backend: got 'cuda'"),
    "list": ({"base": [1.0]}, "base: got list"),
    "integers": ({"queries": np.ones((2, 3, 35, 6), int)}, "queries: got int64"),
    "axes": ({"queries": np.ones((2, 35, 6))}, r"got queries \(2, 35, 6\)"),
    "no block": ({"queries": np.ones((2, 0, 35, 6))}, "allowed at least 1 block and 1 channel"),
    "no channel": ({"queries": np.ones((2, 3, 35, 0))}, "allowed at least 1 block and 1 channel"),
    "class token": ({"queries": np.ones((2, 3, 36, 6))}, r"grid: got \(5, 7\).* product of 36"),
    "grid": ({"grid": (5, 5)}, r"grid: got \(5, 5\).* product of 35"),
    "negative grid": ({"grid": (-5, -7)}, r"grid: got \(-5, -7\)"),
    "base": ({"base": np.ones((2, 4, 36))}, r"base: got \(2, 4, 36\).*\[2, P, 35\]"),
    "theta": ({"layer_weights": np.ones(4)}, r"layer_weights: got \(4,\), allowed \(3,\)"),
    "mlp": ({"mlp": MLP(SQUARE, SQUARE)}, "mlp: refused by form 'resolution'"),
    "first": ({"mlp": MLP(SQUARE[:, 1:], SQUARE), "options": LITERAL}, r"mlp.first: got \(6, 5\), allowed \(6, 6\)"),
    "second": ({"mlp": MLP(SQUARE, SQUARE[:, 1:]), "options": LITERAL}, r"mlp.second: got \(6, 5\), allowed \(6, 6\)"),
    "gain": ({"mlp": MLP(SQUARE, SQUARE, gain=np.ones(5)), "options": LITERAL}, r"mlp.gain: got \(5,\)"),
}


@pytest.mark.parametrize(("changed", "message"), WRONG.values(), ids=WRONG)
def test_wrong_arguments_are_named(changed, message):
    with pytest.raises(KernelError, match=message):
        multiscale(**{**NAMED, "grid": (5, 7), **changed})


def test_tensors_that_the_kernel_cannot_take_are_named(device):
    tensors = as_tensors(NAMED, device)
    shared = {"grid": (5, 7), "backend": "triton"}
    with pytest.raises(KernelError, match="base: got ndarray"):
        multiscale(**{**tensors, "base": NAMED["base"]}, **shared)
    with pytest.raises(KernelError, match=r"base: got torch\.float64"):
        multiscale(**{**tensors, "base": tensors["base"].double()}, **shared)
    with pytest.raises(KernelError, match=r"queries: got strides .* call \.contiguous\(\)"):
        multiscale(**{**tensors, "queries": tensors["queries"].transpose(0, 1)}, **shared)
    with pytest.raises(KernelError, match="base: got device meta"):
        multiscale(**{**tensors, "base": tensors["base"].to("meta")}, **shared)
    long = torch.ones((1, 1, 65537, 1), device=device)
    with pytest.raises(KernelError, match="too many patches in a map: got 65537"):
        multiscale(long, long[..., 0], grid=(1, 65537), backend="triton")
    wide = torch.ones((1, 1, 1, 8193), device=device)
    with pytest.raises(KernelError, match="too many channels for form 'literal': got 8193"):
        multiscale(wide, wide[..., 0], grid=(1, 1), options=LITERAL, backend="triton")


@pytest.mark.parametrize(
    "field",
    [
        {"scales": ()},
        {"scales": [1.0]},
        {"scales": (0.0,)},
        {"scales": (1.5,)},
        {"scales": (True,)},
        {"scales": (1.0,) * 9},
        {"temperature": 0.01},
        {"temperature": float("nan")},
        {"alpha": -1},
        {"beta": "2"},
        {"rho": 1.1},
        {"rho": True},
    ],
    ids=str,
)
def test_options_check_themselves(field):
    with pytest.raises(KernelError, match=f"{next(iter(field))}: got .* allowed"):
        MultiscaleOptions(**field)


def test_forms_and_epsilons_are_checked_and_options_are_frozen():
    with pytest.raises(KernelError, match="unknown form: got 'pyramid', allowed resolution, literal"):
        MultiscaleOptions(form="pyramid")
    with pytest.raises(KernelError, match="epsilon: got 0"):
        MLP(SQUARE, SQUARE, epsilon=0)
    with pytest.raises(FrozenInstanceError):
        RESOLUTION.alpha = 1


def test_the_reference_needs_neither_torch_nor_triton():
    program = (
        "import sys, numpy; from eyeshine_kernels.multiscale import MultiscaleOptions, multiscale\n"
        "for form in ('resolution', 'literal'):\n"
        "    options = MultiscaleOptions(form=form)\n"
        "    multiscale(numpy.ones((1, 1, 6, 2)), numpy.ones((1, 1, 6)), grid=(2, 3), options=options)\n"
        "sys.exit(bool({'torch', 'triton', 'eyeshine'} & set(sys.modules)))"
    )
    folder = importlib.import_module("eyeshine_kernels").__path__[0]
    environment = {"PYTHONPATH": folder.rpartition("/")[0]}
    assert subprocess.run([sys.executable, "-c", program], env=environment).returncode == 0
