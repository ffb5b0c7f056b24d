"""`batchflux export-review`."""

from __future__ import annotations

from pathlib import Path

import click

from batchflux.cli.words import count
from batchflux.exporting import export_review, redo_manifest


@click.command("export-review")
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option("-o", "target", metavar="FILE", required=True, type=click.Path(dir_okay=False, allow_dash=True))
def command(out: Path, target: str) -> None:
    """Write what a review of the output folder OUT asked to redo as a manifest of its own, to FILE (- is stdout).

    It is for making them apart, into another folder; `batchflux run --redo` makes them beside the pictures they redo.
    Webhooks are kept where the manifest has them under defaults. On stdout it is a manifest for the current folder.
    """
    if target == "-":
        exported = redo_manifest(out, Path.cwd())
        click.echo(exported.text.encode(), nl=False)
    else:
        exported = export_review(out, Path(target))
    where = "the manifest to stdout" if target == "-" else target
    click.echo(f"Wrote {where}: {count(exported.jobs, 'job')}, to be made into {exported.folder}.", err=True)
