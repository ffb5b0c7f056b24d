"""Count what was asked, answered and billed, so that tests can prove that nothing was paid twice.

Counters by content remember the 32,768 contents asked last at least, in two generations: the simulator runs inside
`batchflux run`, whose memory must not grow with the number of jobs. Totals are exact for ever.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

GENERATION = 32_768
CHARGES_KEPT = 4_096
_KEY_DIGITS = 16


class Tally:
    """Counts by content, forgetting the contents that were not seen for a whole generation."""

    def __init__(self) -> None:
        self._young: dict[int, int] = {}
        self._old: dict[int, int] = {}

    def add(self, key: int, more: int = 1) -> int:
        """Add `more` to a count and return what it was before."""
        before = self._young.get(key)
        if before is None:
            before = self._old.get(key, 0)
            if len(self._young) >= GENERATION:
                self._old, self._young = self._young, {}
        self._young[key] = before + more
        return before

    def by_content(self) -> dict[str, int]:
        """Return the counts that are remembered, by the first 16 hex digits of the content's hash."""
        return {f"{key:0{_KEY_DIGITS}x}": count for key, count in {**self._old, **self._young}.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """One movement of money: `credits` are what it cost, negative when it was given back.

    `task` is the id of the task, None for a call that answers with the picture. `at` is seconds since the epoch.
    """

    content: str
    task: str | None
    credits: float
    at: float


class Journal:
    """The counters of one simulator.

    `received` counts calls and submits, `by_status` their answers by HTTP status (a hang or a reset has none). `polls`
    counts the answers to polls, which cost nothing, by the task's status as BFL writes it, or by HTTP status when the
    answer says no status. `files` counts answers to fetched links, `faults` the faults given by name.

    `billed` counts what a provider charges: calls that came as far as a picture, even when it was cut off or spoilt,
    and tasks. BFL bills a task once, when it becomes Ready. A relay bills it when it is created and takes the bill
    back when it fails: then `refunded` goes up by one and `billed` down. `charges` are the last movements, oldest
    first. `answered` counts the pictures that were given whole: of a task, the first answer that says Ready.
    """

    def __init__(self) -> None:
        self.by_status: Counter[int] = Counter()
        self.polls: Counter[str] = Counter()
        self.files: Counter[int] = Counter()
        self.faults: Counter[str] = Counter()
        self.charges: deque[Charge] = deque(maxlen=CHARGES_KEPT)
        self.received = 0
        self.billed = 0
        self.refunded = 0
        self.credits = 0.0
        self.answered = 0
        self.repeated = 0
        self._asked = Tally()
        self._billed = Tally()
        self._pictures = Tally()

    def ask(self, content: str) -> int:
        """Count a request for `content` (hex digits) and return how many came before it."""
        return self._asked.add(_key(content))

    def bill(self, content: str, *, task: str | None = None, price: float = 0.0) -> None:
        """Count one charge of `price` credits."""
        self.billed += 1
        self._billed.add(_key(content))
        self._charge(content, task, price)

    def refund(self, content: str, *, task: str | None = None, price: float = 0.0) -> None:
        """Take one charge of `price` credits back."""
        self.billed -= 1
        self.refunded += 1
        self._billed.add(_key(content), -1)
        self._charge(content, task, -price)

    def answer(self, content: str) -> None:
        """Count an answer with a picture that was sent to its end."""
        self.answered += 1
        if self._pictures.add(_key(content)):
            self.repeated += 1

    def asked(self) -> dict[str, int]:
        """Return how often each content was asked, by the first 16 hex digits of its hash."""
        return self._asked.by_content()

    def bills(self) -> dict[str, int]:
        """Return how often each content was billed and not refunded, by the first 16 hex digits of its hash."""
        return self._billed.by_content()

    def pictures(self) -> dict[str, int]:
        """Return how many answers with a picture each content had, by the first 16 hex digits of its hash."""
        return self._pictures.by_content()

    def as_dict(self) -> dict[str, Any]:
        """Return the totals, for `GET /v1/simulator/stats`."""
        return {
            "received": self.received,
            "answered": self.answered,
            "billed": self.billed,
            "refunded": self.refunded,
            "credits": self.credits,
            "repeated": self.repeated,
            "by_status": {str(status): count for status, count in sorted(self.by_status.items())},
            "polls": dict(sorted(self.polls.items())),
            "files": {str(status): count for status, count in sorted(self.files.items())},
            "faults": dict(sorted(self.faults.items())),
        }

    def _charge(self, content: str, task: str | None, price: float) -> None:
        self.credits = round(self.credits + price, 6)
        self.charges.append(Charge(content=content, task=task, credits=price, at=time.time()))


def _key(content: str) -> int:
    return int(content[:_KEY_DIGITS], 16)
