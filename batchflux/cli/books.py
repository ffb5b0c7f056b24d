"""`batchflux reconcile`: the folder beside its providers' own books."""

from __future__ import annotations

import json
import os
from datetime import UTC, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import click

from batchflux.billing.comparing import WINDOW, Wanted, compare
from batchflux.billing.differences import as_data, by_certainty, differences
from batchflux.billing.exported import HowToRead, columns_named, time_of
from batchflux.charges.matching import sums_of
from batchflux.cli.terminal import OutputFolder, count, money
from batchflux.errors import UsageError, quoted
from batchflux.manifest.reading.values import timeout
from batchflux.output.folder import iso
from batchflux.tables.delimited import delimiter_of
from batchflux.tables.encodings import named

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from decimal import Decimal

    from batchflux.billing.balances import Span
    from batchflux.billing.comparing import Compared
    from batchflux.billing.differences import Difference
    from batchflux.charges.matching import Reconciliation

_SHOWN, _ALIKE = 20, 3  # differences of one provider, and names in one of them
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("reconcile")
@click.argument("out", type=OutputFolder())
@click.option("--billing", "file", metavar="FILE", type=_FILE, help="Compare with this export of the provider's books.")
@click.option(
    "--columns", metavar="id=NAME,...", default="", help="What the columns id, time, amount, currency, model are."
)
@click.option("--currency", metavar="CODE", help="The currency of a file that does not tell it.")
@click.option("--timezone", metavar="ZONE", default="UTC", help="The zone of times that name none, as Asia/Shanghai.")
@click.option("--encoding", metavar="NAME", help="The file's encoding, where it is not found out.")
@click.option("--delimiter", metavar="CHAR", help="What parts its columns, where that is not found out.")
@click.option("--provider", metavar="NAME", help="Only this provider of the folder.")
@click.option("--since", metavar="TIME", help="Only attempts and lines from this time on.")
@click.option("--until", metavar="TIME", help="Only attempts and lines before this time.")
@click.option("--window", metavar="TIME", help="How far the times of one request may be apart: 10m.")
@click.option("--env-file", metavar="FILE", type=_FILE, help="Look keys up in FILE, too: NAME=value a line.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def reconcile(out: Path, *, as_json: bool, **given: Any) -> int:
    """Compare the attempts of the output folder OUT with the provider's own books. Spends and changes nothing.

    The books are asked for by API where there is one (BFL, fal, OpenRouter, relays); else export them from the
    provider's website and name the file. Exits with 0 when they agree, with 1 when they differ.
    """
    zone = _zone(given["timezone"])
    how = HowToRead(
        columns=columns_named(given["columns"]),
        currency=given["currency"] and given["currency"].upper(),
        zone=zone,
        encoding=_read("encoding", named, given["encoding"]),
        delimiter=_read("delimiter", delimiter_of, given["delimiter"]),
    )
    wanted = Wanted(
        provider=given["provider"],
        file=given["file"],
        how=how,
        since=_read("since", lambda text: time_of(text, zone), given["since"]),
        until=_read("until", lambda text: time_of(text, zone), given["until"]),
        window=_read("window", timeout, given["window"]) or WINDOW,
        env_file=given["env_file"],
    )
    made = compare(out, wanted, os.environ)
    click.echo(json.dumps(as_data(made), ensure_ascii=False, indent=2) if as_json else "\n".join(lines_of(made)))
    return 0 if all(one.agrees for one in made) else 1


def lines_of(made: Sequence[Compared]) -> list[str]:
    """Return a comparison as a person reads it."""
    lines = [line for one in made for line in _lines(one)]
    if all(one.agrees for one in made):
        return [*lines, "The books agree."]
    return [*lines, "The books differ."]


def _lines(one: Compared) -> Iterator[str]:
    certain, possible = by_certainty(one.entries)
    yield f"{one.provider} ({one.source})"
    yield f"  ours       {_counted(one.entries, 'attempt')}{_sums(certain)}{_sums(possible, ' possibly')}"
    if one.found is not None:
        yield f"  theirs     {_counted(one.charges, 'line')}{_sums(sums_of(one.charges))}"
        yield from _found(one.found)
    yield from (f"  balance    {_span(span)}" for span in one.spans)
    yield from (f"  left       {left.key_name}: {money(left.amount, left.currency)}" for left in one.left)
    yield from (f"  fault      {fault}" for fault in one.faults)
    if one.assumed:
        yield f"  assumed    {', '.join(f'{name}: {value}' for name, value in one.assumed.items())}"
    found = [*differences(one)]
    yield from (f"  differs    {_said(each)}" for each in found[:_SHOWN])
    if len(found) > _SHOWN:
        yield f"  differs    and in {len(found) - _SHOWN:,} more places: --json lists them all"


def _found(found: Reconciliation) -> Iterator[str]:
    matched = sums_of(charge for match in found.matches for charge in match.charges)
    yield f"  matched    {len(found.matches):,}{_sums(matched)}"
    sides = (
        ("only ours", sums_of(found.missing), len(found.missing)),
        ("not ours", sums_of(found.only_theirs), len(found.only_theirs)),
        ("repeated", sums_of(found.repeated), len(found.repeated)),
    )
    yield from (f"  {name:<10} {number:,}{_sums(sums)}" for name, sums, number in sides if number)
    alike = [group for group in found.groups if group.even]
    if alike:
        attempts = sum(len(group.entries) for group in alike)
        yield f"  alike      {count(attempts, 'attempt')} that cannot be told apart, and as many lines of the same sum"
    if found.untold:
        yield f"  not told   {count(len(found.untold), 'attempt')}, of which these books say nothing"
    for entry, paid in found.decided:
        how = f"billed, {money(paid, entry.currency)}" if paid else "not billed"
        yield f"  decided    {entry.job}, attempt {entry.attempt}: {how}"


def _said(one: Difference) -> str:
    """Return a difference as a sentence that names its attempt, or its line."""
    whose = f"{one.job}, attempt {one.attempt}" if one.job is not None else quoted(one.receipt or one.where or "a line")
    at = f", {iso(one.at)}" if one.at is not None else ""
    ours, theirs = (money(*side) if side is not None else "nothing" for side in (one.ours, one.theirs))
    line = f" ({one.where})" if one.where else ""
    if one.kind == "unclear":
        alike = ", ".join(one.among[:_ALIKE]) + (", ..." if len(one.among) > _ALIKE else "")
        return f"{ours} of {count(len(one.among), 'attempt')} that are alike ({alike}), {theirs} in the books"
    how = {
        "only_ours": f"{ours}, which is not in the books",
        "only_theirs": f"{theirs}, of no attempt of this folder",
        "repeated": f"{theirs}, of a request that was charged already",
        "counted_free": f"{theirs} in the books, and free in the folder",
        "currency": f"{theirs} in the books, {ours} in the folder: two currencies are not compared",
        "amount": f"{theirs} in the books, {ours} in the folder",
    }
    return f"{whose}{at}: {how[one.kind]}{line}"


def _span(span: Span) -> str:
    had = f"the folder has {money(span.certain, span.entries_currency)}"
    had += f", and {money(span.possible, span.entries_currency)} possibly" if span.possible else ""
    if span.spent < 0:
        return f"{span.key_name}, {iso(span.since)} to {iso(span.until)}: topped up meanwhile, so nothing can be said"
    spent = money(span.spent, span.currency)
    if span.at_least:
        return f"{span.key_name} has used {spent} by now, whatever for; {had}"
    return f"{span.key_name}, {iso(span.since)} to {iso(span.until)}: {spent} spent, {had}"


def _counted(items: Sequence[object], word: str) -> str:
    return count(len(items), word)


def _sums(sums: Mapping[str, Decimal], more: str = "") -> str:
    return "".join(f", {money(amount, currency)}{more}" for currency, amount in sums.items())


def _zone(name: str) -> tzinfo:
    try:
        return UTC if name.upper() == "UTC" else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UsageError(f"--timezone: found {quoted(name)}; allowed is UTC or a place, as Asia/Shanghai") from None


def _read(option: str, read: Callable[[str], Any], text: str | None) -> Any:
    """Return what an option says; UsageError when it cannot be read."""
    try:
        return None if text is None else read(text)
    except ValueError as error:
        raise UsageError(f"--{option}: {error}") from None
