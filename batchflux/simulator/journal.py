"""Count what was asked, answered and billed, so that tests can prove that nothing was paid twice.

Counters by content remember the last ones only: it runs inside `batchflux run`, whose memory must not grow with the
number of jobs. Totals are exact for ever.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict, deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchflux.simulator.requests import ImageRequest

KEPT_CONTENTS = 32_768
CHARGES_KEPT = 4_096


class Tally(OrderedDict[str, int]):
    """Counts of the contents that were counted last, by the first 16 hex digits of their hash."""

    def add(self, content: str, more: int = 1) -> int:
        """Add `more` to a count and return what it was before."""
        before = self.pop(content[:16], 0)
        self[content[:16]] = before + more
        if len(self) > KEPT_CONTENTS:
            self.popitem(last=False)
        return before


class Journal:
    """The counters of one simulator.

    `received` counts calls and submits, `by_status` their answers (a hang or a reset has none), `polls` the answers to
    polls by the task's status as BFL writes it, or else by HTTP status, `files` the answers to fetched links, `batches`
    those that were created, and the states that they ended in. `webhooks` counts calls by their answers, with refused
    (no answer), and those not made: elsewhere (it is not this machine) and unsigned (the extra is not installed).

    `billed` counts what is charged: calls that came as far as a picture, even when it was cut off or spoilt, and tasks:
    at BFL when they become Ready, at a relay when they are created; of those that fail the bill is taken back, which
    `refunded` counts. `charges` are the last movements of money: `credits` (negative: given back), the `task` (null for
    a call) and when, `at`, in epoch seconds; `request` is the id that its API gave it, if any. `answered` counts the
    pictures given whole: of a task, the first Ready.
    """

    def __init__(self) -> None:
        self.by_status: Counter[int] = Counter()
        self.polls: Counter[str] = Counter()
        self.files: Counter[int] = Counter()
        self.faults: Counter[str] = Counter()
        self.webhooks: Counter[str] = Counter()
        self.batches: Counter[str] = Counter()
        self.charges: deque[dict[str, Any]] = deque(maxlen=CHARGES_KEPT)
        self.received = self.billed = self.refunded = self.answered = self.repeated = 0
        self.credits = 0.0
        self.asked, self.bills, self.pictures = Tally(), Tally(), Tally()

    def bill(
        self,
        request: ImageRequest,
        *,
        task: str | None = None,
        call: str | None = None,
        price: float = 0.0,
        refund: bool = False,
    ) -> None:
        """Count one charge of `price` credits, or take it back; of a task, or of a call by its id."""
        sign = -1 if refund else 1
        self.billed += sign
        self.refunded += refund
        self.bills.add(request.content, sign)
        self.credits = round(self.credits + sign * price, 6)
        whose = {"request": task or call, "api": request.api, "model": request.model}
        charge = {"content": request.content, "task": task, "credits": sign * price, "at": time.time(), **whose}
        self.charges.append(charge)

    def answer(self, content: str) -> None:
        """Count an answer with a picture that was sent to its end."""
        self.answered += 1
        self.repeated += bool(self.pictures.add(content))

    def as_dict(self) -> dict[str, Any]:
        """Return the totals, for `GET /v1/simulator/stats`."""
        totals = ("received", "answered", "billed", "refunded", "credits", "repeated")
        counters = ("by_status", "polls", "files", "faults", "batches", "webhooks")
        return {
            **{name: getattr(self, name) for name in totals},
            **{name: {str(key): count for key, count in sorted(getattr(self, name).items())} for name in counters},
        }
