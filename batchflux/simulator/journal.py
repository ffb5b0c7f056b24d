"""Count what was asked, answered and billed, so that tests can prove that nothing was paid twice.

Counters by content remember the last contents only: the simulator runs inside `batchflux run`, whose memory must not
grow with the number of jobs. Totals are exact for ever.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict, deque
from typing import Any

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

    `received` counts calls and submits, `by_status` their answers by HTTP status (a hang or a reset has none). `polls`
    counts the answers to polls, which cost nothing, by the task's status as BFL writes it, or by HTTP status when the
    answer says no status. `files` counts answers to fetched links, `faults` the faults given by name.

    `billed` counts what a provider charges: calls that came as far as a picture, even when it was cut off or spoilt,
    and tasks. BFL bills a task once, when it becomes Ready. A relay bills it when it is created and takes the bill
    back when it fails: then `refunded` goes up by one and `billed` down. `charges` are the last movements of money,
    oldest first: what they cost in `credits` (negative: given back), the `task` (null for a call that answers with the
    picture), and when, `at`, in seconds since the epoch. `answered` counts the pictures that were given whole: of a
    task, the first answer that says Ready. `asked`, `bills` and `pictures` count by content.
    """

    def __init__(self) -> None:
        self.by_status: Counter[int] = Counter()
        self.polls: Counter[str] = Counter()
        self.files: Counter[int] = Counter()
        self.faults: Counter[str] = Counter()
        self.charges: deque[dict[str, Any]] = deque(maxlen=CHARGES_KEPT)
        self.received = 0
        self.billed = 0
        self.refunded = 0
        self.credits = 0.0
        self.answered = 0
        self.repeated = 0
        self.asked = Tally()
        self.bills = Tally()
        self.pictures = Tally()

    def bill(self, content: str, *, task: str | None = None, price: float = 0.0, refund: bool = False) -> None:
        """Count one charge of `price` credits, or take it back."""
        sign = -1 if refund else 1
        self.billed += sign
        self.refunded += refund
        self.bills.add(content, sign)
        self.credits = round(self.credits + sign * price, 6)
        self.charges.append({"content": content, "task": task, "credits": sign * price, "at": time.time()})

    def answer(self, content: str) -> None:
        """Count an answer with a picture that was sent to its end."""
        self.answered += 1
        self.repeated += bool(self.pictures.add(content))

    def as_dict(self) -> dict[str, Any]:
        """Return the totals, for `GET /v1/simulator/stats`."""
        totals = ("received", "answered", "billed", "refunded", "credits", "repeated")
        counters = ("by_status", "polls", "files", "faults")
        return {
            **{name: getattr(self, name) for name in totals},
            **{name: {str(key): count for key, count in sorted(getattr(self, name).items())} for name in counters},
        }
