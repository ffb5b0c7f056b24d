"""Verdicts: JSON from a browser → a Decision, or one sentence that says what is wrong with it; then into results.csv.

What is not known is refused, nothing is guessed, and all is bounded. A verdict does not wait for results.csv, which is
rewritten in the background. While a run holds the folder nothing is written (the run's end does it); lest a killed run
is missed, it is tried again until it is fresh.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import TYPE_CHECKING, Any, get_args

from batchflux.errors import StorageError
from batchflux.exports.projection import show_verdicts
from batchflux.ledger.decisions import Decision
from batchflux.ledger.reviews import Again, Review

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.review.ledger_access import LedgerAccess

MAX_KEYS = 100_000
MAX_BODY = 8 << 20  # so many keys, each of 64 digits in quotes, with room for a note and a prompt
MAX_NOTE = 5000
MAX_PROMPT = 100_000  # as in a manifest
MAX_NAME = 100

_KEY = re.compile(r"[0-9a-f]{64}")
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_SEED_BITS = 63
_REST = 4  # times as long as the last rewrite took
_HELD = 2.0  # seconds until a folder that a run holds is looked at again


class BadBodyError(ValueError):
    """The body is no verdict; its text is one sentence for a person."""


def parse_decision(data: bytes) -> Decision:
    """Return the decision that a request's body holds, or raise BadBodyError, which says what is wrong."""
    body = _object(_json(data), ("keys", "review", "note", "redo", "siblings", "reviewer"), "a verdict")
    review: Any = body.get("review")
    _check(review in [*get_args(Review)], '"review" must be accept, reject, redo or empty.')
    again = None if body.get("redo") is None else _again(body["redo"])
    _check(again is None or review == "redo", '"redo" goes with the review redo only.')
    keys = _keys(body.get("keys"), "keys")
    siblings = () if body.get("siblings") is None else _keys(body["siblings"], "siblings")
    _check(not siblings or review == "accept", '"siblings" go with the review accept only.')
    _check(not set(keys) & set(siblings), 'No key may be both among "keys" and "siblings".')
    return Decision(
        keys=keys,
        review=review,
        note=_text(body.get("note"), "note", MAX_NOTE),
        again=again,
        siblings=siblings,
        reviewer=(_text(body.get("reviewer"), "reviewer", MAX_NAME) or "").strip(),
    )


def parse_undo(data: bytes) -> int:
    """Return the number of the decision to undo that a request's body holds, or raise BadBodyError."""
    number: Any = _object(_json(data), ("undo",), "an undo").get("undo")
    _check(type(number) is int, '"undo" must be the number that the verdict was answered with.')
    return int(number)


class ResultsRefresh:
    """Rewrites results.csv when it is wanted; `tell` is told when that does not work."""

    def __init__(self, ledger: LedgerAccess, tell: Callable[[str], None]) -> None:
        self._ledger, self._tell = ledger, tell
        self._task: asyncio.Task[None] | None = None
        self._due = asyncio.Event()

    def wanted(self) -> None:
        """Take notice that there is a verdict which the file does not show."""
        self._due.set()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def stop(self) -> None:
        """End, with one last try if a verdict is not shown yet."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._once()

    async def _work(self) -> None:
        while await self._due.wait():
            self._due.clear()
            began = time.monotonic()
            outcome = await self._once()
            if outcome in {"held", "overtaken"}:
                self._due.set()
            rest = _REST * (time.monotonic() - began)
            await asyncio.sleep(max(rest, _HELD) if outcome == "held" else rest)

    async def _once(self) -> str:
        try:
            return await self._ledger.do(show_verdicts, self._ledger.folder)
        except StorageError as error:
            self._tell(f"{error} The verdicts are kept; results.csv shows them after the next run.")
            return "failed"


def _json(data: bytes) -> Any:
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        raise BadBodyError("The body must be JSON in UTF-8.") from None


def _keys(value: Any, name: str) -> tuple[bytes, ...]:
    """Return a list of keys without those that are in it twice."""
    good = isinstance(value, list) and 0 < len(value) <= MAX_KEYS
    _check(good, f'"{name}" must be a list of 1 to {MAX_KEYS} keys.')
    good = all(isinstance(key, str) and _KEY.fullmatch(key) for key in value)
    _check(good, f'Each of "{name}" must be a key of 64 hex digits.')
    return tuple(dict.fromkeys(bytes.fromhex(key) for key in value))


def _check(holds: object, says: str) -> None:
    if not holds:
        raise BadBodyError(says)


def _object(value: Any, fields: tuple[str, ...], what: str) -> dict[str, Any]:
    _check(isinstance(value, dict), f"The body of {what} must be a JSON object.")
    _check(value.keys() <= {*fields}, f"Allowed in {what} are {', '.join(fields)}, and nothing else.")
    return dict(value)


def _again(value: Any) -> Again:
    body = _object(value, ("prompt", "seed", "find", "replace"), "redo")
    prompt = _text(body.get("prompt"), "prompt", MAX_PROMPT)
    _check(prompt is None or prompt.strip(), '"prompt" must not be blank; null keeps the prompt as it is.')
    find = _text(body.get("find"), "find", MAX_PROMPT) or ""
    into = _text(body.get("replace"), "replace", MAX_PROMPT) or ""
    _check(find or not into, '"replace" goes with "find", which must not be empty.')
    _check(not find or prompt is None, '"find" edits the prompt that a job has: leave out "prompt".')
    seed: Any = body.get("seed")
    good = seed is None or (type(seed) is int and -(2**_SEED_BITS) <= seed < 2**_SEED_BITS)
    _check(good, '"seed" must be null or a whole number of at most 64 bits.')
    return Again(prompt=prompt, seed=seed, find=find, replace=into)


def _text(value: Any, name: str, most: int) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise BadBodyError(f'"{name}" must be text or null.')
    _check(len(value) <= most, f'"{name}" has {len(value)} characters; at most {most} are kept.')
    if (bad := _UNPRINTABLE.search(value)) is not None:
        raise BadBodyError(f'"{name}" holds the character U+{ord(bad.group()):04X}; remove it.')
    return value
