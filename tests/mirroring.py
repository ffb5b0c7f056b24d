"""Output folders whose pictures are in a bucket and no longer here, as a run with keep_local: false leaves them."""

from __future__ import annotations

import hashlib
from contextlib import closing
from typing import TYPE_CHECKING

from batchflux.ledger.connection import connect
from batchflux.ledger.tables import set_meta

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.stores import Served

PREFIX = "spring"  # and behind it the folder's name


def mirror(
    out: Path, served: Served, names: Iterable[str] | None = None, *, keep: bool = False, at: str | None = None
) -> str:
    """Put pictures of a folder, by default all below images/, into a bucket and remove them; return the address."""
    prefix, store = f"{PREFIX}/{at or out.name}", served.store()
    address = f"{served.bucket}/{prefix}"
    with closing(connect(out / "ledger.db")) as connection:
        set_meta(connection, "mirror", address)
        for name in names or sorted(str(path.relative_to(out)) for path in (out / "images").rglob("*.*")):
            data = (out / name).read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            store.put(f"{prefix}/{name}", data, digest)
            connection.execute("INSERT OR REPLACE INTO mirrored VALUES (?, ?, 0)", (name, digest))
            if not keep:
                (out / name).unlink()
    (out / "manifest.yaml").write_text(f"version: 1\n{served.yaml}output: {{mirror: '{address}', keep_local: false}}\n")
    return address
