"""Opens the mirror of a run before anything is spent: its bucket is there, takes objects, and is this folder's."""

from __future__ import annotations

import uuid
from functools import partial
from typing import TYPE_CHECKING

from batchflux.engine.mirroring.bucket import AwayError, MirrorBucket
from batchflux.engine.mirroring.mirror import Mirror
from batchflux.errors import UsageError
from batchflux.ledger.books.mirrored import ADDRESS, AWAY, MARK, names_of_mirrored
from batchflux.ledger.tables import get_meta, set_meta
from batchflux.output.stores.base import Address
from batchflux.transport.threads import Unawaited, in_thread

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping

    from batchflux.ledger.connection import Database
    from batchflux.manifest import Manifest


async def open_mirror(
    manifest: Manifest, environ: Mapping[str, str], database: Database, event: Callable[..., None]
) -> Mirror | None:
    """Return what mirrors the folder, None where nothing does.

    A bucket that had objects of this folder before may be out of reach for now. UsageError: it cannot be had, or is
    another folder's; or pictures are in the bucket that the manifest named before, and nowhere else.
    """
    output = manifest.output
    if output.mirror is None:
        return None
    address = Address.of(output.mirror)
    bucket = MirrorBucket(manifest.buckets(environ).at(address), address, output.dir)
    mark, proven, away = database.now(partial(_turned_to, bucket=bucket))
    threads = Unawaited(1, "batchflux-mirror")
    try:
        await in_thread(partial(bucket.claim, mark, proven=proven), threads)
    except AwayError as error:
        if not (proven and error.passes):
            raise UsageError(f"output.mirror cannot be used, and nothing was spent. {error}") from error
        event("mirror_away", message=f"{bucket.to} takes no pictures now, so they are kept here meanwhile: {error}")
    finally:
        threads.shutdown()
    notes = {ADDRESS: bucket.to} | ({} if output.keep_local else {AWAY: "1"})
    for name, value in notes.items():
        database.now(partial(set_meta, name=name, value=value))
    return Mirror(bucket, database, event, keep_local=output.keep_local, brings_back=output.keep_local and away == "1")


def _turned_to(connection: sqlite3.Connection, bucket: MirrorBucket) -> tuple[str, bool, str | None]:
    """Let the ledger speak of this bucket; return the folder's mark, whether it was there before, and what is away."""
    mark, before = get_meta(connection, MARK) or uuid.uuid4().hex, get_meta(connection, ADDRESS)
    set_meta(connection, MARK, mark)
    if before not in {None, bucket.to}:
        gone = [name for name in names_of_mirrored(connection) if not bucket.has_file(name)]
        if gone:
            what = f"output.mirror is {bucket.to} now, and {len(gone):,} pictures are in {before} alone ({gone[0]})"
            remedy = f"run once with output.mirror: {before} and keep_local: true, which brings them back here"
            raise UsageError(f"{what}: {remedy}. Nothing was spent.")
        connection.execute("DELETE FROM mirrored")
    return mark, before == bucket.to, get_meta(connection, AWAY)
