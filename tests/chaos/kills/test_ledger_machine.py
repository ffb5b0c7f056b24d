"""The ledger against a plain model: any order of attempts, answers, ends, crashes, reopenings and edited manifests.

The files are real. A crash is a copy of the folder as it stands, opened anew: what was submitted and not committed is
gone, what was committed is there, and what was in flight is unknown unless its picture lies in the spool.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from batchflux.errors import Code, JobError
from batchflux.ledger.ledger import Ledger
from batchflux.ledger.reconcile import Selection, Surveyor, work_for
from batchflux.ledger.summary import state_of
from batchflux.ledger.tables import COLUMNS, Known, ended_rows, spent
from batchflux.models import Job, Link, Outcome, Status, Stored
from tests.attempts import fail, receive, send, take_back

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

NAMES = [f"j{number}" for number in range(5)]
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
    """What the ledger must say of one job."""

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

    @classmethod
    def of(cls, known: Known) -> Row:
        return cls(
            status=known.status,
            attempts=known.attempts,
            in_flight=known.in_flight,
            maybe=known.possibly_billed,
            cost=known.cost,
            maybe_cost=known.maybe_cost,
            link=known.link,
            spool=known.spool,
            code=known.error_code,
            listed=bool(known.listed),
        )

    @property
    def received(self) -> bool:
        return self.link is not None or self.spool is not None

    def unanswered(self) -> Row:
        """The process ended, or gave up, while the request was out."""
        if self.in_flight is None:
            return self
        return replace(
            self,
            status="unknown",
            code="unknown",
            maybe=self.maybe + 1,
            maybe_cost=self.maybe_cost + self.in_flight,
            in_flight=None,
        )


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.root = Path(tempfile.mkdtemp(prefix="batchflux-machine-"))
        self.lives = 0
        self.model: dict[str, Row] = {}
        self.listed = set(NAMES)
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
        return Ledger(self.folder / "ledger.db", kept=kept)

    def do(self, work: Callable[[], Awaitable[object]]) -> None:
        async def wait() -> None:
            await work()

        self.runner.run(wait())

    def names(self, fits: Callable[[Row], bool]) -> list[str]:
        return [name for name, row in self.model.items() if fits(row)]

    def change(self, name: str, **fields: object) -> None:
        self.model[name] = replace(self.model.get(name, Row()), **fields)  # type: ignore[arg-type]  # as Row has them

    # An attempt, from its intention to its end.

    @rule(name=st.sampled_from(NAMES), price=PRICES)
    def intend(self, name: str, price: int) -> None:
        row = self.model.get(name, Row())
        if row.in_flight is not None or row.status == "done":
            return
        self.do(lambda: send(self.ledger, job_of(name), price=price, at=1000.0))
        fields = {"status": "pending", "in_flight": price, "link": None, "spool": None, "code": None}
        self.change(name, attempts=row.attempts + 1, **fields)

    @precondition(lambda self: self.names(lambda row: row.in_flight is not None))
    @rule(data=st.data(), inline=st.booleans())
    def answered(self, data: st.DataObject, inline: bool) -> None:  # noqa: FBT001  hypothesis calls by name
        name = data.draw(st.sampled_from(self.names(lambda row: row.in_flight is not None)))
        row = self.model[name]
        link, spool = (None, f".spool/{name}") if inline else (f"https://cdn.example/{name}.png", None)
        picture = spool or Link(url=str(link))
        self.do(lambda: receive(self.ledger, job_of(name), picture, api_seconds=1.0))
        self.change(name, cost=row.cost + (row.in_flight or 0), in_flight=None, link=link, spool=spool)

    @precondition(lambda self: self.names(lambda row: row.in_flight is not None))
    @rule(
        data=st.data(),
        code=st.sampled_from([Code.SERVER, Code.NETWORK, Code.BAD_ANSWER, Code.UNKNOWN, Code.ECHOED_INPUT]),
        counts=st.booleans(),
    )
    def settle(self, data: st.DataObject, code: Code, counts: bool) -> None:  # noqa: FBT001  hypothesis calls by name
        name = data.draw(st.sampled_from(self.names(lambda row: row.in_flight is not None)))
        row = self.model[name]
        billed = code in {Code.BAD_ANSWER, Code.UNKNOWN, Code.ECHOED_INPUT}
        self.do(lambda: fail(self.ledger, job_of(name), JobError(code, "so it is", billed=billed), counts=counts))
        price = row.in_flight or 0
        if code is Code.ECHOED_INPUT:
            self.change(name, in_flight=None, cost=row.cost + price)
        elif billed:
            status = "unknown" if code is Code.UNKNOWN else "pending"
            money = {"maybe": row.maybe + 1, "maybe_cost": row.maybe_cost + price}
            self.change(name, in_flight=None, status=status, code=code.value, **money)
        else:
            self.change(name, in_flight=None, attempts=row.attempts - (0 if counts else 1))

    @precondition(lambda self: self.names(lambda row: row.in_flight is not None))
    @rule(data=st.data(), unknown=st.booleans())
    def withdraw(self, data: st.DataObject, unknown: bool) -> None:  # noqa: FBT001  hypothesis calls by name
        name = data.draw(st.sampled_from(self.names(lambda row: row.in_flight is not None)))
        self.do(lambda: take_back(self.ledger, job_of(name), unknown=unknown))
        status, code = ("unknown", "unknown") if unknown else ("pending", None)
        self.change(name, in_flight=None, attempts=self.model[name].attempts - 1, status=status, code=code)

    @precondition(lambda self: self.names(lambda row: row.received and row.status == "pending"))
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.names(lambda row: row.received and row.status == "pending")))
        row = self.model[name]
        stored = Stored(file_name=f"images/{name}.png", width=1, height=1, bytes=1, sha256="0" * 64)
        outcome = Outcome(status=Status.DONE, stored=stored, result_url=row.link, finished_at=1010.0)
        self.do(lambda: self.ledger.finish(job_of(name), outcome))
        self.change(name, status="done", spool=None, code=None)

    @rule(name=st.sampled_from(NAMES), code=st.sampled_from(["moderated", "reference", "download"]))
    def failed(self, name: str, code: str) -> None:
        row = self.model.get(name, Row())
        if row.in_flight is not None or row.status == "done":
            return
        outcome = Outcome(status=Status.FAILED, error_code=code, error="no", finished_at=1010.0)
        self.do(lambda: self.ledger.finish(job_of(name), outcome))
        self.change(name, status="failed", spool=None, code=code)

    # What happens to the process and to the manifest.

    @rule(data=st.data(), late=SOME)
    def crash(self, data: st.DataObject, late: set[str]) -> None:
        """Copy the folder as it is, with intents of `late` submitted and not committed; some pictures are spooled."""

        async def submit() -> None:
            for name in sorted(late):
                row = self.model.get(name, Row())
                if row.in_flight is None and row.status != "done":
                    send(self.ledger, job_of(name), price=1, at=1.0).cancel()
            old = self.folder
            self.lives += 1
            shutil.copytree(old, self.folder)

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
                self.change(
                    name, cost=row.cost + (row.in_flight or 0), in_flight=None, spool=f".spool/{name}", link=None
                )
            else:
                lost += row.in_flight is not None
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
        assert {known.id: Row.of(known) for known in rows} == self.model
        self.never_paid_again({known.id: known for known in rows})

    def never_paid_again(self, rows: dict[str, Known]) -> None:
        for name, row in self.model.items():
            again = work_for(job_of(name), rows[name], Selection(), lambda _: True)
            if row.status == "done":
                assert again is None
            elif row.status == "pending" and row.received:
                assert again is not None
                assert not again.costs, "what was answered is not paid again"
            elif row.status == "unknown":
                assert again is not None
                assert again.resent == 1
                assert work_for(job_of(name), rows[name], Selection(on_unknown="hold"), lambda _: True) is None

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
TestLedgerMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
