"""Compares an output folder with its providers' own books, and says what each says; reads only."""

from __future__ import annotations

import asyncio
import time
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from batchflux.billing.asking import ask
from batchflux.billing.balances import span, spans
from batchflux.billing.entries import entries_of, manifest_of
from batchflux.billing.exported import read_exported
from batchflux.charges.books import Period
from batchflux.charges.matching import covered_by, reconcile
from batchflux.errors import UsageError
from batchflux.ledger.books.balances import balances
from batchflux.ledger.connection import beside
from batchflux.output.folder import ledger_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from decimal import Decimal
    from pathlib import Path

    from batchflux.billing.balances import Span
    from batchflux.billing.exported import HowToRead
    from batchflux.charges.books import Charge
    from batchflux.charges.matching import Entry, Reconciliation
    from batchflux.ledger.books.balances import Noted
    from batchflux.manifest import Manifest

WINDOW = 600.0  # seconds: the books' clock may be another, and they may write when a task ends
_MARGIN = 3600.0  # seconds around a folder's attempts that books are asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is compared: one `provider` or all, from `since` to `until` (epoch seconds), by a `file` or by API.

    Lines that name no request may be `window` seconds off.
    """

    provider: str | None = None
    file: Path | None = None
    how: HowToRead | None = None
    since: float | None = None
    until: float | None = None
    window: float = WINDOW
    env_file: Path | None = None


class Left(NamedTuple):
    """What the account of a key has left."""

    key_name: str
    amount: Decimal
    currency: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One provider's books beside the folder: `source` is a file's name or `API`; `found` None: it has no statements.

    `spans` are what its accounts spent from one time to another, `left` what they have by now; `assumed` is how a file
    was read. `faults` say which balances cannot be had.
    """

    provider: str
    source: str
    entries: tuple[Entry, ...]
    charges: tuple[Charge, ...] = ()
    found: Reconciliation | None = None
    spans: tuple[Span, ...] = ()
    assumed: Mapping[str, str] = field(default_factory=dict)
    left: tuple[Left, ...] = ()
    faults: tuple[str, ...] = ()

    @property
    def tells(self) -> bool:
        """Whether anything could be compared."""
        stated = self.found is not None and (bool(self.charges) or not self.found.untold)
        return stated or any(one.comparable for one in self.spans)

    @property
    def agrees(self) -> bool:
        """Whether the books say what the folder says, as far as they tell."""
        return (self.found is None or self.found.agrees) and all(one.agrees for one in self.spans)


def compare(out: Path, wanted: Wanted, environ: Mapping[str, str]) -> list[Compared]:
    """Compare an output folder with the books of the providers that it asked.

    Raises UsageError: no books can be read, or nothing in them can be compared; StorageError: the ledger cannot be.
    """
    with closing(beside(ledger_of(out))) as connection:
        manifest = manifest_of(out, connection, environ, wanted.env_file)
        entries = [one for one in entries_of(connection, manifest) if _within(one.at, wanted)]
        noted = balances(connection)
    names = _providers(manifest, entries, wanted)
    if wanted.file is not None:
        return [_with_file(manifest, names[0], entries, wanted)]
    of_each = {name: [one for one in entries if one.provider == name] for name in names}
    made = [_by_api(manifest, name, own, noted, (wanted, environ)) for name, own in of_each.items()]
    silent = [one for one in made if not one.tells]
    if len(silent) == len(made):
        why = "; ".join(fault for one in silent for fault in one.faults)
        said = f"{', '.join(names)} tells nothing that could be compared{f' ({why})' if why else ''}"
        raise UsageError(f"{said}: export its books from its website, and name the file: --billing FILE.")
    return made


def _within(at: float | None, wanted: Wanted) -> bool:
    since, until = wanted.since, wanted.until
    return at is None or ((since is None or at >= since) and (until is None or at < until))


def _providers(manifest: Manifest, entries: Sequence[Entry], wanted: Wanted) -> list[str]:
    """Return the names of the providers whose books are compared; UsageError: which is not said, or there is none."""
    asked = sorted({entry.provider for entry in entries})
    known = [name for name in asked if name in manifest.providers]
    if wanted.provider is not None:
        if wanted.provider not in asked:
            raise UsageError(f"--provider: the folder asked {', '.join(asked) or 'nobody'}, not {wanted.provider}.")
        return [wanted.provider]
    if wanted.file is not None and len(asked) > 1:
        raise UsageError(f"The folder asked {', '.join(asked)}: say whose books the file has, with --provider NAME.")
    paid = asked if wanted.file is not None else [name for name in known if not manifest.providers[name].simulated]
    if not paid:
        raise UsageError("The folder asked no provider that has books: nothing was sent, or all of it was simulated.")
    return paid


def _with_file(manifest: Manifest, name: str, entries: Sequence[Entry], wanted: Wanted) -> Compared:
    if wanted.file is None or wanted.how is None:
        raise TypeError("no file to compare with")
    read = read_exported(wanted.file, wanted.how, manifest.currency)
    own = tuple(one for one in entries if one.provider == name)
    charges = tuple(one for one in read.charges if _within(one.at, wanted))
    found = reconcile(own, charges, window=wanted.window, covered=covered_by(charges, wanted.window))
    return Compared(
        provider=name, source=wanted.file.name, entries=own, charges=charges, found=found, assumed=read.assumed
    )


def _by_api(
    manifest: Manifest,
    name: str,
    entries: Sequence[Entry],
    noted: Sequence[Noted],
    asked: tuple[Wanted, Mapping[str, str]],
) -> Compared:
    wanted, environ = asked
    began, now = min(one.at for one in entries), time.time()
    ended = max((one.ended or now for one in entries), default=now)
    period = Period(
        since=began - _MARGIN,
        until=min(now, ended + _MARGIN),
        models=tuple(dict.fromkeys(one.model for one in entries)),
        receipts=tuple(dict.fromkeys(one.receipt for one in entries if one.receipt is not None)),
    )
    told = asyncio.run(ask(manifest, name, period, environ))
    named = wanted.how and wanted.how.currency
    money = named or entries[0].currency
    before = _counted([one for one in noted if one.provider == name], money)
    by_now = _counted(told.balances, money)
    untold = named is None and any(not one.balance.currency for one in told.balances)
    found = None if told.charges is None else reconcile(entries, told.charges, window=WINDOW, complete=told.complete)
    return Compared(
        provider=name,
        source="API",
        entries=tuple(entries),
        charges=told.charges or (),
        found=found,
        spans=(*spans(before, entries), *_so_far(by_now, entries)),
        left=tuple(
            Left(one.key_name, one.balance.left, one.balance.currency) for one in by_now if one.balance.left is not None
        ),
        assumed={"currency": f"{money}, as the folder's: the API does not tell it"} if untold else {},
        faults=told.faults,
    )


def _counted(noted: Iterable[Noted], money: str) -> list[Noted]:
    """Return balances in the currency that they are in, where they do not tell it."""
    return [
        one if one.balance.currency else one._replace(balance=replace(one.balance, currency=money)) for one in noted
    ]


def _so_far(told: Iterable[Noted], entries: Sequence[Entry]) -> Iterator[Span]:
    """Yield what each key has used by now, where that is counted: of the folder's time, or of more."""
    for one in told:
        if one.balance.used is not None:
            since = one._replace(at=one.began)
            yield span(since, one.at, one.balance.used, entries, at_least=True)
