"""`batchflux schema`."""

from __future__ import annotations

import json

import click

from batchflux.manifest import schema


@click.command("schema")
def command() -> None:
    """Print the JSON Schema of the manifest; editors use it to complete and check what you write."""
    click.echo(json.dumps(schema(), indent=2, ensure_ascii=False))
