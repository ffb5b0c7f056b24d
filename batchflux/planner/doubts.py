"""What speaks against a run as it is asked for: a new folder, simulated pictures, another currency."""

from __future__ import annotations

from contextlib import closing, contextmanager, nullcontext, suppress
from shlex import quote
from typing import TYPE_CHECKING

from batchflux.errors import StorageError, UsageError
from batchflux.ledger.connection import reading
from batchflux.ledger.health import check_ledger
from batchflux.ledger.tables import currency, empty_ledger, free_providers, get_meta, paid_pictures, spent
from batchflux.output.base import LEDGER
from batchflux.output.folder import check_place
from batchflux.state import folder_of, note_folder

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from pathlib import Path

    from batchflux.manifest import Manifest


@contextmanager
def looked_at(folder: Path) -> Iterator[sqlite3.Connection]:
    """Open a folder's ledger to look at; an empty one where there is none. UsageError: it is no folder to look into."""
    check_place(folder)
    path = folder / LEDGER
    check_ledger(path)
    with closing(empty_ledger()) as empty, reading(path) if path.exists() else nullcontext(empty) as connection:
        # A kill may have left a file before its tables were made.
        made = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'jobs'").fetchone() is not None
        yield connection if made else empty


def doubt(manifest: Manifest) -> str | None:
    """Return why this run needs an answer first, and that `--out` is it; None when nothing speaks against it.

    That is a run which would begin anew in another folder than the manifest was run to before, or would put simulated
    pictures in place of such that were paid for. StorageError: the ledger cannot be read.
    """
    with looked_at(manifest.output.dir) as ledger:
        return doubt_of(manifest, ledger)


def doubt_of(manifest: Manifest, ledger: sqlite3.Connection) -> str | None:
    """Return the same, of a folder that is being looked at."""
    folder = manifest.output.dir
    if manifest.out_given:
        return None
    if manifest.simulated and (paid := paid_pictures(ledger, free_providers(ledger, manifest.providers))):
        return (
            f"{folder} has pictures that were paid for ({paid:,}), and simulated ones would take their place or "
            f"stand beside them: name another folder, as --out {quote(f'{folder}-simulated')}, or this one, "
            f"--out {quote(str(folder))}, to have it so."
        )
    before = None if manifest.dir_given else folder_of(manifest.path)
    if before is None or _has_ledger(folder) or not _has_ledger(before):
        return None
    if _was_real(before) is manifest.simulated:
        return None  # what was simulated is nothing to continue for what is paid, and the other way round
    return (
        f"{manifest.display} was run to {before} before, and {folder} is new, so all would be made anew: "
        f"--out {quote(str(before))} continues it, --out {quote(str(folder))} begins anew."
    )


def remember_folder(manifest: Manifest) -> None:
    """Note which folder the manifest is run to; a simulated run leaves it with that of a real one."""
    before = folder_of(manifest.path) if manifest.simulated else None
    if before is None or not _has_ledger(before) or not _was_real(before):
        note_folder(manifest.path, manifest.output.dir)


def _has_ledger(folder: Path) -> bool:
    """Whether a folder has a ledger, or may have one: it cannot be looked into."""
    try:
        return (folder / LEDGER).exists()
    except PermissionError:
        return True


def _was_real(folder: Path) -> bool:
    """Whether a folder's last run was a real one; so it was also where that cannot be seen."""
    with suppress(StorageError, UsageError), looked_at(folder) as ledger:
        return _is_real(ledger)
    return True


def _is_real(ledger: sqlite3.Connection) -> bool:
    return get_meta(ledger, "simulated") != "1"


def check_currency(manifest: Manifest, ledger: sqlite3.Connection) -> None:
    """Raise UsageError when a folder's spend is in another currency than the manifest's price and budget."""
    before, own = get_meta(ledger, "currency"), manifest.currency
    if not manifest.free and before not in {None, own} and (amount := spent(ledger)):
        place = "each provider's currency" if manifest.several else "provider.currency"
        raise UsageError(
            f"{manifest.output.dir} has spent {currency(amount):f} {before}, and the manifest's currency is "
            f"{own}, which cannot be added to that: set {place}: {before}, with prices and "
            "budget in it, or name another folder with --out."
        )
