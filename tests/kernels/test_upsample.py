"""upsample: the definition against torch, the host's code and a slow loop, its properties, the kernel against it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from eyeshine.preprocess import CropBox
from eyeshine.upsample import to_image
from eyeshine_kernels.backend import KernelError
from eyeshine_kernels.upsample import upsample

KERNELS = Path(__file__).parents[2] / "kernels"

# 1, primes, powers of two and their neighbours, real grids, a row of patches with a class token too many (577).
GRIDS = [(1, 1), (1, 7), (7, 7), (14, 14), (13, 17), (16, 15), (27, 27), (1, 577)]
# One pixel, less than the grid, a prime, just below and just above a tile of 8 x 128 pixels.
SIZES = [(1, 1), (5, 3), (7, 127), (9, 129), (31, 61)]
CROPS = np.array([[0, 0, 31, 61], [3.25, 0, 27.75, 61], [0.3, 14.7, 31, 46.1]], np.float32)


def maps_of(*shape, seed=0):
    """Maps in 0..1, float32."""
    return np.random.default_rng(seed).random(shape, np.float32)


def slow(grid, height, width, box):
    """One map by the text of the definition, pixel by pixel, in float64."""
    rows, columns = grid.shape
    y0, x0, y1, x1 = map(float, box)
    heat = np.zeros((height, width))
    for row, column in np.ndindex(height, width):
        y, x = row + 0.5, column + 0.5
        if not (y0 <= y <= y1 and x0 <= x <= x1):
            continue
        v = min(max((y - y0) / ((y1 - y0) / rows) - 0.5, 0), rows - 1)  # in cells from the centre of the first
        u = min(max((x - x0) / ((x1 - x0) / columns) - 0.5, 0), columns - 1)
        for i, j in np.ndindex(rows, columns):  # the tent of each cell
            heat[row, column] += max(0, 1 - abs(v - i)) * max(0, 1 - abs(u - j)) * grid[i, j]
    return heat


# The definition


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_reference_equals_torch_on_whole_images(grid, size):
    maps = maps_of(2, 3, *grid).astype(np.float64)
    expected = torch.nn.functional.interpolate(torch.from_numpy(maps), size, mode="bilinear", align_corners=False)
    np.testing.assert_allclose(upsample(maps, size), expected, atol=1e-12)


@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (7, 7)], ids=str)
def test_reference_equals_the_slow_loop_in_crops(grid):
    maps = maps_of(3, 1, *grid).astype(np.float64)
    heat = upsample(maps, (31, 61), crops=CROPS)
    for image, box in enumerate(CROPS):
        np.testing.assert_allclose(heat[image, 0], slow(maps[image, 0], 31, 61, box), atol=1e-12)


@pytest.mark.parametrize("grid", [(7, 7), (14, 14), (27, 27), (1, 1)], ids=str)
@pytest.mark.parametrize("size", [(31, 61), (62, 122), (20, 40)], ids=str)
def test_reference_equals_the_host(grid, size):
    """At the image's size and at others, to which the boxes are scaled."""
    maps = maps_of(3, 2, *grid)
    scale = np.array([size[0] / 31, size[1] / 61] * 2)
    heat = upsample(maps, size, crops=CROPS.astype(np.float64) * scale)
    assert heat.dtype == np.float32
    for image, (y0, x0, y1, x1) in enumerate(CROPS.astype(float)):
        expected = to_image(maps[image], CropBox(y0, y1, x0, x1, 31, 61), size)
        np.testing.assert_allclose(heat[image], expected, atol=1e-6)
        np.testing.assert_array_equal(heat[image] == 0, expected == 0)


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_a_constant_map_stays_constant_and_ends_with_its_crop(backend, device):
    maps, crops = np.full((3, 1, 7, 7), 0.7, np.float32), CROPS
    if backend == "triton":
        maps, crops = torch.from_numpy(maps).to(device), torch.from_numpy(crops).to(device)
    heat = torch.as_tensor(upsample(maps, (31, 61), crops=crops, backend=backend)).cpu().numpy()
    for one, (y0, x0, y1, x1) in zip(heat[:, 0], CROPS, strict=True):
        y, x = np.arange(31)[:, None] + 0.5, np.arange(61) + 0.5
        seen = (y >= y0) & (y <= y1) & (x >= x0) & (x <= x1)
        np.testing.assert_array_equal(one, np.where(seen, np.float32(0.7), 0))


def test_values_stay_in_the_range_of_the_map():
    heat = upsample(maps_of(1, 3, 5, 5) - 0.5, (40, 40))
    assert heat.min() >= -0.5
    assert heat.max() <= 0.5


@pytest.mark.parametrize("shape", [(0, 3, 7, 7), (2, 0, 7, 7)])
def test_empty_in_empty_out(shape, dtype, device):
    assert upsample(np.zeros(shape, np.float32), (4, 5)).shape == (*shape[:2], 4, 5)
    crops = torch.zeros(shape[0], 4, device=device)
    heat = upsample(torch.zeros(shape, dtype=dtype, device=device), (4, 5), crops=crops, backend="triton")
    assert heat.shape == (*shape[:2], 4, 5)
    assert heat.dtype == dtype


def test_half_precision_is_computed_in_single():
    maps = maps_of(1, 2, 7, 7).astype(np.float16)
    heat = upsample(maps, (31, 61))
    assert heat.dtype == np.float16
    np.testing.assert_array_equal(heat, upsample(maps.astype(np.float32), (31, 61)).astype(np.float16))


# What is refused


@pytest.mark.parametrize("backend", ["reference", "triton"])
@pytest.mark.parametrize(
    ("shape", "size", "crops", "said"),
    [
        ((3, 7, 7), (4, 5), None, "got shape (3, 7, 7), allowed [B, P, h, w]"),
        ((1, 3, 0, 7), (4, 5), None, "maps have no grid"),
        ((1, 3, 7, 7), (0, 5), None, "not an image size: got (0, 5), allowed (height, width), each 1..4194304"),
        ((1, 3, 7, 7), (4, 5.0), None, "not an image size: got (4, 5.0)"),
        ((1, 3, 7, 7), 224, None, "not an image size: got 224"),
        ((1, 3, 7, 7), (4, 4194305), None, "not an image size"),
        ((2, 3, 7, 7), (4, 5), (1, 4), "crops do not fit the maps (2, 3, 7, 7): got shape (1, 4), allowed (2, 4)"),
    ],
)
def test_wrong_shapes_and_sizes_are_refused(backend, shape, size, crops, said, device):
    given = [None if one is None else np.ones(one, np.float32) for one in (shape, crops)]
    if backend == "triton":
        given = [None if one is None else torch.from_numpy(one).to(device) for one in given]
    with pytest.raises(KernelError) as error:
        upsample(given[0], size, crops=given[1], backend=backend)
    assert said in str(error.value)


@pytest.mark.parametrize("box", [(0, 0, 4, 6), (2, 0, 2, 5), (-1, 0, 4, 5), (0, 3, 4, 1), (0, np.nan, 4, 5)])
def test_the_reference_refuses_boxes_that_are_no_regions(box):
    with pytest.raises(KernelError, match=r"crop is not a region of the image: got rows .* allowed within 4x5"):
        upsample(maps_of(1, 1, 2, 2), (4, 5), crops=np.array([box], np.float32))


@pytest.mark.parametrize(
    ("backend", "maps", "crops", "said"),
    [
        ("reference", np.zeros((1, 1, 2, 2), int), None, "maps cannot be computed: got int64"),
        ("reference", torch.zeros(1, 1, 2, 2), None, "got Tensor, allowed a NumPy array"),
        ("triton", torch.zeros(1, 1, 2, 2).double(), None, "maps cannot be computed: got torch.float64"),
        ("triton", np.zeros((1, 1, 2, 2), np.float32), None, "got ndarray, allowed a torch tensor"),
        ("triton", torch.zeros(1, 1, 2, 2), torch.zeros(1, 4).half(), "crops cannot be computed: got torch.float16"),
        ("triton", torch.zeros(1, 1, 2, 3).mT, None, "allowed contiguous only; call .contiguous()"),
    ],
)
def test_other_kinds_dtypes_and_layouts_are_refused(backend, maps, crops, said):
    with pytest.raises(KernelError) as error:
        upsample(maps, (4, 5), crops=crops, backend=backend)
    assert said in str(error.value)


# The kernel


def compare(maps, size, crops, dtype, device, tolerances):
    """The kernel on rounded maps against the definition on the same rounded maps, in float64."""
    given = torch.from_numpy(maps).to(dtype).to(device)
    boxes = None if crops is None else torch.from_numpy(crops).to(device)
    heat = upsample(given, size, crops=boxes, backend="triton")
    assert heat.dtype == dtype
    assert heat.device == given.device
    assert heat.is_contiguous()
    expected = upsample(given.double().cpu().numpy(), size, crops=crops)
    error = np.abs(heat.double().cpu().numpy() - expected).max()  # of at most 1
    # A place along h cells is off by up to 2e-7 h (four roundings); up to 32 cells that is in the table's row.
    assert error <= tolerances[dtype] * max(1, *(side / 32 for side in maps.shape[2:]))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_kernel_equals_the_reference(grid, dtype, device, poisoned, tolerances):
    compare(maps_of(2, 1, *grid), (9, 129), None, dtype, device, tolerances)
    compare(maps_of(1, 2, *grid), (31, 61), CROPS[2:], dtype, device, tolerances)
    assert poisoned() == 2


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_kernel_fills_every_size(size, device, poisoned, tolerances):
    compare(maps_of(1, 2, 7, 7), size, None, torch.float32, device, tolerances)
    assert poisoned() == 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (3, 4)], ids=str)
def test_kernel_finds_every_map_and_its_crop(shape, device, poisoned, tolerances):
    crops = np.stack([CROPS[image % 3] for image in range(shape[0])])
    compare(maps_of(*shape, 3, 5), (31, 61), crops, torch.float32, device, tolerances)
    assert poisoned() == 1


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_a_nan_stays_around_its_cell(backend, device):
    maps = np.ones((1, 2, 4, 4), np.float32)
    maps[0, 1, 0, 3] = np.nan
    given = torch.from_numpy(maps).to(device) if backend == "triton" else maps
    heat = torch.as_tensor(upsample(given, (16, 16), backend=backend)).cpu().numpy()
    expected = np.zeros((1, 2, 16, 16), bool)
    expected[0, 1, :6, 10:] = True  # from the cell's edge half a cell further, to the centres of its neighbours
    np.testing.assert_array_equal(np.isnan(heat), expected)


def test_a_nan_of_a_crop_shows(device):
    """The kernel does not look at the values beforehand, and must not make a plausible map of them."""
    crops = torch.tensor([[0.0, float("nan"), 8, 8], [0, 0, float("nan"), 8], [3, 0, 2, 8]], device=device)
    heat = upsample(torch.ones(3, 1, 4, 4, device=device), (8, 8), crops=crops, backend="triton")
    assert heat[:2].isnan().all()
    assert not heat[2].any()


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_a_crop_between_two_centres_shows_nothing(backend, device):
    """Places beside it are further off than an int32 counts."""
    start = np.float32(4.1)
    crops = np.array([[0, start, 2, np.nextafter(start, np.float32(5))]], np.float32)
    given = [np.ones((1, 1, 1, 577), np.float32), crops]
    if backend == "triton":
        given = [torch.from_numpy(array).to(device) for array in given]
    heat = upsample(given[0], (2, 300), crops=given[1], backend=backend)
    assert not heat.any()


PTX = """
import json, sys
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from eyeshine_kernels.upsample.kernel import AOT
report = {}
for name, variant in AOT.items():
    for case, more in {
        "": {},
        " of one": dict.fromkeys(("prompts", "rows", "columns", "height", "width"), 1) | {"crops": None},
    }.items():
        kernel, constants = variant["kernel"], variant["constants"] | more
        types = variant["signature"] | dict.fromkeys(constants, "constexpr")
        source = ASTSource(kernel, {name: types[name] for name in kernel.arg_names}, constexprs=constants)
        options = {"num_warps": variant["num_warps"], "enable_fp_fusion": True}
        ptx = compile(source, target=GPUTarget("cuda", 80, 32), options=options).asm["ptx"]
        report[name + case] = [ptx.count(word) for word in ("st.global", "ld.local", "st.local")]
report["torch"] = "torch" in sys.modules
print(json.dumps(report))
"""


def test_each_pixel_is_written_once_by_a_device(tmp_path):
    """Counted in the code for a GPU: 8 pixels per thread, none spilled. A side of 1 is a constant of the compiler."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": str(KERNELS), "TRITON_CACHE_DIR": str(tmp_path), "TRITON_DEFAULT_FP_FUSION": "1"}
    done = subprocess.run([sys.executable, "-c", PTX], env=environment, capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    assert report.pop("torch") is False
    assert len(report) == 6
    for name, counts in report.items():
        assert counts == [8, 0, 0], (name, counts)


# On hardware: what the interpreter cannot show


@pytest.mark.gpu
@pytest.mark.parametrize("size", [(224, 224), (479, 641), (1080, 1920)], ids=str)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_hardware_equals_the_reference_on_large_images(grid, size, dtype, poisoned, tolerances):
    crops = np.array([[0, 0, *size], [0.37, 21.6, 201.2, 200.1]], np.float32)
    compare(maps_of(2, 5, *grid), size, crops, dtype, "cuda", tolerances)
    assert poisoned() == 1


@pytest.mark.gpu
def test_hardware_counts_offsets_in_64_bits():
    """The last map lies beyond 2^31 elements: 4.4 GB in float16."""
    maps = torch.zeros(1, 265, 14, 14, dtype=torch.float16, device="cuda")
    maps[0, -1] = 1
    heat = upsample(maps, (2160, 3840), backend="triton")
    assert bool((heat[0, -1] == 1).all())
    assert not heat[0, :-1].any()
