"""`batchflux gateway-key`: makes keys for the clients of a gateway."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from batchflux.errors import UsageError
from batchflux.gateway.clients import Client
from batchflux.gateway.new_keys import add_key, renew_key
from batchflux.manifest.reading import values

if TYPE_CHECKING:
    from collections.abc import Callable

Bound = TypeVar("Bound")
_tell = partial(click.echo, err=True)


@click.command("gateway-key")
@click.argument("name")
@click.option(
    "--client-keys",
    "path",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The gateway's file of client keys; made where there is none.",
)
@click.option(
    "--budget",
    metavar="AMOUNT",
    help="The most that the client may spend, in the manifest's currency; left out: no bound.",
)
@click.option("--rate", metavar="N/min", help="How many calls it may make, as 30/min; left out: no bound.")
@click.option("--metrics", is_flag=True, help="Let it read /metrics.")
@click.option("--renew", is_flag=True, help="Give a client that is there another key; what bounds it stays.")
def gateway_key(name: str, path: Path, budget: str | None, rate: str | None, *, metrics: bool, renew: bool) -> None:
    """Make a key for the client NAME of a gateway, and print it to stdout: once, for the file has its hash only.

    A gateway that is running takes it with SIGHUP (kill -HUP, systemctl reload).
    """
    if renew:
        if budget is not None or rate is not None or metrics:
            raise UsageError("--renew changes the key alone; change budget, rate and metrics in the file.")
        key = renew_key(path, name)
    else:
        money, pace = _bound("--budget", values.money, budget), _bound("--rate", values.rate, rate)
        key = add_key(path, Client(name=name, budget=money, rate=pace, metrics=metrics))
    click.echo(key)
    _tell(f"This key of {name} is shown now and never again; {path} has its hash. A running gateway needs SIGHUP.")


def _bound(option: str, read: Callable[[str], Bound], text: str | None) -> Bound | None:
    """Read what an option says; UsageError: it is not what is allowed."""
    try:
        return None if text is None else read(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}.") from None
