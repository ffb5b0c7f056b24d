"""What stands in a row of results.csv: the contract's columns, times as UTC ISO 8601, no formula for a spreadsheet."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from batchflux.ledger.tables import Known, currency
from batchflux.redaction import redacted

if TYPE_CHECKING:
    from collections.abc import Sequence

HEADER = (  # noqa: SIM905  reads like the contract
    "id status file_name prompt images seed aspect_ratio output_format model provider style width height bytes sha256 "
    "attempts possibly_billed cost error_code error started_at finished_at api_seconds download_seconds result_url key"
).split()
_parse = json.JSONDecoder().decode  # what json.loads comes to, two calls later
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def neutralised(text: str) -> str:
    """Return a cell that no spreadsheet runs as a formula (OWASP, "CSV Injection": a quote in front)."""
    return "'" + text if text.startswith(_FORMULA) else text


def iso(at: float | None) -> str:
    """Return epoch seconds as UTC ISO 8601 with milliseconds, '' for None."""
    if at is None:
        return ""
    second = math.floor(at)
    micro = round((at - second) * 1e6)
    if micro == 1_000_000:  # noqa: PLR2004  so many make a second
        second, micro = second + 1, 0
    return f"{_to_the_second(second)}.{micro // 1000:03d}Z"


@lru_cache(maxsize=64)
def _to_the_second(at: int) -> str:
    """Return epoch seconds as ISO 8601; many jobs begin and end in the same second."""
    return datetime.fromtimestamp(at, UTC).replace(tzinfo=None).isoformat()


def cells(known: Known, tag_names: Sequence[str]) -> list[Any]:
    """Return the row of one ended job, in the order of HEADER, then its tags in the order of `tag_names`."""
    spec = _parse(known.spec)
    tags = _parse(known.tags) if known.tags else {}
    return [
        neutralised(known.id),
        known.status,
        known.file_name,
        neutralised(spec["prompt"]),
        neutralised(" ".join(spec["images"])),
        spec.get("seed"),
        spec.get("aspect_ratio"),
        spec.get("output_format"),
        neutralised(spec["model"]),
        neutralised(spec["provider"]),
        spec["style"],
        known.width,
        known.height,
        known.bytes,
        known.sha256,
        known.attempts,
        known.possibly_billed,
        format(currency(known.cost), "f"),
        known.error_code,
        neutralised(error_text(known, spec)),
        iso(known.started_at),
        iso(known.finished_at),
        _seconds(known.api_seconds),
        _seconds(known.download_seconds),
        neutralised(redacted(known.link) if known.link else ""),
        known.key.hex(),
        *(neutralised(tags.get(name, "")) for name in tag_names),
    ]


def error_text(known: Known, spec: dict[str, Any]) -> str:
    """Return the error, and what `params: drop` left out of the request (`spec`: the row's, parsed)."""
    error = known.error or ""
    if "dropped" not in spec:
        return error
    note = f"not sent, style {spec['style']} cannot carry it: {', '.join(spec['dropped'])}"
    return f"{error}; {note}" if error else note


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
