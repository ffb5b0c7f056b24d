"""The program's standard streams: all three are there, and none that fails changes how a command ended.

A caller may close them (cron jobs and services do). The next file that is opened would then get their number, and be
written to as if it were one; the event loop refuses to work beside that. So /dev/null takes the place of what is
closed, before anything else is opened, and later of an output that takes no more: its disk is full, its reader gone.
"""

from __future__ import annotations

import os
import sys
import traceback

import click

STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))  # in the order of their descriptors


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
        _shut(2 if err else 1)
        return error
    return None


def printing(error: OSError) -> bool:
    """Whether an error came from printing, by click.echo: the last frame that it went through tells."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].f_globals.get("__name__") == click.echo.__module__


def _shut(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
