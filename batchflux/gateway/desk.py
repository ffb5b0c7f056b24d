"""Takes orders: joins one to the call that it repeats, or begins a call; sees each call through, whoever still waits.

Who asks the same again may be a person who wants another picture, or a client that lost the answer. So an order joins
a call: by the client's own mark for it (`Idempotency-Key`), for ever; while the same is being made; and, where the
client says that it asks again (`x-stainless-retry-count`), the last of the same that began not long ago. Any other is a
call of its own, for the next variant of its content. A call is on record before its jobs leave, so that all of this
holds after a crash, too. What was never sent, or cost nothing and may work now, is tried again for who joins.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import mimetypes
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

from batchflux.engine.shutdown import BUDGET, STORAGE
from batchflux.errors import RULES, Code, StorageError
from batchflux.gateway.answering import errors
from batchflux.gateway.clients import LOCAL, Client
from batchflux.gateway.orders import RefusalError, Shot
from batchflux.ledger.books.calls import Call, begin_call, call_of_mark, jobs_on_record, last_call, open_calls
from batchflux.ledger.means import exists_in
from batchflux.ledger.reconcile import Selection, Work, collected_again, standing, work_for
from batchflux.ledger.tables import currency, known_by_key
from batchflux.manifest.schema import CLIENT
from batchflux.models import Status
from batchflux.output.base import further_in
from batchflux.runner import NotMadeError
from batchflux.runner.stream import RENEWED

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Coroutine, Iterator, Sequence
    from pathlib import Path

    from batchflux.engine.budget import Purse
    from batchflux.folders.pictures import FolderPictures
    from batchflux.gateway.answering.links import Names
    from batchflux.gateway.clients import Accounts, ClientKeys
    from batchflux.gateway.maker import Maker, Model
    from batchflux.gateway.orders import Order
    from batchflux.ledger.tables import Known
    from batchflux.models import Job
    from batchflux.runner import Endless

ASKS_AGAIN = 1800.0  # seconds since a call began in which a retry is of it; OpenAI's SDK waits 600 s, three times
MOST_OF_CLIENT = 1000  # calls of a client under way: who leaves could leave any number of them behind
PATIENCE = 60.0  # seconds for which a call that has not left is kept for a client that has gone


@dataclass(slots=True, kw_only=True, eq=False)
class Held:
    """A call that is being made, or was; `client` waits for it, as often as `waiting` says, or `left` it then.

    `made` comes to its pictures, or to a RefusalError. `buys`: something may be bought for it now, and was not before.
    `missing` are the codes of those of its pictures that could not be made, where others could. `dropped` are the
    fields that `params: drop` left out, of who is to make it, and then of who did.
    """

    client: Client
    content: bytes
    mark: str | None
    waiting: int = 0
    left: float = field(default_factory=time.monotonic)
    buys: bool = False
    missing: tuple[str, ...] = ()
    dropped: Sequence[str] = ()
    made: asyncio.Future[Sequence[Shot]]

    def wanted(self) -> bool:
        """Whether somebody waits for it, or may come back for it."""
        return self.waiting > 0 or time.monotonic() - self.left < PATIENCE


class Desk:
    """The desk of a gateway. `run` makes its jobs; it asks here who pays, and what is still wanted.

    `keys` are the clients', None where there are none.
    """

    def __init__(self, keys: ClientKeys | None) -> None:
        self._keys = keys
        self._held: dict[tuple[str, bytes], Held] = {}  # by content, without marks
        self._marked: dict[tuple[str, str], Held] = {}
        self._of_job: dict[str, Held] = {}
        self._left: set[str] = set()  # keys of jobs of earlier runs that are seen through as far as that is free
        self._tasks: set[asyncio.Task[None]] = set()
        self.joined = 0

    def open(self, run: Endless, maker: Maker, names: Names, accounts: Accounts, there: FolderPictures) -> None:
        """Begin with a run, and take up what was left of earlier ones: nothing of it costs anything."""
        self._run, self._maker, self._names, self._accounts, self._there = run, maker, names, accounts, there
        self._exists = exists_in(run.session.manifest)
        self._under_way(self._taken_up())

    def purse_of(self, job: Job) -> Purse:
        """Return who pays for a job."""
        return self._accounts.purse(self._client(dict(job.tags).get(CLIENT, "")))

    def admits(self, job: Job) -> bool:
        """Whether a job's next request may leave: somebody waits for it, or may come back. Its payer is asked next."""
        self.purse_of(job)  # with the budget that holds by now
        held = self._of_job.get(job.key)
        return job.key not in self._left if held is None else held.wanted()

    def _client(self, name: str) -> Client:
        """Return a client by its name; one that was taken out of the file has no money for what still waits."""
        if self._keys is None:
            return replace(LOCAL, name=name)
        gone = Client(name=name, budget=Decimal(0))
        return next((client for client in self._keys.clients if client.name == name), gone)

    @property
    def works(self) -> bool:
        """Whether orders are carried out."""
        return self._run.task is not None and not self._run.task.done()

    async def keeps(self) -> bool:
        """Whether pictures can be kept, so that no order is refused for that."""
        return await self._run.keeps()

    @property
    def folder(self) -> Path:
        """Where all is kept."""
        return self._run.session.folder

    @property
    def currency(self) -> str:
        """Of all money here."""
        return self._run.session.manifest.currency

    @property
    def making(self) -> int:
        """How many calls are being made."""
        return len(self._held) + len(self._marked)

    @property
    def waiting(self) -> int:
        """How many clients wait for one."""
        return sum(held.waiting for held in (*self._held.values(), *self._marked.values()))

    def spent(self) -> dict[str, int]:
        """Return what each client has spent, by its name, in nanounits."""
        return self._accounts.spent()

    def models(self) -> list[Model]:
        """Return what can be asked for."""
        return self._maker.models()

    def doing(self) -> str:
        """Say in few words what is waited for: not which jobs, hosts or keys, which are not every client's to know."""
        return "waiting for the provider" if self._run.waiting() else "making the picture"

    def cost(self, shots: Sequence[Shot]) -> str | None:
        """Return what pictures cost in all; None where nothing does."""
        costs = [Decimal(shot.cost) for shot in shots if shot.cost is not None]
        return format(sum(costs), "f") if costs else None

    async def take(self, client: Client, order: Order, *, mark: str | None, again: bool) -> tuple[Held, bool]:
        """Return the call that an order is, or repeats, and whether it is one that is being made for someone else.

        `again`: the client says that it asked before.

        Raises RefusalError: what is asked cannot be made, or is too much; nothing was bought.
        """
        asked, job = await self._asked(order)
        job = self.tagged(job, client.name)
        content = hashlib.sha256(f"{job.key} {order.count}".encode()).digest()
        held = self._held.get((client.name, content)) if mark is None else self._marked.get((client.name, mark))
        if held is not None:
            self._maker.settle(asked, called=False)
            self._check_same(held.content, content)
            self.joined += 1
            return held, True
        made: asyncio.Future[Sequence[Shot]] = asyncio.get_running_loop().create_future()
        held = Held(client=client, content=content, mark=mark, dropped=job.dropped, made=made)
        if mark is None:
            self._held[client.name, content] = held
        else:
            self._marked[client.name, mark] = held
        call = Call(0, client.name, content, mark, asked, 1, time.time())
        self._under_way(self._see_through(held, call, job, order.count, again=again))
        return held, False

    async def _asked(self, order: Order) -> tuple[str, Job]:
        """Return what an order asks as JSON, and its first job; pictures are written and decoded in a thread."""
        if not order.images and order.mask is None:
            return self._read(order)
        reading = asyncio.ensure_future(asyncio.to_thread(self._read, order))
        try:
            return await asyncio.shield(reading)
        except asyncio.CancelledError:  # its client has gone, and nothing is on record yet
            reading.add_done_callback(self._unread)
            raise

    def _read(self, order: Order) -> tuple[str, Job]:
        asked = self._maker.kept(order)
        try:
            return asked, self._maker.job(asked)
        except BaseException:
            self._maker.settle(asked, called=False)
            raise

    def _unread(self, reading: asyncio.Future[tuple[str, Job]]) -> None:
        """Let go of what was read for nobody."""
        if not reading.cancelled() and reading.exception() is None:
            self._maker.settle(reading.result()[0], called=False)

    def _check_same(self, one: bytes, other: bytes) -> None:
        if one != other:
            message = "This Idempotency-Key was used for another request; give each request a key of its own."
            raise RefusalError(400, "idempotency_key_reused", message)

    def _under_way(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _see_through(self, held: Held, call: Call, job: Job, count: int, *, again: bool) -> None:
        try:
            held.made.set_result(await self._shots(held, call, job, count, again=again))
        except RefusalError as error:
            held.made.set_exception(error)
            held.made.exception()  # whoever waited may have gone
        except BaseException as error:
            held.made.set_exception(errors.refusal("bug", billed=True))
            held.made.exception()
            if not isinstance(error, Exception):
                raise
            self._run.session.bug(error)
        finally:
            if held.mark is None:
                del self._held[held.client.name, held.content]
            else:
                del self._marked[held.client.name, held.mark]

    async def _shots(self, held: Held, call: Call, job: Job, count: int, *, again: bool) -> Sequence[Shot]:
        """Make a call's pictures, or find them; RefusalError: there is none."""
        found, jobs = await self._on_record(held, call, job, count, again=again)
        self._of_job |= dict.fromkeys((one.key for one in jobs), held)
        try:
            ends = await asyncio.gather(*(self._made(one, held, new=not found) for one in jobs))
        finally:
            for one in jobs:
                self._of_job.pop(one.key, None)
        shots = [end for end in ends if isinstance(end, Shot)]
        refused = [end for end in ends if isinstance(end, RefusalError)]
        if not shots:
            raise min(refused, key=lambda error: errors.resent(error.status))  # one of them may be billed
        held.missing = tuple(error.code for error in refused)
        held.dropped = list(dict.fromkeys(name for shot in shots for name in shot.dropped))
        return shots

    async def _on_record(
        self, held: Held, call: Call, job: Job, count: int, *, again: bool
    ) -> tuple[bool, Sequence[Job]]:
        """Find the call that this one repeats, or put it on record; return whether it was found, and its jobs."""
        take, called = partial(self._maker.take, job), True
        repeats = again or call.mark is not None
        try:
            found = await self._run.database.submit(partial(self._before, call=call)) if repeats else None
            if found is not None:
                jobs = await self._run.database.submit(partial(jobs_on_record, call=found, made=take, least=count))
                if found.asked != call.asked:
                    self._check_same(found.content, call.content)
                self.joined += 1
                return True, jobs
            repeats = False  # so nothing was bought for it before
            self._admit(held.client, job, count)
            _, jobs = await self._run.database.submit(partial(begin_call, call=call, first=job, count=count, made=take))
        except RefusalError:
            called = False
            raise
        except StorageError:
            raise errors.refusal(STORAGE, billed=repeats) from None
        finally:
            self._maker.settle(call.asked, called=called)
        return False, jobs

    @staticmethod
    def tagged(job: Job, client: str) -> Job:
        """Return a job as a client's."""
        return replace(job, tags=((CLIENT, client),))

    @staticmethod
    def _before(connection: sqlite3.Connection, call: Call) -> Call | None:
        """Return the call on record that one repeats: by its mark, or else by what it asks for."""
        if call.mark is not None:
            return call_of_mark(connection, call.client, call.mark)
        return last_call(connection, call, call.at - ASKS_AGAIN)

    def _admit(self, client: Client, job: Job, count: int) -> None:
        """Refuse what is more than a client may ask, or than there is money for; nothing of it is on record then."""
        if not self._run.affords(job, count):
            raise errors.refusal(BUDGET, billed=False)
        calls = sum(held.client.name == client.name for held in (*self._held.values(), *self._marked.values()))
        if calls > MOST_OF_CLIENT:
            message = f"This key has {MOST_OF_CLIENT:,} calls under way; ask again when some of them are answered."
            raise RefusalError(429, "rate_limit_exceeded", message, kind="rate_limit_error", retry_after=5.0)
        wait = self._accounts.pace(client).admit(time.monotonic())
        if wait > 0:
            message = f"This key may make {client.rate} calls; ask again in {math.ceil(wait)} s."
            raise RefusalError(429, "rate_limit_exceeded", message, kind="rate_limit_error", retry_after=wait)

    async def _made(self, job: Job, held: Held, *, new: bool) -> Shot | RefusalError:
        """Return the picture of a job, made now if it is not there; or why there is none."""
        known, renewed = None if new else await self._known(job), False
        while True:
            try:
                return await self._made_once(job, held, known)
            except NotMadeError as error:
                known = await self._known(job)
                if known is not None and known.status != Status.PENDING:
                    return self._end(job, known)
                billed = known is not None and _billed(known)
                if error.reason != RENEWED or (renewed and not billed):  # what is paid for is waited for
                    return errors.of_not_made(error, billed=billed)
                renewed = True

    async def _made_once(self, job: Job, held: Held, known: Known | None) -> Shot | RefusalError:
        """See through what follows for a job; NotMadeError: it has not ended."""
        if known is None:
            work = Work(job=job)
        elif (left := self._left_to_do(job, known)) is None:
            return self._end(job, known)
        else:
            work = left
            if known.status == Status.FAILED:
                self._run.ends_again()
        held.buys |= work.costs
        return self._end(job, await self._run.make(work))

    def _left_to_do(self, job: Job, known: Known) -> Work | None:
        failed = known.status == Status.FAILED
        if failed and _is_over(known):
            return collected_again(job, known)  # what was paid for may be there now
        selection = Selection(on_unknown="hold", retry_failed=failed)
        return work_for(job, known, selection, self._exists, self._run.session.books.means)

    async def _known(self, job: Job) -> Known | None:
        found = await self._run.database.submit(lambda connection: known_by_key(connection, [job.key]))
        return found.get(job.key)

    def _end(self, job: Job, known: Known) -> Shot | RefusalError:
        """Return what a job came to, as the ledger has it."""
        if known.status == Status.DONE and known.file_name is not None:
            return self._shot(job, known)
        cause = Code.UNKNOWN if standing(known) == Status.UNKNOWN else known.error_code or Code.INTERNAL
        return errors.refusal(cause, known.error or "", billed=_billed(known))

    def _shot(self, job: Job, known: Known) -> Shot:
        name = str(known.file_name)
        cost = known.cost + known.maybe_cost
        shot = Shot(
            job=known.id,
            name=self._names.name(job.key, name.rpartition(".")[2]),
            path=str(self._run.session.folder / name),
            media_type=_media_type(name),
            width=known.width or 0,
            height=known.height or 0,
            bytes=known.bytes or 0,
            cost=None if self._run.session.manifest.free else format(currency(cost), "f"),
            seed=known.seed_used if known.seed_used is not None else job.seed,
            revised_prompt=known.revised_prompt,
            dropped=json.loads(known.spec).get("dropped", ()),
            elsewhere=None if self._there.mirror is None else partial(self._there.read, name, str(known.sha256), name),
        )
        return replace(shot, further=tuple(self._further(job, shot, further_in(known.remarks))))

    def _further(self, job: Job, shot: Shot, names: Sequence[str]) -> Iterator[Shot]:
        """Yield the further pictures that an answer had and that are files here; nothing more is known of them."""
        for place, name in enumerate(names, 2):
            path = self._there.path(name)
            with suppress(FileNotFoundError):  # somebody took it away just now
                if path is not None:
                    link, size = self._names.name(job.key, name.rpartition(".")[2], place), path.stat().st_size
                    yield Shot(job=shot.job, name=link, path=str(path), media_type=_media_type(name), bytes=size)

    async def _taken_up(self) -> None:
        """See through what earlier runs left, as far as that is free; who asks for the rest has it tried again."""
        for call in await self._run.database.submit(open_calls):
            try:
                first = await asyncio.to_thread(self._maker.job, call.asked)
            except (RefusalError, StorageError) as error:  # the manifest changed, or a photo is gone
                self._run.session.event("call_left", number=call.number, message=str(error))
                continue
            made = partial(self._maker.take, self.tagged(first, call.client))
            for job in await self._run.database.submit(partial(jobs_on_record, call=call, made=made)):
                self._under_way(self._resumed(job))

    async def _resumed(self, job: Job) -> None:
        self._left.add(job.key)
        try:
            await self._made_free(job)
        except (NotMadeError, StorageError) as error:
            self._run.session.event("call_left", id=job.id, message=str(error))
        finally:
            self._left.discard(job.key)

    async def _made_free(self, job: Job) -> None:
        while True:
            known = await self._known(job)
            if known is None or job.key in self._of_job:
                return
            selection = Selection(on_unknown="hold")
            work = work_for(job, known, selection, self._exists, self._run.session.books.means)
            if work is None or work.costs:
                return
            try:
                await self._run.make(work)
            except NotMadeError as error:
                if error.reason != RENEWED:
                    raise
            else:
                return


def _media_type(name: str) -> str:
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


def _billed(known: Known) -> bool:
    """Whether something was paid for a job, or may have been, or is out and may be yet."""
    free = known.error_code is None or RULES[_code_of(known)].billed == "no"
    paid = known.cost > 0 or known.possibly_billed > 0 or known.in_flight is not None
    return paid or not free  # the last where nothing has a price


def _is_over(known: Known) -> bool:
    """Whether a failed job is not to be sent for who asks again: it may have been paid for, or would fail again."""
    return known.handle is None and (_billed(known) or RULES[_code_of(known)].retry == "never")


def _code_of(known: Known) -> Code:
    return Code(known.error_code or Code.INTERNAL)
