"""One flat JSON object a job: what the page knows of it.

The columns of results.csv under their names, plus what a page needs beside them: `variant`, `tags` (object),
`references`, `thumb` and `full` (URLs relative to the folder, '' when there is none), `spent` (possibly billed
attempts included), the verdict (`review`, `note`) and `position` in the manifest. Text is as it was written: the page
shows it and never runs it, so no cell is neutralised. Links lose their signatures.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchflux.exports.base import error_text
from batchflux.ledger.reviews import Verdict, verdicts_on
from batchflux.ledger.tables import currency, get_meta, jobs_by_number
from batchflux.output.folder import iso
from batchflux.redaction import redacted
from batchflux.report.thumbs import is_url

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

    from batchflux.ledger.tables import Known
    from batchflux.report.thumbs import PictureUrls

_OF_JOB = ("id", "status", "file_name", "width", "height", "bytes", "sha256", "attempts", "possibly_billed")
_OF_JOB += ("error_code", "remarks", "seed_used", "revised_prompt", "position")
_OF_SPEC = ("prompt", "seed", "aspect_ratio", "output_format", "safety_tolerance", "prompt_upsampling")
_OF_SPEC += ("model", "provider", "style")
_AT_ONCE = 500
_NO_VERDICT = Verdict(review="")


def base_of(connection: sqlite3.Connection) -> Path | None:
    """Return the manifest's folder, which local references are relative to; None when the ledger does not tell."""
    base = get_meta(connection, "base")
    return Path(base) if base else None


def page_rows(connection: sqlite3.Connection, numbers: Sequence[int], urls: PictureUrls) -> Iterator[dict[str, Any]]:
    """Yield the page's rows of the jobs with these numbers, as they stand when they are come to."""
    for first in range(0, len(numbers), _AT_ONCE):
        jobs = list(jobs_by_number(connection, numbers[first : first + _AT_ONCE]))
        said = verdicts_on(connection, [known.key for known in jobs])
        for known in jobs:
            yield page_row(known, urls, said.get(known.key, _NO_VERDICT))


def page_row(known: Known, urls: PictureUrls, verdict: Verdict = _NO_VERDICT) -> dict[str, Any]:
    """Return the page's row of one ended job."""
    spec = json.loads(known.spec)
    spent = known.cost + known.maybe_cost + (known.in_flight or 0)
    return {
        **{name: getattr(known, name) for name in _OF_JOB},
        **{name: spec.get(name) for name in _OF_SPEC},
        "images": " ".join(redacted(source) if is_url(source) else source for source in spec["images"]),
        "variant": spec.get("variant", 1),
        "error": error_text(known, spec) or None,
        "cost": format(currency(known.cost), "f"),
        "spent": format(currency(spent), "f"),
        "started_at": iso(known.started_at),
        "finished_at": iso(known.finished_at),
        "api_seconds": _seconds(known.api_seconds),
        "download_seconds": _seconds(known.download_seconds),
        "result_url": redacted(known.link) if known.link else None,
        "key": known.key.hex(),
        "tags": json.loads(known.tags) if known.tags else {},
        "references": [urls.reference(source) for source in spec["images"]],
        "thumb": urls.thumb(known),
        "full": urls.full(known),
        "review": verdict.review,
        "note": verdict.note,
    }


def _seconds(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
