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
from batchflux.ledger.tables import currency, get_meta
from batchflux.output.folder import iso
from batchflux.redaction import redacted
from batchflux.report.thumbs import is_url

if TYPE_CHECKING:
    import sqlite3

    from batchflux.ledger.tables import Known
    from batchflux.report.thumbs import PictureUrls

_NO_TAGS: dict[str, str] = {}


def base_of(connection: sqlite3.Connection) -> Path | None:
    """Return the manifest's folder, which local references are relative to; None when the ledger does not tell."""
    base = get_meta(connection, "base")
    return Path(base) if base else None


def page_row(known: Known, urls: PictureUrls, review: str = "", note: str = "") -> dict[str, Any]:
    """Return the page's row of one ended job."""
    spec = json.loads(known.spec)
    return {
        "id": known.id,
        "status": known.status,
        "file_name": known.file_name,
        "prompt": spec["prompt"],
        "images": " ".join(redacted(source) if is_url(source) else source for source in spec["images"]),
        "seed": spec.get("seed"),
        "aspect_ratio": spec.get("aspect_ratio"),
        "output_format": spec.get("output_format"),
        "safety_tolerance": spec.get("safety_tolerance"),
        "prompt_upsampling": spec.get("prompt_upsampling"),
        "variant": spec.get("variant", 1),
        "model": spec["model"],
        "provider": spec["provider"],
        "style": spec["style"],
        **_ending(known),
        "error": error_text(known, spec) or None,
        "key": known.key.hex(),
        "tags": json.loads(known.tags) if known.tags else _NO_TAGS,
        "references": [urls.reference(source) for source in spec["images"]],
        "thumb": urls.thumb(known),
        "full": urls.full(known),
        "review": review,
        "note": note,
        "position": known.position,
    }


def _ending(known: Known) -> dict[str, Any]:
    spent = known.cost + known.maybe_cost + (known.in_flight or 0)
    return {
        "width": known.width,
        "height": known.height,
        "bytes": known.bytes,
        "sha256": known.sha256,
        "attempts": known.attempts,
        "possibly_billed": known.possibly_billed,
        "cost": format(currency(known.cost), "f"),
        "spent": format(currency(spent), "f"),
        "error_code": known.error_code,
        "started_at": iso(known.started_at),
        "finished_at": iso(known.finished_at),
        "api_seconds": _seconds(known.api_seconds),
        "download_seconds": _seconds(known.download_seconds),
        "result_url": redacted(known.link) if known.link else None,
        "remarks": known.remarks,
        "seed_used": known.seed_used,
        "revised_prompt": known.revised_prompt,
    }


def _seconds(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
