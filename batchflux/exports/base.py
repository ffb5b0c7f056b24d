"""The port of exporters, and what stands in a row of results.csv: columns in their order, no spreadsheet formulas."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Protocol

from batchflux.ledger.tables import Known, currency
from batchflux.output.folder import iso
from batchflux.redaction import redacted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HEADER = (  # noqa: SIM905  reads like the file's first line
    "id status file_name prompt images seed aspect_ratio output_format model provider style width height bytes sha256 "
    "attempts possibly_billed cost error_code error started_at finished_at api_seconds download_seconds result_url key "
    "remarks seed_used revised_prompt"
).split()
# Blanks and quotes may come before the sign, which may be a full-width or small one. Behind a `;` a cell begins in a
# locale that has it between cells: Excel splits the line there, since our quotes are not where its own cells begin.
_BLANKS = r'[\s"\u200b\u2060\ufeff]*'
_SIGN = r"[-=+@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b\u2212]"
_BEGINS = re.compile(rf"[\t\r\n]|{_BLANKS}{_SIGN}")
_BEGINS_INSIDE = re.compile(rf";(?={_BLANKS}{_SIGN})")


class Exporter(Protocol):
    """Writes the jobs that ended in one format. An exporter may be closed more than once."""

    def write(self, row: Known, image: Callable[[], bytes | None]) -> None:
        """Add an ended job, whose picture's bytes `image` reads; StorageError: what was written before stands."""

    def close(self) -> None:
        """Finish the export: all that was written is there for any reader when this returns, or StorageError."""


def neutralised(text: str) -> str:
    """Return a cell of which no spreadsheet runs any part as a formula (OWASP, "CSV Injection": a quote in front)."""
    marked = _BEGINS_INSIDE.sub(";'", text) if ";" in text else text
    return f"'{marked}" if _BEGINS.match(text) else marked


def cells(known: Known, tag_names: Sequence[str]) -> list[Any]:
    """Return the row of one ended job, in the order of HEADER, then its tags in the order of `tag_names`."""
    spec = json.loads(known.spec)
    tags = json.loads(known.tags) if known.tags else {}
    says = {
        **spec,
        **known._asdict(),
        "images": " ".join(spec["images"]),
        "cost": format(currency(known.cost), "f"),
        "error": known.error,
        "remarks": remarks_of(known, spec),
        "started_at": iso(known.started_at),
        "finished_at": iso(known.finished_at),
        "api_seconds": _seconds(known.api_seconds),
        "download_seconds": _seconds(known.download_seconds),
        "result_url": redacted(known.link) if known.link else "",
        "key": known.key.hex(),
    }
    row = [*(says.get(name) for name in HEADER), *(tags.get(name, "") for name in tag_names)]
    return [neutralised(cell) if isinstance(cell, str) else cell for cell in row]


def remarks_of(known: Known, spec: dict[str, Any]) -> str:
    """Return how the picture differs, and what `params: drop` left out of the request (`spec`: the row's, parsed)."""
    told = [known.remarks] if known.remarks else []
    if "dropped" in spec:
        told.append(f"not sent, style {spec['style']} cannot carry it: {', '.join(spec['dropped'])}")
    return "; ".join(told)


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
