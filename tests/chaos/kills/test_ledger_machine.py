"""The ledger against a plain model: any order of attempts, answers, ends, crashes, reopenings and edited manifests.

The files are real. A crash is a copy of the folder as it stands, opened anew: what was submitted and not committed is
gone, what was committed is there, and what was in flight is unknown unless its picture lies in the spool.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tempfile
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from batchflux.errors import Code, JobError
from batchflux.ledger.ledger import Ledger, TransitionError
from batchflux.ledger.reconcile import Selection, work_for
from batchflux.ledger.summary import state_of
from batchflux.ledger.survey import Surveyor
from batchflux.ledger.tables import COLUMNS, Known, ended_rows, spent
from batchflux.models import Job, Link, Outcome, Received, Status, Stored
from tests.attempts import attempt_of, fail, send, take_back

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Awaitable, Callable

NAMES = [f"j{number}" for number in range(4)]
PRICES = st.integers(0, 10**9)
SOME = st.sets(st.sampled_from(NAMES))


def job_of(name: str, position: int = 0) -> Job:
    return Job(
        id=name,
        key=hashlib.sha256(name.encode()).hexdigest(),
        prompt=f"a {name}",
        style="standard",
        model="m",
        provider="tuzi",
        file_name=f"images/{name}.png",
        position=position,
    )


@dataclass(frozen=True)
class Row:
    """What the ledger must say of one job. `state` and `handle` are those of its last attempt."""

    status: str = "pending"
    attempts: int = 0
    in_flight: int | None = None
    maybe: int = 0
    cost: int = 0
    maybe_cost: int = 0
    link: str | None = None
    spool: str | None = None
    code: str | None = None
    listed: bool = True
    state: str | None = None
    handle: str | None = None
    last_price: int = 0
    why: str | None = None  # a picture that was received is in no place
    before: Row | None = None  # how it stood when its last attempt was authorized

    def seen(self) -> tuple[object, ...]:
        """What of it the ledger shows."""
        handle = self.handle if self.polled else None
        told = (self.status, self.attempts, self.in_flight, self.maybe, self.cost, self.maybe_cost)
        return (*told, self.link, self.spool, self.code, self.listed, handle)

    @property
    def received(self) -> bool:
        return self.link is not None or self.spool is not None

    @property
    def out(self) -> bool:
        """Whether an answer is still to come in this process."""
        return self.in_flight is not None

    @property
    def polled(self) -> bool:
        """Whether the API can still be asked for what it made of the last attempt."""
        waits = self.state == "captured" and self.status == "pending"
        return self.handle is not None and (waits or self.state in {"submitted", "unknown"})

    @property
    def sendable(self) -> bool:
        return not self.out and self.status != "done" and not (self.state == "unknown" and self.polled)

    def captured(self, **asset: str | None) -> Row:
        """The last attempt gave a picture: what it may have cost it did cost."""
        price = self.last_price
        was_unknown = self.state == "unknown"
        return replace(
            self,
            status="pending" if self.status == "unknown" else self.status,
            code=None if self.status == "unknown" else self.code,
            cost=self.cost + price,
            maybe=self.maybe - was_unknown,
            maybe_cost=self.maybe_cost - (price if was_unknown else 0),
            in_flight=None,
            state="captured",
            why=None,
            **{"link": None, "spool": None} | asset,  # type: ignore[arg-type]  # the two
        )

    def refused(self, *, unanswered: bool = False) -> Row:
        """The last attempt was refused, or taken back: what was received before it stays."""
        old = self.before or Row()
        kept = {"link": old.link, "spool": old.spool, "state": old.state, "handle": old.handle, "why": old.why}
        stands = {"status": "unknown" if unanswered else "pending", "code": "unknown" if unanswered else None}
        if old.why is not None and old.received and not unanswered:
            stands = {"status": "failed", "code": old.why}
        return replace(self, in_flight=None, **kept, **stands)  # type: ignore[arg-type]  # as Row has them

    def unanswered(self) -> Row:
        """The process ended, or gave up, while the request was out; a task that was accepted goes on."""
        if self.state != "authorized":
            return self
        return replace(
            self,
            status="unknown",
            code="unknown",
            maybe=self.maybe + 1,
            maybe_cost=self.maybe_cost + self.last_price,
            in_flight=None,
            state="unknown",
        )


def seen(known: Known) -> tuple[object, ...]:
    """Return what the ledger shows of a job, as Row.seen does."""
    money = (known.in_flight, known.possibly_billed, known.cost, known.maybe_cost)
    told = (known.status, known.attempts, *money, known.link, known.spool, known.error_code)
    return (*told, bool(known.listed), known.handle)


def answerable(row: Row) -> bool:
    """Whether an answer to the last attempt may come: it is out, or it can still be asked for."""
    return row.out or (row.state == "unknown" and row.polled and row.status == "unknown")


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.root = Path(tempfile.mkdtemp(prefix="batchflux-machine-"))
        self.lives = 0
        self.model: dict[str, Row] = {}
        self.counted: dict[str, bool] = {}
        self.ledger = self.opened({})

    @initialize()
    def begin(self) -> None:
        """A new folder."""

    def teardown(self) -> None:
        self.ledger.close()
        self.runner.close()
        shutil.rmtree(self.root)

    @property
    def folder(self) -> Path:
        return self.root / str(self.lives)

    def opened(self, kept: dict[bytes, str]) -> Ledger:
        self.folder.mkdir(exist_ok=True)
        return Ledger(self.folder / "ledger.db", durable=False, kept=kept)

    def do(self, work: Callable[[], Awaitable[object]]) -> None:
        async def wait() -> None:
            await work()

        self.runner.run(wait())

    def names(self, fits: Callable[[Row], bool]) -> list[str]:
        return [name for name, row in self.model.items() if fits(row)]

    def change(self, name: str, **fields: object) -> None:
        self.model[name] = replace(self.model.get(name, Row()), **fields)  # type: ignore[arg-type]  # as Row has them

    # An attempt, from its authorization to its end.

    @rule(name=st.sampled_from(NAMES), price=PRICES)
    def authorize(self, name: str, price: int) -> None:
        row = self.model.get(name, Row())
        if not row.sendable:
            if row.out or row.polled:
                with pytest.raises(TransitionError):
                    self.do(lambda: send(self.ledger, job_of(name), price=price, at=1000.0))
            return
        self.do(lambda: send(self.ledger, job_of(name), price=price, at=1000.0))
        self.change(
            name,
            attempts=row.attempts + 1,
            status="pending",
            in_flight=price,
            link=None,
            spool=None,
            code=None,
            why=None,
        )
        self.change(name, before=row)
        self.change(name, state="authorized", handle=None, last_price=price)

    @precondition(lambda self: self.names(lambda row: row.state == "authorized"))
    @rule(data=st.data(), told=st.none() | PRICES)
    def submitted(self, data: st.DataObject, told: int | None) -> None:
        name = data.draw(st.sampled_from(self.names(lambda row: row.state == "authorized")))
        self.do(lambda: self.ledger.submitted(attempt_of(self.ledger, job_of(name)), f"task-{name}", told))
        price = self.model[name].last_price if told is None else told
        self.change(name, state="submitted", handle=f"task-{name}", in_flight=price, last_price=price)

    @precondition(lambda self: self.names(answerable))
    @rule(data=st.data(), inline=st.booleans(), told=st.none() | PRICES)
    def captured(self, data: st.DataObject, inline: bool, told: int | None) -> None:  # noqa: FBT001  hypothesis calls by name
        name = data.draw(st.sampled_from(self.names(answerable)))
        row = self.model[name]
        link, spool = (None, f".spool/{name}") if inline else (f"https://cdn.example/{name}.png", None)
        received = Received(asset=spool or Link(url=str(link)), cost=told)
        self.do(lambda: self.ledger.captured(attempt_of(self.ledger, job_of(name)), received))
        taken = row.captured(link=link, spool=spool)
        if told is not None:
            taken = replace(taken, cost=taken.cost - row.last_price + told, last_price=told)
        self.model[name] = taken

    @precondition(lambda self: self.names(answerable))
    @rule(
        data=st.data(),
        code=st.sampled_from([Code.SERVER, Code.MODERATED, Code.BAD_ANSWER, Code.UNKNOWN, Code.ECHOED_INPUT]),
        counts=st.booleans(),
        dead=st.booleans(),
    )
    def failed_attempt(self, data: st.DataObject, code: Code, counts: bool, dead: bool) -> None:  # noqa: FBT001  hypothesis calls by name
        name = data.draw(st.sampled_from(self.names(answerable)))
        row = self.model[name]
        error = JobError(code, "so it is", dead=dead)
        self.do(lambda: fail(self.ledger, job_of(name), error, counts=counts))
        price, was_unknown = row.last_price, row.state == "unknown"
        maybe = code in {Code.UNKNOWN, Code.BAD_ANSWER}
        unknown = code is Code.UNKNOWN
        self.change(
            name,
            in_flight=None,
            state="unknown" if unknown else "failed",
            status="unknown" if unknown else "pending",
            code=code.value if maybe else None,
            maybe=row.maybe - was_unknown + maybe,
            maybe_cost=row.maybe_cost - (price if was_unknown else 0) + (price if maybe else 0),
            cost=row.cost + (price if code is Code.ECHOED_INPUT else 0),
            attempts=row.attempts - (0 if self.uncounted(name) else 1) + counts,
            handle=None if unknown and dead else row.handle,
        )
        self.counted[name] = counts
        if not maybe and code is not Code.ECHOED_INPUT:
            self.model[name] = self.model[name].refused()

    def uncounted(self, name: str) -> bool:
        """Whether the last attempt was taken off the job's attempts before."""
        return self.model[name].state == "unknown" and not self.counted.get(name, True)

    @precondition(lambda self: self.names(lambda row: row.state == "authorized"))
    @rule(data=st.data(), unknown=st.booleans())
    def voided(self, data: st.DataObject, unknown: bool) -> None:  # noqa: FBT001  hypothesis calls by name
        name = data.draw(st.sampled_from(self.names(lambda row: row.state == "authorized")))
        self.do(lambda: take_back(self.ledger, job_of(name), unknown=unknown))
        self.change(name, attempts=self.model[name].attempts - 1)
        self.model[name] = self.model[name].refused(unanswered=unknown)

    @precondition(lambda self: self.names(lambda row: row.received and row.status == "pending"))
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.names(lambda row: row.received and row.status == "pending")))
        row = self.model[name]
        stored = Stored(file_name=f"images/{name}.png", width=1, height=1, bytes=1, sha256="0" * 64)
        outcome = Outcome(status=Status.DONE, stored=stored, result_url=row.link, finished_at=1010.0)
        self.do(lambda: self.ledger.finish(job_of(name), outcome))
        self.change(name, status="done", spool=None, code=None, why=None)

    @rule(name=st.sampled_from(NAMES), code=st.sampled_from(["moderated", "reference", "download"]))
    def failed(self, name: str, code: str) -> None:
        row = self.model.get(name, Row())
        if not row.sendable:
            return
        outcome = Outcome(status=Status.FAILED, error_code=code, error="no", finished_at=1010.0)
        self.do(lambda: self.ledger.finish(job_of(name), outcome))
        spool = None if code == "download" else row.spool
        why = code if row.state == "captured" else row.why
        self.change(name, status="failed", spool=spool, code=code, why=why)

    # What happens to the process and to the manifest.

    @rule(data=st.data(), late=SOME)
    def crash(self, data: st.DataObject, late: set[str]) -> None:
        """Copy the folder as it is, with attempts of `late` submitted and not committed; some pictures are spooled."""

        entered, go_on = threading.Event(), threading.Event()

        def wait(connection: sqlite3.Connection) -> None:
            entered.set()
            go_on.wait(30)

        async def submit() -> None:
            held = self.ledger.database.submit(wait)  # the thread is within a transaction as the process dies
            await asyncio.to_thread(entered.wait, 30)
            for name in sorted(late):
                row = self.model.get(name, Row())
                if row.sendable:
                    send(self.ledger, job_of(name), price=1, at=1.0).cancel()
            old = self.folder
            self.lives += 1
            shutil.copytree(old, self.folder)
            go_on.set()
            await held

        self.runner.run(submit())
        self.ledger.close()
        out = self.names(lambda row: row.in_flight is not None)
        kept = data.draw(st.sets(st.sampled_from(out))) if out else set()
        self.recover(kept)

    @rule()
    def reopen(self) -> None:
        self.ledger.close()
        self.recover(set())

    def recover(self, kept: set[str]) -> None:
        self.ledger = self.opened({bytes.fromhex(job_of(name).key): f".spool/{name}" for name in kept})
        lost = 0
        for name, row in list(self.model.items()):
            if name in kept:
                self.model[name] = row.captured(spool=f".spool/{name}")
            else:
                lost += row.state == "authorized"
                self.model[name] = row.unanswered()
        assert self.ledger.recovered == lost

    @rule(keep=SOME)
    def edit(self, keep: set[str]) -> None:
        """Run another manifest: jobs in another order, some no longer listed."""
        jobs = [job_of(name, position) for position, name in enumerate(sorted(keep, reverse=True))]
        survey = self.ledger.database.now(
            lambda connection: Surveyor(connection, Selection(), lambda _: True, apply=True).take(jobs)
        )
        for name in self.model:
            self.change(name, listed=name in keep)
        assert survey.total == len(keep)
        assert survey.new == len(keep - set(self.model))
        assert survey.unlisted == len(set(self.model) - keep)

    # What must hold at any time.

    @invariant()
    def the_ledger_says_what_the_model_says(self) -> None:
        rows = self.ledger.database.now(
            lambda connection: [Known.of(row) for row in connection.execute(f"SELECT {COLUMNS} FROM known")]  # noqa: S608  a constant
        )
        assert {known.id: seen(known) for known in rows} == {name: row.seen() for name, row in self.model.items()}
        self.never_paid_again({known.id: known for known in rows})

    def never_paid_again(self, rows: dict[str, Known]) -> None:
        for name, row in self.model.items():
            again = work_for(job_of(name), rows[name], Selection(), lambda _: True)
            hold = work_for(job_of(name), rows[name], Selection(on_unknown="hold"), lambda _: True)
            if row.status == "done":
                assert again is None
            elif row.polled and row.status != "failed":
                assert again is not None
                assert not again.costs, "what the API accepted is asked for, not paid again"
                assert (again.handle, hold) == (row.handle, again)
            elif row.status == "pending" and row.received:
                assert again is not None
                assert not again.costs, "what was answered is not paid again"
            elif row.status == "unknown":
                assert again is not None
                assert again.resent == 1
                assert hold is None

    @invariant()
    def every_nanounit_is_accounted_for(self) -> None:
        total = sum(row.cost + row.maybe_cost + (row.in_flight or 0) for row in self.model.values())
        assert self.ledger.database.now(spent) == total

    @invariant()
    def the_projections_agree(self) -> None:
        listed = {name: row for name, row in self.model.items() if row.listed}
        ended = {name for name, row in listed.items() if row.status != "pending"}
        assert {known.id for known in self.ledger.database.now(lambda link: list(ended_rows(link)))} == ended
        state = self.ledger.database.now(state_of)
        for status in ("done", "failed", "unknown"):
            assert getattr(state, status) == sum(row.status == status for row in listed.values())
        assert state.in_flight == sum(row.in_flight is not None for row in self.model.values())
        assert state.possibly_billed == sum(row.maybe for row in self.model.values())


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=25, stateful_step_count=40)


class Longer(LedgerMachine):
    """The same for more examples."""


TestLedgerMachineForLonger = pytest.mark.slow(Longer.TestCase)
TestLedgerMachineForLonger.settings = settings(max_examples=60, stateful_step_count=40)
