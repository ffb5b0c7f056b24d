"""`batchflux comfyui`: the nodes for ComfyUI."""

from __future__ import annotations

from pathlib import Path

import click

from batchflux.comfyui import install as pack


@click.group("comfyui")
def comfyui() -> None:
    """Make pictures in ComfyUI through a gateway: nodes of which each picture is paid for once."""


@comfyui.command("install")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def install(folder: Path) -> None:
    """Copy the nodes into the ComfyUI that lies in DIR, or bring them up to date there.

    DIR is ComfyUI's folder or its custom_nodes. Only files that this command put there are changed; restart ComfyUI
    then. The nodes need nothing beyond what ComfyUI has, and a running `batchflux gateway`.
    """
    click.echo(pack.install(folder))
    click.echo("Restart ComfyUI: the nodes are under batchflux.", err=True)
