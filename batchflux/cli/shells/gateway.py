"""`batchflux gateway`: serves OpenAI's API over a manifest's providers until Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import uvloop

from batchflux.cli.manifest import serving_options
from batchflux.cli.terminal import HOST, at_port
from batchflux.engine.shutdown import SIGNAL_EXIT
from batchflux.gateway.clients import ClientKeys
from batchflux.gateway.running import GatewayOptions
from batchflux.gateway.running import gateway as served
from batchflux.observers import Watcher
from batchflux.runner import RunOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.manifest import Manifest

_tell = partial(click.echo, err=True)


class _Teller(Watcher):
    """Says why pictures are not made, or late: clients are told less."""

    def event(self, name: str, /, **fields: Any) -> None:
        """Tell what who runs this has to see to."""
        if name in {"not_made", "away", "back"}:
            maker = fields.get("provider")
            _tell(fields["message"] if maker is None else f"{maker}: {fields['message']}")


@click.command("gateway")
@serving_options
@HOST
@at_port(8790)
@click.option(
    "--client-keys",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Let in who has one of these keys only, each with a budget and a rate: batchflux gateway-key makes them.",
)
@click.option(
    "--public-url", metavar="URL", help="What links to pictures begin with, where clients come by another way."
)
@click.option("--allow-origin", metavar="URL", multiple=True, help="A site whose pages may call from a browser.")
def gateway(load: Callable[..., Manifest], *, client_keys: Path | None, **given: Any) -> int:
    """Serve OpenAI's images and chat API over the providers of MANIFEST, until Ctrl-C.

    Each call is one job of an endless run in the manifest's output folder: its limits, budget and fallbacks hold, and
    status, report and review show it. The jobs that MANIFEST lists, if any, are not run. The base URL is printed to
    stdout. SIGHUP reads the client keys again; without any it stops the gateway, as Ctrl-C does.
    """
    manifest = load(served=True)
    if manifest.unheeded:
        _tell(f"{manifest.display}: what clients ask for is made without {', '.join(manifest.unheeded)}.")
    keys = None if client_keys is None else ClientKeys(client_keys)
    told = RunOptions(watcher=_Teller())
    options = GatewayOptions(keys=keys, origins=given.pop("allow_origin"), run=told, **given)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(manifest, options))


async def _serve(manifest: Manifest, options: GatewayOptions) -> int:
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    serving = asyncio.current_task()

    last = signal.SIGTERM

    def stop(number: signal.Signals) -> None:
        nonlocal last
        if stopped.is_set() and serving is not None:
            serving.cancel()
        last = number
        stopped.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    if (keys := options.keys) is not None:
        loop.add_signal_handler(signal.SIGHUP, lambda: _tell(keys.reload()))
    elif signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup leaves it
        loop.add_signal_handler(signal.SIGHUP, stop, signal.SIGHUP)
    try:
        async with served(manifest, options) as running:
            click.echo(f"{running.bound.url}/v1")
            if running.bound.opens is not None:
                _tell(running.bound.opens)
            _tell(f"Gateway of {manifest.display} into {manifest.output.dir}. Stop with Ctrl-C.")
            ended = asyncio.create_task(running.ended())
            stopping = asyncio.create_task(stopped.wait())
            await asyncio.wait([ended, stopping], return_when=asyncio.FIRST_COMPLETED)
            _tell("Stopping: what is under way is finished and kept; Ctrl-C again stops at once.")
    except asyncio.CancelledError:
        _tell("Stopped at once: what was under way may have been billed; it is on record.")
        return SIGNAL_EXIT + last
    return 0
