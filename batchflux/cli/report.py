"""`batchflux report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Never

import click
from tqdm import tqdm

from batchflux.cli.words import count, place
from batchflux.report.report import Report, write_report

if TYPE_CHECKING:
    from collections.abc import Callable

_SHOWN = 3


@click.command("report")
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
def command(out: Path) -> None:
    """Write OUT/report.html: all pictures of an output folder in one page that opens from disk."""
    with tqdm(desc="thumbnails", unit="picture", leave=False, disable=None) as bar:

        def started(jobs: int) -> Callable[[], None]:
            bar.reset(jobs)
            return lambda: _step(bar)

        report = write_report(out, started)
    _tell(report)


def _step(bar: tqdm[Never]) -> None:
    bar.update(1)


def _tell(report: Report) -> None:
    click.echo(place(str(report.path)))
    click.echo(f"{count(report.rows, 'job')}, {count(report.thumbs, 'thumbnail')} made.", err=True)
    if report.missing:
        names = ", ".join(report.missing[:_SHOWN])
        more = "" if len(report.missing) <= _SHOWN else f" and {len(report.missing) - _SHOWN:,} more"
        click.echo(
            f"{count(len(report.missing), 'picture')} cannot be shown, the file is missing or damaged ({names}{more}); "
            "`batchflux run` brings missing ones back.",
            err=True,
        )
