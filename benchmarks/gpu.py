"""Measure on a GPU and print tables: ``python -m benchmarks.gpu`` (``make bench-gpu``), below 8 minutes.

Needs torch, triton and open_clip. Where onnxruntime-gpu, onnx, onnx_ir and onnxscript are there too, the bundles run on
its CUDA provider, and on TensorRT where that is installed. What there was no time for is said in its rows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch

from benchmarks import environment, report
from benchmarks.gpu_run import OUT_OF_TIME, Settings, measure_all
from benchmarks.measure import FAILED
from benchmarks.rows import GPU_ROWS, Row, append


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0, 1 where a case failed, 2 where there is no GPU."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--model", action="append", choices=Settings.models, help="several times; all by default")
    parser.add_argument("--batch", action="append", type=int, help="several times; 1, 8 and 64 by default")
    parser.add_argument("--budget-s", type=float, default=Settings.budget_s, help="for everything")
    parser.add_argument("--no-save", action="store_true", help=f"do not append rows to {GPU_ROWS.name}")
    given = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print(
            f"not measured on a GPU: torch {torch.__version__} sees no CUDA device; install a driver and a CUDA build"
        )
        return 2
    # On by default for convolutions, and coarser than fp32.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    settings = Settings(
        models=tuple(given.model or Settings.models),
        batches=tuple(sorted(given.batch or Settings.batches)),
        budget_s=given.budget_s,
    )
    origin = environment.origin()
    print(f"{torch.cuda.get_device_name()}; {environment.describe(origin)}")
    rows: list[Row] = []
    for title, found in measure_all(settings, origin):
        rows += found
        print(report.table(title, found), flush=True)
        if not given.no_save:
            append(found, GPU_ROWS)
    met, missed = (sum(row.holds is kind for row in rows) for kind in (True, False))
    print(f"{met} limits met, {missed} missed, {sum(row.note == OUT_OF_TIME for row in rows)} cases without time")
    return int(any((row.note or "").startswith(FAILED) and row.note != OUT_OF_TIME for row in rows))


if __name__ == "__main__":
    sys.exit(main())
