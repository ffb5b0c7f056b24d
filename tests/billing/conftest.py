"""Output folders with attempts of every kind, written by the ledger's own verbs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.errors import Code, JobError
from batchflux.ledger.books.balances import Noted, note_balance
from batchflux.ledger.ledger import Ledger
from batchflux.ledger.tables import nanos, set_meta
from batchflux.models import Leaving, Link, Received

if TYPE_CHECKING:
    from pathlib import Path

    from batchflux.charges.books import Balance
    from tests.conftest import MakeJob

PRICE = Decimal("0.14")
BEGAN = 1_795_000_000.0  # 2026-11-18T12:26:40Z
MANIFEST = "version: 1\nname: m\nprovider: {{{provider}, price: 0.14}}\njobs: [{{prompt: x}}]\n"


@dataclass
class Folder:
    """An output folder; attempts leave a minute apart, and take ten seconds each."""

    path: Path
    make_job: MakeJob
    now: float = BEGAN
    sent: list[int] = field(default_factory=list)

    def manifest(self, provider: str) -> None:
        """Write the manifest of the run."""
        self.path.mkdir(exist_ok=True)
        (self.path / "manifest.yaml").write_text(MANIFEST.format(provider=provider), encoding="utf-8")

    def ledger(self) -> Ledger:
        """Open the ledger."""
        return Ledger(self.path / "ledger.db", durable=False, clock=lambda: self.now)

    def sends(self, *attempts: dict[str, Any], provider: str = "studio", key_name: str = "STUDIO_KEY") -> list[int]:
        """Record attempts: `end` is done, lost, refused or out; `receipt`, `handle` and `cost` are what is told."""

        async def write() -> list[int]:
            ledger = self.ledger()
            try:
                return [await self._send(ledger, attempt, provider, key_name) for attempt in attempts]
            finally:
                ledger.database.now(lambda connection: set_meta(connection, "currency", "USD"))
                ledger.close()

        return asyncio.run(write())

    async def _send(self, ledger: Ledger, attempt: dict[str, Any], provider: str, key_name: str) -> int:
        job = self.make_job(attempt.get("job", f"job-{len(self.sent)}"), provider=provider)
        model, price = attempt.get("model", job.model), nanos(Decimal(attempt.get("price", PRICE)))
        self.now += 60
        leaving = Leaving(provider=provider, key_name=key_name, model=model, price=price, at=self.now)
        number = await ledger.authorize(job, leaving)
        self.sent.append(number)
        cost = None if attempt.get("cost") is None else nanos(Decimal(attempt["cost"]))
        if handle := attempt.get("handle"):
            await ledger.submitted(number, handle, None)
        self.now += 10
        end = attempt.get("end", "done")
        if end == "done":
            link = Link(url="https://x.example/a.png")
            await ledger.captured(number, Received(asset=link, cost=cost, receipt=attempt.get("receipt")))
        elif end != "out":
            error = JobError(Code.UNKNOWN if end == "lost" else Code.MODERATED, end, dead=True)
            error.receipt = attempt.get("receipt")
            await ledger.failed(number, error, counts=True, cost=cost)
        return number

    def notes(self, *balances: Balance, provider: str = "studio", key_name: str = "STUDIO_KEY") -> None:
        """Note balances of a run: the first as it began, ten minutes apart."""
        ledger = self.ledger()
        for index, balance in enumerate(balances):
            noted = Noted(provider, key_name, BEGAN, BEGAN + 600 * index, balance)
            ledger.database.now(partial(note_balance, noted=noted))
        ledger.close()


@pytest.fixture
def folder(tmp_path: Path, make_job: MakeJob) -> Folder:
    """An output folder of a relay that no manifest of is written yet."""
    made = Folder(tmp_path / "out", make_job)
    made.manifest('name: studio, base_url: "http://127.0.0.1:9", keys: [STUDIO_KEY]')
    return made
