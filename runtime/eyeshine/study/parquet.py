"""The values of a study as a Parquet table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from eyeshine.errors import OptionError
from eyeshine.study.records import SCORES, read_records

__all__ = ["check_parquet", "write_parquet"]


def write_parquet(folder: Path, name: str = "results.parquet") -> Path:
    """Write the values of a study as a table, one row per sample, method, seed, text and metric.

    Retrieval is scored by ``write_report``, which comes first.

    Raises:
        OptionError: pyarrow is not installed.
    """
    check_parquet()
    import pyarrow as arrow
    from pyarrow import parquet

    columns = {
        "key": arrow.string(), "method": arrow.string(), "seed": arrow.int64(), "role": arrow.string(),
        "text": arrow.string(), "scored": arrow.string(), "metric": arrow.string(), "value": arrow.float64(),
        "curve": arrow.list_(arrow.float64()), "explain_ms": arrow.float64(), "error": arrow.string(),
    }  # fmt: skip
    schema, path = arrow.schema(list(columns.items())), folder / name
    with parquet.ParquetWriter(path, schema) as writer:
        rows: list[dict[str, Any]] = []
        scored = read_records(folder, SCORES) if (folder / SCORES).exists() else iter(())
        for record in chain(read_records(folder), scored):
            rows += _rows(record)
            if len(rows) >= 10_000:
                writer.write_table(arrow.Table.from_pylist(rows, schema))
                rows.clear()
        writer.write_table(arrow.Table.from_pylist(rows, schema))
    return path


def _rows(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    common = {name: record.get(name) for name in ("key", "method", "seed", "explain_ms", "error")}
    if "error" in record:
        yield common
    for item in record.get("items", ()):
        said = {name: item[name] for name in ("role", "text", "scored")}
        for metric, value in item["values"].items():
            yield {**common, **said, "metric": metric, "value": value, "curve": item["curves"].get(metric)}


def check_parquet() -> None:
    """Raise OptionError where pyarrow is not installed; a study asks before it runs for hours."""
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise OptionError("Parquet needs pyarrow", got=str(error), cure="pip install 'eyeshine[data]'") from error
