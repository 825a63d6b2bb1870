"""overlay: the definition against the host's pictures and a slow loop, its edges, the kernel level by level."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from eyeshine import render
from eyeshine.preprocess import CropBox
from eyeshine.upsample import to_image
from eyeshine_kernels.backend import KernelError
from eyeshine_kernels.overlay import MARK, overlay
from eyeshine_kernels.upsample import upsample

KERNELS = Path(__file__).parents[2] / "kernels"

LEVELS = np.linspace(0, 1, 256)
# The host's table of alpha .9, by its formula.
STRENGTHS = np.rint(0.9 * 255 * LEVELS**2 * (3 - 2 * LEVELS)).astype(np.uint8)
COLOURS = np.array(render.COLOURS)
# Any two levels differ here in some byte, so that a wrong level shows.
NOISE = np.random.default_rng(7).integers(0, 256, (256, 3), np.uint8)

GRIDS = [(1, 1), (1, 7), (7, 7), (14, 14), (13, 17), (27, 27), (1, 577)]
SIZES = [(1, 1), (5, 3), (7, 127), (9, 129), (31, 61)]
CROPS = np.array([[0, 0, 31, 61], [3.25, 0, 27.75, 61], [0.3, 14.7, 31, 46.1]], np.float32)


def photos(*shape, seed=0):
    """Random pixels, uint8 [..., 3]."""
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


def maps_of(*shape, seed=1):
    """Maps in 0..1, float32, with zeros and ones."""
    return np.clip(np.random.default_rng(seed).random(shape, np.float32) * 1.4 - 0.2, 0, 1)


def rounded(numerator, denominator):
    """Half up, in Python's integers."""
    return (2 * numerator + denominator) // (2 * denominator)


def slow_pixel(photo, heat, colours, strengths, mute):
    """One pixel by the text of the definition."""
    level = math.floor(255 * min(max(heat, 0), 1) + 0.5)
    red, green, blue = (int(value) for value in photo)
    grey = rounded(19595 * red + 38470 * green + 7471 * blue, 65536)
    muted = math.floor(65536 * mute + 0.5)
    strength = int(strengths[level])
    dim = [rounded((65536 - muted) * value + muted * grey, 65536) for value in (red, green, blue)]
    return [rounded((255 - strength) * d + strength * int(c), 255) for d, c in zip(dim, colours[level], strict=True)]


# The definition


@pytest.mark.parametrize("mute", [0, 0.5, 0.3, 1])
def test_reference_equals_the_slow_loop(mute):
    """On the cells themselves: a map of the image's size is not interpolated."""
    images, maps = photos(2, 9, 11), maps_of(2, 3, 9, 11).astype(np.float64)
    strengths = np.random.default_rng(5).integers(0, 256, 256, np.uint8)
    pictures = overlay(images, maps, NOISE, strengths, mute=mute)
    assert pictures.dtype == np.uint8
    for b, p, y, x in np.ndindex(maps.shape):
        assert pictures[b, p, y, x].tolist() == slow_pixel(images[b, y, x], maps[b, p, y, x], NOISE, strengths, mute)


@pytest.mark.parametrize("mute", [0, 0.5, 0.8, 1])
def test_reference_is_what_the_host_draws(mute):
    """Within 2 of 255: Pillow cuts where it mutes, and rounds on the way."""
    images, maps = photos(3, 31, 61), maps_of(3, 2, 7, 7)
    pictures = overlay(images, maps, COLOURS, STRENGTHS, mute=mute, crops=CROPS)
    for image, (y0, x0, y1, x1) in enumerate(CROPS.astype(float)):
        heat = to_image(maps[image], CropBox(y0, y1, x0, x1, 31, 61))
        for prompt in range(2):
            expected = np.asarray(render.overlay(images[image], heat[prompt], mute=mute), int)
            # A level apart where float32 put the heat on the other side of an edge: up to 4 more by this table.
            difference = np.abs(pictures[image, prompt] - expected)
            assert (difference > 2).mean() < 1e-3
            assert difference.max() <= 6


def test_no_heat_leaves_the_photograph():
    images = photos(1, 20, 30)
    cold = np.zeros((1, 1, 7, 7), np.float32)
    np.testing.assert_array_equal(overlay(images, cold, COLOURS, STRENGTHS, mute=0)[:, 0], images)


@pytest.mark.parametrize("side", [-0.49, 0, 0.49])
@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_each_level_gets_its_colour(backend, side, device):
    """A level reaches half-way to its neighbours."""
    heat = ((np.arange(256) + side) / 255).astype(np.float32)
    arrays = photos(1, 16, 16), heat.reshape(1, 1, 16, 16), NOISE, np.full(256, 255, np.uint8)
    if backend == "triton":
        arrays = [torch.from_numpy(array).to(device) for array in arrays]
    picture = torch.as_tensor(overlay(*arrays, backend=backend)).cpu().numpy()
    np.testing.assert_array_equal(picture.reshape(256, 3), NOISE)


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_heat_beyond_0_and_1_is_cut_and_a_nan_is_marked(backend, device):
    maps = np.array([-0.5, np.nan, 1.5, 1], np.float32).reshape(1, 4, 1, 1)
    arrays = photos(1, 1, 1), maps, NOISE, np.full(256, 255, np.uint8)
    if backend == "triton":
        arrays = [torch.from_numpy(array).to(device) for array in arrays]
    pictures = torch.as_tensor(overlay(*arrays, backend=backend)).cpu().numpy()
    np.testing.assert_array_equal(pictures.reshape(4, 3), [NOISE[0], MARK, NOISE[255], NOISE[255]])


@pytest.mark.parametrize(("images", "prompts"), [(0, 3), (2, 0)])
def test_empty_in_empty_out(images, prompts, dtype, device):
    arrays = photos(images, 4, 5), np.zeros((images, prompts, 7, 7), np.float32), COLOURS, STRENGTHS
    assert overlay(*arrays).shape == (images, prompts, 4, 5, 3)
    tensors = [torch.from_numpy(array).to(device) for array in arrays]
    tensors[1] = tensors[1].to(dtype)
    pictures = overlay(*tensors, backend="triton")
    assert pictures.shape == (images, prompts, 4, 5, 3)
    assert pictures.dtype == torch.uint8


# What is refused


@pytest.mark.parametrize("backend", ["reference", "triton"])
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"images": np.zeros((2, 9, 11), np.uint8)},
            "images have the wrong shape: got (2, 9, 11), allowed [B, H, W, 3]",
        ),
        ({"images": np.zeros((2, 9, 11, 4), np.uint8)}, "images have the wrong shape"),
        ({"images": np.zeros((2, 9, 11, 3), np.float32)}, "images cannot be read"),
        ({"images": np.zeros((2, 0, 11, 3), np.uint8)}, "not an image size: got (0, 11)"),
        (
            {"maps": maps_of(3, 3, 7, 7)},
            "maps do not fit the images (2, 9, 11, 3): got (3, 3, 7, 7), allowed [2, P, h, w]",
        ),
        ({"maps": maps_of(2, 3, 49)}, "maps do not fit the images"),
        ({"maps": maps_of(2, 3, 0, 7)}, "maps have no grid"),
        ({"maps": np.zeros((2, 3, 7, 7), int)}, "maps cannot be computed"),
        ({"colours": np.zeros((256, 4), np.uint8)}, "not look-up tables: got colours (256, 4)"),
        ({"colours": np.zeros((256, 3), np.float32)}, "colours cannot be read"),
        ({"strengths": np.zeros(255, np.uint8)}, "allowed [256, 3], [256]"),
        ({"crops": np.zeros((1, 4), np.float32)}, "crops do not fit the maps"),
        ({"mute": 1.5}, "mute is out of range: got 1.5, allowed 0..1"),
        ({"mute": math.nan}, "mute is out of range: got nan"),
        ({"mute": True}, "mute is out of range: got True"),
    ],
)
def test_what_does_not_fit_is_refused(backend, changed, said, device):
    call = {
        "images": photos(2, 9, 11),
        "maps": maps_of(2, 3, 7, 7),
        "colours": COLOURS,
        "strengths": STRENGTHS,
    } | changed
    if backend == "triton":
        moved = {name: torch.from_numpy(one).to(device) for name, one in call.items() if isinstance(one, np.ndarray)}
        call, said = call | moved, said.replace("cannot be read", "cannot be computed")
    with pytest.raises(KernelError) as error:
        overlay(**call, backend=backend)
    assert said in str(error.value)


# The kernel


def compare(images, maps, crops, mute, dtype, device):
    """The kernel against the definition on the same rounded maps in float64: equal, but at the edge of two levels."""
    maps = torch.from_numpy(maps).to(dtype).to(device)
    boxes = None if crops is None else torch.from_numpy(crops).to(device)
    tables = [torch.from_numpy(table).to(device) for table in (NOISE, STRENGTHS)]
    pictures = overlay(torch.from_numpy(images).to(device), maps, *tables, mute=mute, crops=boxes, backend="triton")
    assert pictures.is_contiguous()
    pictures = pictures.cpu().numpy()
    heat = upsample(maps.double().cpu().numpy(), images.shape[1:3], crops=crops)
    assert pictures.shape == (*heat.shape, 3)
    # docs/numerics.md allows the heat 1e-5, and a place along h cells 2e-7 h (see test_upsample.py).
    slack = 1e-5 * max(1, *(side / 32 for side in maps.shape[2:]))
    either = [  # the levels on both sides of what float32 may make of the heat; the same one nearly everywhere
        overlay(
            images, np.float64((255 * np.clip(heat + sign * slack, 0, 1) + 0.5) // 1 / 255), NOISE, STRENGTHS, mute=mute
        )
        for sign in (-1, 1)
    ]
    np.testing.assert_array_equal(((pictures != either[0]).any(-1)) & ((pictures != either[1]).any(-1)), False)
    assert (either[0] != either[1]).any(-1).mean() < 0.02 * max(1, slack / 1e-5)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_kernel_equals_the_reference(grid, dtype, device, poisoned):
    compare(photos(2, 9, 129), maps_of(2, 1, *grid), None, 0.5, dtype, device)
    compare(photos(1, 31, 61), maps_of(1, 2, *grid), CROPS[2:], 0.3, dtype, device)
    assert poisoned() == 2


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("mute", [0, 0.7, 1])
def test_kernel_fills_every_size(size, mute, device, poisoned):
    compare(photos(1, *size), maps_of(1, 2, 7, 7), None, mute, torch.float32, device)
    assert poisoned() == 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (4, 1), (2, 3)], ids=str)
@pytest.mark.parametrize("enough", [1, 4, 1056])
def test_kernel_finds_every_picture(shape, enough, device, poisoned, monkeypatch):
    """With all prompts in a program, with some and a rest, with one."""
    from eyeshine_kernels.overlay import kernel

    monkeypatch.setattr(kernel, "_ENOUGH", enough)
    crops = np.stack([CROPS[image % 3] for image in range(shape[0])])
    compare(photos(shape[0], 31, 61), maps_of(*shape, 3, 5), crops, 0.5, torch.float32, device)
    assert poisoned() == 1


@pytest.mark.parametrize(("tiles", "prompts", "share"), [(1056, 10, 10), (1, 10, 1), (300, 10, 3), (528, 5, 3)])
def test_prompts_share_a_program_where_there_are_programs_enough(tiles, prompts, share):
    from eyeshine_kernels.overlay.kernel import prompts_per_program

    assert prompts_per_program(tiles, prompts) == share


PTX = """
import json, sys
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from eyeshine_kernels.overlay.kernel import AOT
report = {}
for name, variant in AOT.items():
    for case, more in {
        "": {},
        " of one": dict.fromkeys(("prompts", "share", "rows", "columns", "height", "width"), 1) | {"crops": None},
    }.items():
        kernel, constants = variant["kernel"], variant["constants"] | more
        types = variant["signature"] | dict.fromkeys(constants, "constexpr")
        source = ASTSource(kernel, {name: types[name] for name in kernel.arg_names}, constexprs=constants)
        options = {"num_warps": variant["num_warps"], "enable_fp_fusion": True}
        ptx = compile(source, target=GPUTarget("cuda", 80, 32), options=options).asm["ptx"]
        report[name + case] = [ptx.count(word) for word in ("ld.global", "st.global", "ld.local", "st.local")]
report["torch"] = "torch" in sys.modules
print(json.dumps(report))
"""


def test_each_image_is_read_once_and_each_picture_written_once_by_a_device(tmp_path):
    """Counted in the code for a GPU, 8 pixels per thread: 3 bytes, 4 corners, 4 looked up; 3 bytes out; no spill."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": str(KERNELS), "TRITON_CACHE_DIR": str(tmp_path), "TRITON_DEFAULT_FP_FUSION": "1"}
    done = subprocess.run([sys.executable, "-c", PTX], env=environment, capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    assert report.pop("torch") is False
    assert len(report) == 6
    for name, counts in report.items():
        assert counts == [8 * 11 + (0 if "of one" in name else 4), 8 * 3, 0, 0], (name, counts)


# On hardware: what the interpreter cannot show


@pytest.mark.gpu
@pytest.mark.parametrize("size", [(224, 224), (479, 641), (1080, 1920)], ids=str)
def test_hardware_equals_the_reference_on_large_images(size, dtype, poisoned):
    crops = np.array([[0, 0, *size], [0.37, 21.6, 201.2, 200.1]], np.float32)
    compare(photos(2, *size), maps_of(2, 5, 14, 14), crops, 0.5, dtype, "cuda")
    assert poisoned() == 1


@pytest.mark.gpu
def test_hardware_counts_offsets_in_64_bits():
    """The last picture lies beyond 2^31 bytes."""
    images = torch.zeros(1, 2160, 3840, 3, dtype=torch.uint8, device="cuda")
    maps = torch.zeros(1, 88, 14, 14, device="cuda")
    maps[0, -1] = 1
    tables = [torch.full(shape, 255, dtype=torch.uint8, device="cuda") for shape in ((256, 3), (256,))]
    tables[1][0] = 0
    pictures = overlay(images, maps, *tables, backend="triton")
    assert bool((pictures[0, -1] == 255).all())
    assert not pictures[0, :-1].any()
