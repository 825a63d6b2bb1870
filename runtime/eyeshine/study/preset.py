"""What a protocol over a data set is: metrics, the texts that they are of, and the columns of its table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from eyeshine.datasets.base import Texts
from eyeshine.metrics.base import Direction, View

__all__ = ["Column", "Measured", "Preset", "Role"]

Role = Literal["truth", "predicted"]
"""Which text is explained: the image's own, or the label that the model takes it for. Scored is always its own."""


class Measured(Protocol):
    """What a table says of a metric, whether of maps (``metrics.Metric``), of texts or of retrieval."""

    @property
    def name(self) -> str: ...

    @property
    def direction(self) -> Direction: ...

    @property
    def unit(self) -> str: ...

    @property
    def needs(self) -> frozenset[str]: ...

    @property
    def views(self) -> tuple[View, ...]: ...


@dataclass(frozen=True)
class Column:
    """One column of a table: sums over the data set, divided.

    Its value is the mean over groups of (sum of numerators) / (sum of denominators). A mean over images is one group
    with denominators of 1, a mean over classes one group per text, a ratio of pixel counts one group per pair of parts.

    Attributes:
        title: in the table.
        metric: name of the metric in the preset.
        role: which explained text.
        scale: of the printed numbers.
        classes: average within each text first, then over the texts.
        parts: pairs of the metric's parts, (numerator, denominator), in place of its values.
    """

    title: str
    metric: str
    role: Role = "truth"
    scale: float = 1.0
    classes: bool = False
    parts: tuple[tuple[str, str], ...] = ()

    def terms(self, item: Mapping[str, Any]) -> Iterator[tuple[str, float, float]]:
        """(group, numerator, denominator) of one item of a record; none where the value is undefined."""
        value = item["values"].get(self.metric)
        if item["role"] != self.role or value is None:
            return
        if not self.parts:
            yield item["text"] if self.classes else "", value, 1.0
            return
        parts = item["parts"][self.metric]
        for numerator, denominator in self.parts:
            yield numerator, parts[numerator], parts[denominator]


@dataclass(frozen=True)
class Preset:
    """A protocol over a data set.

    Attributes:
        name: on the command line and in results.
        texts: which texts it explains, where a data set leaves the choice.
        metrics: by the names that they have in records.
        columns: of its table.
        roles: which labels are explained.
        side: "image", or "text": relevance of the words of an image's captions.
        note: what it is, and how it differs from where it comes from; printed in the report.
    """

    name: str
    texts: Texts
    metrics: Mapping[str, Measured] = field(hash=False)
    columns: tuple[Column, ...]
    roles: tuple[Role, ...] = ("truth",)
    note: str = ""
    side: Literal["image", "text"] = "image"

    @property
    def needs(self) -> frozenset[str]:
        """What samples must have: as ``Dataset.gives`` says it."""
        needed = frozenset[str]().union(*(metric.needs for metric in self.metrics.values()))
        labelled = frozenset({"label"}) if "predicted" in self.roles else frozenset[str]()
        read = frozenset({"captions"}) if self.side == "text" else frozenset[str]()
        return (needed - {"labels"}) | labelled | read
