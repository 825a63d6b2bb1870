"""The CPU engine."""

from __future__ import annotations

import os

import numpy as np
import pytest

from eyeshine import Bundle
from eyeshine.engine import CpuOptions, OrtCpuSession
from eyeshine.errors import EngineError, OptionError


def test_threads_are_explicit_and_recorded():
    assert CpuOptions().threads == len(os.sched_getaffinity(0))
    options = CpuOptions(threads=3)
    assert options.metadata() == {"provider": "CPUExecutionProvider", "threads": 3, "deterministic": True}
    with pytest.raises(OptionError, match="threads"):
        CpuOptions(threads=-1)


def test_spinning_is_off_and_compute_deterministic():
    options = CpuOptions(threads=2).session_options()
    assert options.use_deterministic_compute
    assert options.intra_op_num_threads == 2
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_golden_outputs_are_met(tiny_bundle):
    bundle = Bundle.open(tiny_bundle)
    golden = bundle.golden()
    for name, graph in bundle.manifest.graphs.items():
        session = OrtCpuSession(bundle.folder / graph.file, CpuOptions(threads=1))
        run = session.run({key: golden[f"in/{key}"] for key in graph.inputs}, list(graph.outputs))
        assert run.provider == "CPUExecutionProvider"
        assert run.wall_ms > 0
        checked = [output for output in run.outputs if f"{name}/{output}" in golden]
        assert checked
        for output in checked:
            wanted = golden[f"{name}/{output}"]
            assert np.abs(run.outputs[output] - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_a_wrong_input_is_an_engine_error(tiny_bundle):
    session = OrtCpuSession(Bundle.open(tiny_bundle).folder / "encode.onnx", CpuOptions(threads=1))
    with pytest.raises(EngineError, match="failed to run"):
        session.run({"pixels": np.zeros((1, 3, 4, 4), np.float32)}, ["embedding"])
