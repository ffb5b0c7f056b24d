"""The attempts of an output folder, as its providers' books are to say them."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from batchflux.charges.matching import Entry
from batchflux.errors import UsageError
from batchflux.ledger.books.receipts import has_receipts
from batchflux.ledger.tables import currency, get_meta
from batchflux.manifest import load_manifest
from batchflux.output.base import MANIFEST
from batchflux.providers import capabilities, providers
from batchflux.secrets import Secrets

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

    from batchflux.manifest import Manifest, ProviderConfig
    from batchflux.providers import Provider

_ATTEMPTS = """
SELECT jobs.id, attempts.number, submissions.provider, key_name, attempts.model, sent_at, attempts.ended_at,
    COALESCE(cost, price), billed, handle, {receipt}
FROM attempts JOIN jobs ON jobs.number = attempts.job JOIN submissions ON submissions.number = attempts.submission
    {receipts}
WHERE state != 'voided' ORDER BY attempts.number
"""


def manifest_of(
    out: Path, connection: sqlite3.Connection, environ: Mapping[str, str], env_file: Path | None
) -> Manifest:
    """Return the manifest that a folder was run by, as if it lay where it did; UsageError without it, ManifestError."""
    path = out / MANIFEST
    if not path.is_file():
        raise UsageError(f"{path} is missing, which says whose books to ask: put back the manifest of the run.")
    base = Path(get_meta(connection, "base") or out)
    known = Secrets(environ, base, env_file)
    # Its jobs say nothing here, a gateway's has none, and tables that they came from may be gone by now.
    manifest = load_manifest(path, environ=known, offers=capabilities(), served=True)
    return replace(manifest, base=base, env_file=env_file)


def wire_of(config: ProviderConfig) -> Provider:
    """Return what speaks a provider's API, in the first of its call styles."""
    return next(one for (api, _), one in providers().items() if api == config.api)


def entries_of(connection: sqlite3.Connection, manifest: Manifest) -> list[Entry]:
    """Return all attempts whose requests left, in their order; UsageError of a ledger that does not tell them apart."""
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'submissions'").fetchone() is None:
        raise UsageError("The ledger is of an old format, which has sums only: run the manifest once, and ask again.")
    noted = has_receipts(connection)
    joined = "LEFT JOIN receipts ON receipts.submission = submissions.number" if noted else ""
    query = _ATTEMPTS.format(receipt="receipts.name" if noted else "NULL", receipts=joined)
    money = get_meta(connection, "currency") or manifest.currency
    only = None if manifest.several else manifest.provider.name  # it may have been renamed
    made = [
        Entry(
            job=job,
            attempt=number,
            provider=only or name,
            key_name=key,
            model=model,
            at=at,
            ended=ended,
            amount=currency(amount),
            currency=money,
            billed=billed or "maybe",
            out=billed is None,
            receipt=_named(manifest.providers.get(only or name), receipt or handle),
        )
        for job, number, name, key, model, at, ended, amount, billed, handle, receipt in connection.execute(query)
    ]
    named = Counter(one.receipt for one in made if one.receipt is not None)  # that of a batch is of no single attempt
    return [replace(one, receipt=None) if named[one.receipt or ""] > 1 else one for one in made]


def _named(config: ProviderConfig | None, told: str | None) -> str | None:
    """Return how a provider's books name a request, by what its answer told: that name, or the handle of a task."""
    if config is None or told is None or not told.startswith("{"):
        return told
    named = []
    for (api, _), provider in providers().items():
        if api == config.api:
            with suppress(ValueError, KeyError):  # of another call style
                named.append(provider.task_of(told))
    return next((name for name in named if name != told), None)
