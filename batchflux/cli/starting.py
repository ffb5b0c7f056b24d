"""The commands that help to write a manifest: `batchflux init` and `batchflux schema`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from batchflux.errors import UsageError
from batchflux.manifest import schema as manifest_schema
from batchflux.manifest import starter


@click.command("init")
@click.argument("file", default="batchflux.yaml", type=click.Path(path_type=Path, dir_okay=False))
def init(file: Path) -> None:
    """Write a commented starter manifest to FILE (batchflux.yaml). It runs at once, on the simulator."""
    try:
        with file.open("x", encoding="utf-8") as handle:
            handle.write(starter())
    except FileExistsError:
        raise UsageError(f"{file} is there already: name another file, or remove it first.") from None
    except OSError as error:
        raise UsageError(f"{file} cannot be written ({error.strerror}): name another place.") from None
    click.echo(f"Wrote {file}. Next: batchflux plan {file}, then batchflux run {file}", err=True)


@click.command("schema")
def schema() -> None:
    """Print the JSON Schema of the manifest; editors use it to complete and check what you write."""
    click.echo(json.dumps(manifest_schema(), indent=2, ensure_ascii=False))
