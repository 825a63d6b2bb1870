"""Studies: many methods over a data set, under one protocol, that can be interrupted, with a report.

``Study`` says what is compared, ``run`` does what is not done yet, ``write_report`` tells what came out.
"""

from __future__ import annotations

from eyeshine.study.parquet import write_parquet
from eyeshine.study.preset import Column, Preset
from eyeshine.study.presets import PRESETS, get_preset
from eyeshine.study.records import drop_failed, read_records
from eyeshine.study.report import write_report
from eyeshine.study.run import Study, run
from eyeshine.study.table import Cell, Table, tabulate

__all__ = [
    "PRESETS",
    "Cell",
    "Column",
    "Preset",
    "Study",
    "Table",
    "drop_failed",
    "get_preset",
    "read_records",
    "run",
    "tabulate",
    "write_parquet",
    "write_report",
]
