"""What a run did, in a few lines (`batchflux status`), and `batchflux history`, which compares the runs of folders."""

from __future__ import annotations

import json
import time
from datetime import datetime
from typing import TYPE_CHECKING

import click
from tqdm.utils import disp_len, disp_trim

from batchflux.cli.terminal import OutputFolder, count, duration, money, place
from batchflux.ledger.nights.log import MIRROR, OUTAGE, WAIT
from batchflux.night.history import histories
from batchflux.output.folder import zone

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from decimal import Decimal
    from pathlib import Path

    from batchflux.ledger.nights.log import Stretch
    from batchflux.ledger.nights.night import Night
    from batchflux.night.history import History

MOST = 3  # stretches that are shown of what was waited for, and outages, and notes
_WIDTH, _INDENT = 80, 13  # columns
_LONG_RUN, _DAY = 600.0, 86_400.0  # seconds: of a shorter run the seconds are said, of a longer one the day
_TEN = 10
_LIMITED = "rate limited by the provider"
_SAID = {"signal": "told to stop by {}", "bug": "ended by a bug of ours ({})"}
_HEADS = ("began", "ended", "done", "fail", "unkn", "/min", "spent", "each", "refused", "waits", "exit")
_LEFT = {"began", "exit", "folder"}  # columns that are not numbers


def night_lines(night: Night, left: int) -> list[str]:
    """Return what a run did, as who was asleep wants to know it; `left` jobs of the folder have not ended."""
    return [
        f"  night      {_from_to(night)}",
        f"             {_made(night)}",
        *(line for text in _waits(night) for line in _wrapped(text)),
        *_refusals(night),
        *(line for text in _notes(night) for line in _wrapped(text)),
        *_cost(night),
        *_deadline(night, left),
    ]


def _local(at: float) -> datetime:
    return datetime.fromtimestamp(at).astimezone()


def _clock(at: float, night: Night) -> str:
    """Return a time of day, with the seconds of a short run, and the day of a long one."""
    form = "%m-%d %H:%M" if night.seconds >= _DAY else "%H:%M" if night.seconds >= _LONG_RUN else "%H:%M:%S"
    return f"{_local(at):{form}}"


def _from_to(night: Night) -> str:
    began = _local(night.began)
    end = "now" if night.state == "running" else f"{_clock(night.until, night)}"
    how = " (its last sign)" if night.state == "stopped" else ""
    day = "" if night.seconds >= _DAY else f"{began:%Y-%m-%d} "
    return f"{day}{_clock(night.began, night)} to {end}{how} {zone(began)}, {duration(night.seconds)}"


def _made(night: Night) -> str:
    ends = {"failed": night.failed, "unknown": night.unknown}
    others = "".join(f", {number:,} {name}" for name, number in ends.items() if number)
    return f"{count(night.done, 'image')}, {_pace(night)} a minute{others}"


def _pace(night: Night) -> str:
    pace = night.images_per_minute
    return f"{pace:,.0f}" if pace >= _TEN or not pace else f"{pace:.1f}"


def _waits(night: Night) -> Iterator[str]:
    """Yield for how long what was waited for, the longest first; less than a second is nothing."""
    for (kind, what), seconds in sorted(night.waited.items(), key=lambda pair: -pair[1]):
        spans = [one for one in night.stretches if (one.kind, one.what) == (kind, what)]
        when = _spans(spans, night)
        why = f": {spans[0].why}" if spans and spans[0].why else ""
        if kind == WAIT and seconds >= 1:
            reason = f"429, {what}" if what == _LIMITED else what
            yield f"  waited     {duration(seconds)} ({reason}), {when}{why}"
        elif kind in {OUTAGE, MIRROR}:
            name = "mirror" if kind == MIRROR else "outage"
            yield f"  {name}     {'' if kind == MIRROR else f'{what} '}away {duration(seconds)}, {when}{why}"


def _spans(spans: Sequence[Stretch], night: Night) -> str:
    """Return when the longest ones were, as time went."""
    longest = sorted(spans, key=lambda one: one.since - (one.until or night.until))[:MOST]
    said = [
        f"{_clock(one.since, night)}-{_clock(one.until or night.until, night)}"
        for one in sorted(longest, key=lambda one: one.since)
    ]
    more = f" and {len(spans) - MOST:,} more" if len(spans) > MOST else ""
    return ", ".join(said) + more


def _refusals(night: Night) -> Iterator[str]:
    for name, codes in (("refused", night.refused), ("in vain", night.failures)):
        if codes:
            yield f"  {name}    {_codes(codes)}"
    if night.possibly_billed:
        yield f"  maybe      {count(night.possibly_billed, 'attempt')} without an answer, possibly billed"


def _codes(codes: Mapping[str, int]) -> str:
    ordered = sorted(codes.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{number:,} {code}" for code, number in ordered)


def _notes(night: Night) -> Iterator[str]:
    """Yield what else happened, each by its time."""
    for note in night.notes[:MOST]:
        text = note.text.partition(" (")[0] if note.event == "key_refused" else note.text
        yield f"  {_clock(note.at, night):<10} {_SAID.get(note.event, '{}').format(text)}"
    more = len(night.notes) + night.more_notes - MOST
    if more > 0:
        yield f"             and {count(more, 'more event')} in run.log"


def _cost(night: Night) -> Iterator[str]:
    if night.budget_per_run is None and not night.spent:
        return
    most = "" if night.budget_per_run is None else f" of {money(night.budget_per_run, night.currency)} a run"
    each = f", {money(_rounded(night.price), '')} a picture" if night.price is not None else ""
    yield f"  this run   {money(night.spent, night.currency)}{most}{each}"


def _rounded(amount: Decimal) -> Decimal:
    """Return an amount with four digits at most behind the point."""
    return round(amount, 4)


def _deadline(night: Night, left: int) -> Iterator[str]:
    """Yield whether the run ended before its deadline; one that goes on has a line of its own."""
    if night.deadline is None or night.spare is None or night.state == "running":
        return
    at = _local(night.deadline)
    if night.reason == "deadline":
        how = f"stopped for it, {count(left, 'job')} left"
    elif night.spare < 0:
        how = f"missed by {duration(-night.spare)}"
    elif night.reason == "finished":
        how = f"met, with {duration(night.spare)} to spare"
    else:
        how = f"{'cut off' if night.state == 'stopped' else 'stopped'} {duration(night.spare)} before it"
    seconds = ":%S" if night.seconds < _LONG_RUN else ""
    yield f"  deadline   {at:%Y-%m-%d %H:%M{seconds}} {zone(at)}: {how}"


def _wrapped(line: str) -> list[str]:
    """Return a line as two that fit a terminal, at most: a stranger's text in it may be long."""
    clean = "".join(char if char.isprintable() else " " for char in line)
    if disp_len(clean) <= _WIDTH:
        return [clean]
    first = disp_trim(clean, _WIDTH)
    kept = first.rpartition(" ")[0]
    kept = kept if len(kept) > _WIDTH // 2 else first
    rest = f"{' ' * _INDENT}{clean[len(kept) :].strip()}"
    return [kept, rest if disp_len(rest) <= _WIDTH else f"{disp_trim(rest, _WIDTH - 1)}…"]


@click.command("history")
@click.argument("places", metavar="DIR...", nargs=-1, required=True, type=OutputFolder())
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def history(places: tuple[Path, ...], *, as_json: bool) -> None:
    """Compare the runs of the output folders DIR, or of those that lie in DIR: the runs of one name beside each other.

    Waits are the time in which a limit or an outage kept requests back. Times are local.
    """
    found = histories(places, time.time())
    click.echo(_as_json(found) if as_json else "\n\n".join("\n".join(history_lines(one)) for one in found))


def _as_json(found: Sequence[History]) -> str:
    data = {
        one.name: [
            {"folder": str(folder), "running": night.state == "running", **night.as_json()}
            for folder, night in one.runs
        ]
        for one in found
    }
    return json.dumps({"nights": data}, ensure_ascii=False, indent=2)


def history_lines(found: History) -> list[str]:
    """Return the runs of one name as a table of at most 80 columns, where it can be, with the folder of each."""
    folders = {folder for folder, _ in found.runs}
    alike = len({folder.name for folder in folders}) < len(folders)
    years = {_local(night.began).year for _, night in found.runs}
    rows = [_row(night, with_year=len(years) > 1) for _, night in found.runs]
    text = list(_table((_HEADS, *rows)))
    if len(folders) > 1:
        text = _with_folders(text, [place(str(folder)) if alike else folder.name for folder, _ in found.runs])
    zones = ", ".join(dict.fromkeys(zone(_local(night.began)) for _, night in found.runs))
    year = f"{years.pop()}, " if len(years) == 1 else ""
    currencies = ", ".join(dict.fromkeys(night.currency for _, night in found.runs if night.currency))
    about = f"{year}{zones}{currencies and f', {currencies}'}"
    return [
        f"{found.name or '(no name)'}: {count(len(found.runs), 'run')} ({about})",
        *text,
    ]


def _with_folders(table: Sequence[str], folders: Sequence[str]) -> list[str]:
    """Return a table with the folder of each run beside it; with its number, explained below, if that fits."""
    wide = max(map(disp_len, table))

    def beside(head: str, cells: Iterable[str]) -> list[str]:
        return [f"{line:<{wide}} {cell}" for line, cell in zip(table, (head, *cells), strict=True)]

    text = beside("folder", folders)
    if max(map(disp_len, text)) <= _WIDTH:
        return text
    numbers = {folder: str(number) for number, folder in enumerate(dict.fromkeys(folders), 1)}
    return beside("in", map(numbers.__getitem__, folders)) + [f"  in {numbers[folder]}: {folder}" for folder in numbers]


def _row(night: Night, *, with_year: bool) -> tuple[str, ...]:
    began, until = _local(night.began), _local(night.until)
    end = "runs" if night.state == "running" else f"{until:%H:%M}" if night.seconds < _DAY else f"{until:%m-%d %H:%M}"
    waited = sum(night.waited.values())
    how = {"running": "-", "stopped": "cut off"}.get(night.state, f"{night.exit_code} {night.reason}")
    return (
        f"{began:%Y-%m-%d %H:%M}" if with_year else f"{began:%m-%d %H:%M}",
        end,
        *(f"{number:,}" for number in (night.done, night.failed, night.unknown)),
        _pace(night),
        money(night.spent, ""),
        "-" if night.price is None else money(_rounded(night.price), ""),
        f"{sum(night.refused.values()):,}",
        _short(waited),
        how,
    )


def _short(seconds: float) -> str:
    """Return `44m`, `3h10`, `12s`, or `-` for nothing."""
    whole = round(seconds)
    if whole < 60:  # noqa: PLR2004  a minute
        return f"{whole}s" if whole else "-"
    minutes = round(seconds / 60)
    return f"{minutes}m" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02}"  # noqa: PLR2004  an hour


def _table(rows: Sequence[tuple[str, ...]]) -> Iterable[str]:
    """Yield lines of columns that are as wide as what is in them."""
    widths = [max(map(disp_len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            cell + " " * (wide - disp_len(cell)) if head in _LEFT else " " * (wide - disp_len(cell)) + cell
            for head, cell, wide in zip(_HEADS, row, widths, strict=True)
        )
        yield " ".join(cells).rstrip()
