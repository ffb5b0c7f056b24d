"""Runs a gateway: the endless run, what is in front of it, and the server, from the first request to the last."""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from batchflux.errors import UsageError
from batchflux.folders.pictures import FolderPictures, Whence
from batchflux.gateway.answering.links import Names
from batchflux.gateway.clients import Accounts, Pace
from batchflux.gateway.desk import Desk
from batchflux.gateway.extras.routes import Extras
from batchflux.gateway.guard import Guard, origins_of
from batchflux.gateway.listen import MOST_CONNECTIONS, Bound, Served, bind, serve
from batchflux.gateway.maker import Maker
from batchflux.gateway.orders import MOST_PICTURES
from batchflux.gateway.pictures import Pictures
from batchflux.gateway.redos import Redoing
from batchflux.gateway.server import Server
from batchflux.ledger.books.calls import begun_since, spent_by_client
from batchflux.ledger.tables import get_meta, set_meta
from batchflux.manifest.reading import values
from batchflux.output.resources import raise_open_files
from batchflux.runner import RunOptions, endless

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import AsyncIterator, Sequence

    from batchflux.gateway.clients import ClientKeys
    from batchflux.manifest import Manifest
    from batchflux.runner import Endless

_OPEN_EACH = 1 + MOST_PICTURES  # files of a connection whose answer is written: itself, and its pictures
_OPEN_ELSE = 4096  # files of the run
_SIGNED_BY = "gateway_names"  # note of a folder: what signs the names of pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayOptions:
    """Where a gateway listens and whom it lets in; `origins` are sites whose pages may use it."""

    host: str = "127.0.0.1"
    port: int = 8790
    keys: ClientKeys | None = None
    public_url: str | None = None
    origins: Sequence[str] = ()
    run: RunOptions = field(default_factory=RunOptions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """A gateway that is served."""

    bound: Bound
    run: Endless
    desk: Desk
    redoing: asyncio.Task[None]

    async def ended(self) -> None:
        """Wait until it can go on no more; what ended it is raised as it is left."""
        tasks = [task for task in (self.run.task, self.redoing) if task is not None]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)


@asynccontextmanager
async def gateway(manifest: Manifest, options: GatewayOptions) -> AsyncIterator[Gateway]:
    """Serve a gateway over a manifest's providers while this is entered.

    Raises UsageError: it cannot listen there; ManifestError: a client has a budget, and a model no price; what `run`
    raises before it begins.
    """
    origins, public_url = origins_of(options.origins), _public(options.public_url)
    if options.keys is not None and (unpriced := _unpriced(manifest)) is not None:
        options.keys.refuse_budgets(unpriced)
    bound = await asyncio.to_thread(bind, options.host, options.port, keyed=options.keys is not None)
    try:
        desk = Desk(options.keys)
        async with endless(manifest, options.run, admits=desk.admits, purse_of=desk.purse_of) as run:
            names = Names(await run.database.submit(_secret))
            spent = await run.database.submit(spent_by_client)
            whence = await run.database.submit(Whence.of)
            whence = whence._replace(base=str(manifest.base))
            there = FolderPictures(run.session.folder, whence, options.run.environ)
            accounts = Accounts(spent, manifest.currency, await _begun(run, options.keys))
            maker = Maker(manifest, run.session.books.photos)
            desk.open(run, maker, names, accounts, there)
            guard, pictures = Guard(options.keys, bound.hosts, origins), Pictures(names, run, there)
            app = Server(guard, desk, pictures, public_url).app()
            Extras(run, maker, names, public_url).add_to(app)
            raise_open_files(MOST_CONNECTIONS * _OPEN_EACH + _OPEN_ELSE)
            served = await serve(app, bound.socket)
            redoing = asyncio.create_task(Redoing(run, maker, desk).look())
            try:
                yield Gateway(bound=bound, run=run, desk=desk, redoing=redoing)
            finally:
                redoing.cancel()
                await _stopped(run, served)
            if not (await asyncio.wait([redoing]))[0].pop().cancelled():
                await redoing  # raises what ended it
    finally:
        bound.socket.close()


async def _begun(run: Endless, keys: ClientKeys | None) -> dict[str, list[float]]:
    """Return when each client's last calls began, as far as rates count them: by this process's steady clock."""
    wall, steady = time.time(), time.monotonic()
    longest = max((Pace(client.rate).window for client in keys.clients), default=0.0) if keys else 0.0
    begun = await run.database.submit(partial(begun_since, at=wall - longest))
    return {client: [min(at - wall, 0.0) + steady for at in times] for client, times in begun.items()}


async def _stopped(run: Endless, served: Served) -> None:
    """Finish what is under way, and end the server; at once where this is cancelled, by a second signal."""
    try:
        await run.drained()
    except asyncio.CancelledError:
        await served.stop(at_once=True)
        raise
    await served.stop()


def _public(text: str | None) -> str | None:
    """Return what links to pictures begin with. UsageError: it is no address."""
    fault = None
    try:
        if text is not None and ("?" in values.url(text) or "#" in text):
            fault = f"found {values.shown(text)} with a query or fragment; remove it"
    except ValueError as error:
        fault = str(error)
    if fault is not None:
        raise UsageError(f"--public-url: {fault}.")
    return text


def _unpriced(manifest: Manifest) -> str | None:
    """Return which model of which provider has no price; None: all have one, so that budgets can be held."""
    for name, provider in manifest.providers.items():
        if not provider.simulated and provider.price_of(provider.model) is None:
            return f"the model {provider.model} of {name}"
    return None


def _secret(connection: sqlite3.Connection) -> bytes:
    """Return what signs the names of the folder's pictures, made when it is first needed."""
    known = get_meta(connection, _SIGNED_BY)
    if known is None:
        known = secrets.token_hex(32)
        set_meta(connection, _SIGNED_BY, known)
    return bytes.fromhex(known)
