"""`batchflux export-review`."""

from __future__ import annotations

from pathlib import Path

import click

from batchflux.cli.words import count
from batchflux.exporting import export_review


@click.command("export-review")
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option("-o", "target", metavar="FILE", required=True, type=click.Path(path_type=Path, dir_okay=False))
def command(out: Path, target: Path) -> None:
    """Write what a review of the output folder OUT asked to redo as a manifest of its own, to FILE.

    It is for making them apart, into another folder; `batchflux run --redo` makes them beside the pictures they redo.
    Webhooks are kept where the manifest has them under defaults.
    """
    exported = export_review(out, target)
    click.echo(f"Wrote {target}: {count(exported.jobs, 'job')}, to be made into {exported.folder}.", err=True)
