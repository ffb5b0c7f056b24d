"""Asks providers for what their own books say: free steps, through the one HTTP client, with their own keys."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from batchflux.billing.entries import wire_of
from batchflux.charges.books import Balance, Period, Statement
from batchflux.engine.executors.local import addressed
from batchflux.engine.limits.key_pool import AT
from batchflux.engine.retry import Retrying, Tries
from batchflux.engine.settings import shared_of, transport_options
from batchflux.errors import RULES, Code, JobError, UsageError
from batchflux.ledger.books.balances import Noted
from batchflux.manifest.providers.config import KNOWN
from batchflux.manifest.providers.offers import FLUX_RELAY
from batchflux.models import Then
from batchflux.secrets import wrong_key
from batchflux.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from batchflux.charges.books import Charge
    from batchflux.engine.limits.key_pool import Key
    from batchflux.engine.ports import Executor
    from batchflux.manifest import Manifest
    from batchflux.models import HttpRequest, Reply
    from batchflux.providers import Provider
    from batchflux.secrets import Lookup

SECONDS, TRIES, AT_ONCE, MOST_PAGES = 60.0, 4, 8, 100_000
NOTE_SECONDS = 5.0  # how long a run waits for a balance
LONGEST_WAIT = 30.0  # seconds between two tries


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a provider's books say: `charges`, where it has statements, and what each key's account has spent by now.

    `complete`: the charges are all that there are of the period. `faults` say which balances cannot be read.
    """

    charges: tuple[Charge, ...] | None = None
    complete: bool = True
    balances: tuple[Noted, ...] = ()
    faults: tuple[str, ...] = ()


async def ask(manifest: Manifest, name: str, period: Period, environ: Mapping[str, str]) -> Told:
    """Return what the books of a provider say of a period; UsageError: a key is not set, or they cannot be read."""
    config = manifest.providers[name]
    wire, shared, secrets = wire_of(config), shared_of(manifest, environ, 0)[name], manifest.secrets(environ)
    if (books := wire.books) is None:
        return Told()
    lists: list[list[Charge]] = []
    balances: list[Noted] = []
    faults: list[str] = []
    async with AsyncExitStack() as stack:
        for address in config.addresses:
            options = replace(transport_options(manifest, name, address, {}, shared), timeout=SECONDS, due=None)
            transport = await stack.enter_async_context(Transport(options))
            for key in config.key_names:
                secret = _secret(key, config.keys, secrets)
                account = _Account(name, wire, transport, (address, secret))
                lists.append(await account.charges(books.statements(period)))
                try:
                    balance = await account.balance(books.balance(period))
                except JobError as error:
                    faults.append(f"the balance of {key} cannot be read: {error.message}")
                else:
                    of_key = f"{key}{AT}{address}" if len(config.addresses) > 1 else key
                    balances += [] if balance is None else [Noted(name, of_key, period.since, period.until, balance)]
    return Told(
        charges=tuple(_of_all(lists)) if books.states else None,
        complete=books.complete,
        balances=tuple(balances),
        faults=tuple(faults),
    )


async def read_balance(request: HttpRequest, step: Callable[[HttpRequest], Awaitable[Reply]]) -> Balance:
    """Return what an account has spent or has left, by steps that `step` performs. Raises JobError."""
    reply = await step(request)
    while isinstance(reply, Then):
        reply = await step(reply.request)
    if not isinstance(reply, Balance):
        raise TypeError(f"a provider's reader returned {reply!r} where only a balance can be meant")
    return reply


async def account_balances(
    manifest: Manifest, keys: Mapping[str, Sequence[Key]], executor: Executor, began: float, said: Callable[..., None]
) -> list[Noted]:
    """Return what each key's account has spent or has left now, of the run that began then; free, and never a failure.

    What cannot be read is `said`, as an event. A relay of no known address is left alone: it may be any server.
    """

    async def of_key(name: str, wire: Provider, key: Key) -> Noted | None:
        async def step(request: HttpRequest) -> Reply:
            at = (name, key.address)
            return (await executor.exchange(request, provider=wire, secret=key.secret, at=at)).reply

        request = None if wire.books is None else wire.books.balance(Period(since=began, until=began))
        if request is None or key.dead is not None:
            return None
        try:
            balance = await asyncio.wait_for(read_balance(request, step), NOTE_SECONDS)
        except (JobError, TimeoutError) as error:
            said("balance_untold", key=key.name, message=str(error) or "no answer in time")
            return None
        return Noted(name, key.name, began, time.time(), balance)

    paid = [(name, one) for name in manifest.may_ask if not (one := manifest.providers[name]).simulated]
    places = {known.base_url for known in KNOWN.values()}
    known = [(name, one) for name, one in paid if one.api != FLUX_RELAY or one.base_url in places]
    asked = [of_key(name, wire_of(one), key) for name, one in known for key in keys.get(name, ())]
    return [noted for noted in await asyncio.gather(*asked) if noted is not None]


class _Account:
    """Who a key is of, at one address of a provider."""

    def __init__(self, name: str, wire: Provider, transport: Transport, at: tuple[str, str | None]) -> None:
        self._name, self._wire, self._transport = name, wire, transport
        self._base, self._secret = at
        self._places = asyncio.Semaphore(AT_ONCE)

    async def charges(self, requests: Iterable[HttpRequest]) -> list[Charge]:
        """Return all lines that requests ask for. Raises UsageError."""
        lists = await asyncio.gather(*map(self._pages, requests))
        return [charge for charges in lists for charge in charges]

    async def balance(self, request: HttpRequest | None) -> Balance | None:
        """Return what the account has spent or has left, None where nobody tells. Raises JobError."""
        return None if request is None else await read_balance(request, self._step)

    async def _pages(self, request: HttpRequest) -> list[Charge]:
        found: list[Charge] = []
        for _ in range(MOST_PAGES):
            async with self._places:
                reply = await self._patiently(request)
            if not isinstance(reply, Statement):
                raise TypeError(f"a provider's reader returned {reply!r} where only lines of its books can be meant")
            found += reply.charges
            if reply.more is None:
                return found
            if reply.more.url == request.url:
                break
            request = reply.more
        raise UsageError(f"The books of {self._name} do not end: a page of them leads to itself.")

    async def _patiently(self, request: HttpRequest) -> Reply:
        try:
            return await Retrying(_pause, asyncio.sleep)(lambda: self._step(request), Tries())
        except JobError as error:
            message = f"The books of {self._name} cannot be read: {error.message}"
            raise UsageError(f"{message}; export them, and name the file: --billing FILE.") from error

    async def _step(self, request: HttpRequest) -> Reply:
        secrets = [] if self._secret is None else [self._secret]
        headers = {} if self._secret is None else self._wire.authorize(self._secret)
        made = addressed(request, self._wire, self._base)
        return (await self._transport.exchange(made, headers=headers, secrets=secrets)).reply


def _pause(tries: Tries, error: JobError) -> float | None:
    """Return the seconds to wait before books are asked for again, None to give up."""
    tries.used += 1
    passes = RULES[error.code].fault == "away" or error.code is Code.RATE_LIMITED
    return min(LONGEST_WAIT, error.retry_after or 0.5 * 2**tries.used) if passes and tries.used < TRIES else None


def _secret(key: str, wanted: Sequence[str], secrets: Lookup) -> str | None:
    """Return a key, None where the API wants none; UsageError: it is not set."""
    if key not in wanted:
        return None
    if (wrong := wrong_key(key, secrets)) is not None:
        raise UsageError(f"The provider's books are asked with its key, but {wrong}.")
    return (secrets.get(key) or "").strip()


def _of_all(lists: Iterable[Sequence[Charge]]) -> list[Charge]:
    """Return the lines of all keys; those of one account tell the same ones, which are not said twice for that."""
    found: list[Charge] = []
    for charges in lists:
        known = {(charge.receipt, charge.at, charge.amount) for charge in found if charge.receipt is not None}
        found += [charge for charge in charges if (charge.receipt, charge.at, charge.amount) not in known]
    return found
