"""What a person at the terminal sees: numbers as people say them, and standard streams that hold.

A caller may close streams (cron jobs do): the next file that is opened would get their number, and their text. So
/dev/null takes their place before, and later that of an output that takes no more: its disk is full, its reader gone.
"""

from __future__ import annotations

import os
import sys
import traceback
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from batchflux.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from decimal import Decimal

    from batchflux.ledger.books.mirrored import MirrorUse
    from batchflux.ledger.summary import ProviderUse
    from batchflux.state import Lesson

F = TypeVar("F", bound="Callable[..., Any]")
STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))  # in the order of their descriptors
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


class Whole(click.IntRange):
    """A whole number within bounds, called so where something else was given."""

    name = "whole number"


def agreed(question: str) -> bool:
    """Ask on stderr. The end of the input (Ctrl-D) is a no; Abort: Ctrl-C."""
    try:
        return click.confirm(question, err=True)
    except click.Abort as error:
        if not isinstance(error.__context__, EOFError):
            raise
        click.echo(err=True)
        return False


HOST = click.option(
    "--host",
    metavar="ADDRESS",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; left out, only this machine can connect.",
)


def at_port(usual: int) -> Callable[[F], F]:
    """Add the port to listen on, by default the usual one."""
    kind = Whole(0, 65535)
    return click.option(
        "--port", metavar="PORT", default=usual, show_default=True, type=kind, help="0 takes a free one."
    )


class OutputFolder(click.Path):
    """An argument that names an output folder. A file is most likely the manifest that was run, and is refused so."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, file_okay=False)

    def convert(self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the folder as a Path; UsageError: it is a file."""
        if Path(value).is_file():
            remedy = f"name the folder that a run wrote to, as out/{Path(value).stem}"
            raise UsageError(f"{value} is no output folder but a file: {remedy}.")
        return super().convert(value, param, ctx)


def fill_in() -> None:
    """Open /dev/null in place of each standard stream that is closed."""
    for descriptor, (name, mode) in enumerate(STREAMS):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest number that is free: this one
        if getattr(sys, name) is None:
            stream = open(descriptor, mode, encoding="utf-8", closefd=False)  # noqa: SIM115  lives as long as we do
            setattr(sys, name, stream)


def say(text: str, *, err: bool = False) -> OSError | None:
    """Print a line to stdout or stderr, or return why that cannot be; what follows goes nowhere then."""
    try:
        click.echo(text, err=err)
    except OSError as error:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2 if err else 1)
        os.close(nowhere)
        return error
    return None


def printing(error: OSError) -> bool:
    """Whether an error came from printing, by click.echo: the last frame that it went through tells."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].f_globals.get("__name__") == click.echo.__module__


def duration(seconds: float) -> str:
    """Return `12 s`, `3 min 20 s`, `5 h 10 min` or `2 d 3 h`."""
    whole = round(seconds)
    for (size, unit), (part, smaller) in pairwise(_UNITS):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit} {rest} {smaller}" if rest else f"{whole // size} {unit}"
    return f"{whole} s" if whole or not seconds else "under 1 s"


def money(amount: Decimal, currency: str) -> str:
    """Return `25.00 CNY`; at least two decimals, as many as there are."""
    exponent = amount.normalize().as_tuple().exponent
    places = max(2, -exponent if isinstance(exponent, int) else 2)
    return f"{amount:,.{places}f} {currency}".strip()


def learned_lines(learned: Mapping[str, Lesson], title: str) -> list[str]:
    """Return what keys were found to allow, `TUZI_API_KEY allows 4.9 requests/s`, of those that met a limit."""
    lines = []
    for name, key in learned.items():
        limits = [] if key.rate is None else [f"{key.rate:.1f}/s" if key.rate >= 1 else f"{60 * key.rate:.1f}/min"]
        limits += [] if key.active is None else [f"{key.active:,} at once"]
        lines += [f"{title}{name} allows {', '.join(limits)}"] if limits else []
    return lines


def place(folder: str) -> str:
    """Return the folder as a person in the current one would type it."""
    relative = os.path.relpath(folder)
    return folder if relative.startswith(os.pardir) else relative


def count(number: int, word: str) -> str:
    """Return `1 job`, `2 jobs`."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"


def same_again(merged: int) -> str:
    """Return how many jobs ask for what an earlier one does: `600 jobs are the same again`."""
    return f"{count(merged, 'job')} {'is' if merged == 1 else 'are'} the same again"


def dropped_fields(dropped: Mapping[str, int]) -> str:
    """Return which fields were dropped of how many jobs: `seed of 120 jobs, options of 1 job`."""
    return ", ".join(f"{name} of {count(number, 'job')}" for name, number in dropped.items())


def provider_lines(providers: Mapping[str, ProviderUse], currency: str) -> list[str]:
    """Return what each of several providers made and came to, a line each; of one alone all has been said."""
    text = []
    for name, use in providers.items() if len(providers) > 1 else ():
        ends = {"done": use.done, "failed": use.failed, "unknown": use.unknown}
        made = ", ".join(f"{number:,} {end}" for end, number in ends.items() if number or end == "done")
        refused = f", {use.refused:,} refused" if use.refused else ""
        text.append(
            f"  provider   {name}: {made}, {count(use.attempts, 'attempt')}, {money(use.spent, currency)}{refused}"
        )
    return text


def mirror_lines(mirror: MirrorUse | None) -> list[str]:
    """Return how many pictures are in the bucket that mirrors the folder, and how many are not."""
    if mirror is None:
        return []
    left = f", {mirror.left:,} not yet" if mirror.left else ""
    return [f"  mirror     {mirror.to}: {count(mirror.mirrored, 'picture')}{left}"]
