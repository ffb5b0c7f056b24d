"""Prometheus's text format (version 0.0.4): families of samples, each with its help and type."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Value = int | float | Decimal


@dataclass(slots=True, kw_only=True)
class Family:
    """One metric: `samples` are suffixes of its name (of a summary `_sum` and `_count`, else none), labels, values."""

    name: str
    kind: Literal["gauge", "counter", "summary"]
    says: str
    samples: list[tuple[str, Mapping[str, str], Value]] = field(default_factory=list)

    def add(self, labels: Mapping[str, str], value: Value | None, suffix: str = "") -> None:
        """Add a sample; none where the value is not known."""
        if value is not None:
            self.samples.append((suffix, labels, value))

    def lines(self) -> Iterator[str]:
        """Yield it as text; nothing without samples."""
        if self.samples:
            yield f"# HELP {self.name} {_escaped(self.says)}"
            yield f"# TYPE {self.name} {self.kind}"
        for suffix, labels, value in self.samples:
            pairs = ",".join(f'{key}="{_quoted(text)}"' for key, text in labels.items())
            yield f"{self.name}{suffix}{{{pairs}}} {_number(value)}"


def text_of(families: Iterable[Family]) -> str:
    """Return families as text."""
    return "".join(f"{line}\n" for family in families for line in family.lines())


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _quoted(text: str) -> str:
    return _escaped(text).replace('"', r"\"")


def _number(value: Value) -> str:
    return format(value, "f") if isinstance(value, Decimal) else repr(value)
