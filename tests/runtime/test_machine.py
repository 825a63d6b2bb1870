"""What the NVIDIA driver says, read through a driver that the test compiles itself."""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from eyeshine.engine import machine
from eyeshine.engine.machine import Gpu, cpu_name, gpus, package_version
from eyeshine.errors import EngineError

DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return STATUS; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuDeviceGetCount(int *count) { *count = COUNT; return 0; }
int cuDeviceGet(int *device, int index) { *device = 40 + index; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, device == 40 ? "Orin" : "H100", size); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    if (attribute == 75) *value = device == 40 ? 8 : 9;
    else if (attribute == 76) *value = device == 40 ? 7 : 0;
    else return 1;
    return 0;
}
"""

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="compiles a driver")


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """A function that puts a compiled driver in the place of NVIDIA's."""

    def install(*, status: int = 0, count: int = 2) -> None:
        source, library = tmp_path / "driver.c", tmp_path / f"driver_{status}_{count}.so"
        source.write_text(DRIVER, "utf-8")
        definitions = [f"-DSTATUS={status}", f"-DCOUNT={count}"]
        subprocess.run(["gcc", "-shared", "-fPIC", *definitions, "-o", library, source], check=True)
        monkeypatch.setattr(machine, "_DRIVER", {platform.system(): str(library)})
        gpus.cache_clear()

    yield install
    gpus.cache_clear()


@needs_gcc
def test_gpus_are_read_from_the_driver(driver):
    driver()
    assert gpus() == (Gpu(0, "Orin", 87, 13000), Gpu(1, "H100", 90, 13000))


@needs_gcc
def test_a_driver_without_gpus_and_one_that_refuses_are_told_apart(driver):
    driver(count=0)
    with pytest.raises(EngineError, match=r"shows no GPU.*CUDA_VISIBLE_DEVICES"):
        gpus()
    driver(status=100)
    with pytest.raises(EngineError, match="cuInit returned 100"):
        gpus()


def test_no_driver_is_an_error_that_says_so(monkeypatch):
    monkeypatch.setattr(machine, "_DRIVER", {platform.system(): "libcuda-that-is-not-there.so.1"})
    gpus.cache_clear()
    with pytest.raises(EngineError, match="no NVIDIA driver"):
        gpus()
    monkeypatch.setattr(machine, "_DRIVER", {})
    with pytest.raises(EngineError, match=f"CUDA does not run on {platform.system()}"):
        gpus()
    gpus.cache_clear()


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="reads /proc/cpuinfo")
def test_the_cpu_is_named():
    assert platform.machine() in cpu_name()
    assert len(cpu_name()) > len(platform.machine())


def test_versions_name_the_first_package_that_is_there():
    import numpy

    assert package_version("no-such-package", "numpy") == f"numpy {numpy.__version__}"
    assert package_version("no-such-package") == "none"


@pytest.mark.gpu
def test_the_driver_and_torch_agree():
    import torch

    found = gpus()
    assert len(found) == torch.cuda.device_count()
    assert found[0].name == torch.cuda.get_device_name(0)
    assert divmod(found[0].sm, 10) == torch.cuda.get_device_capability(0)
    assert ctypes.sizeof(ctypes.c_int) == 4
