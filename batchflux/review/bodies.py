"""The body of a verdict: JSON from a browser → a Decision, or one sentence that says what is wrong with it.

The rule: what is not known is refused, nothing is guessed, and all is bounded. A prompt and a note may be what a
manifest allows for text: no control characters but tabs and line ends, nothing that is not Unicode.
"""

from __future__ import annotations

import json
import re
from typing import Any, cast, get_args

from batchflux.ledger.reviews import Again, Decision, Review

MAX_KEYS = 100_000
MAX_BODY = 8 << 20  # so many keys, each of 64 digits in quotes, with room for a note and a prompt
MAX_NOTE = 5000
MAX_PROMPT = 100_000  # as in a manifest

_FIELDS = frozenset({"keys", "review", "note", "redo"})
_AGAIN = frozenset({"prompt", "seed"})
_KEY = re.compile(r"[0-9a-f]{64}")
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_SEED_BITS = 63


class BadBodyError(ValueError):
    """The body is no verdict; its text is one sentence for a person."""


def parse_decision(data: bytes) -> Decision:
    """Return the decision that a request's body holds.

    Raises:
        BadBodyError: says what is wrong.
    """
    body = _object(_json(data), _FIELDS, "a verdict")
    review = body.get("review")
    if not isinstance(review, str) or review not in get_args(Review):
        raise BadBodyError('"review" must be accept, reject, redo or empty.')
    again = body.get("redo")
    if again is not None and review != "redo":
        raise BadBodyError('"redo" goes with the review redo only.')
    return Decision(
        keys=_keys(body.get("keys")),
        review=cast("Review", review),
        note=_text(body.get("note"), "note", MAX_NOTE),
        again=None if again is None else _again(again),
    )


def _json(data: bytes) -> Any:
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        raise BadBodyError("The body must be JSON in UTF-8.") from None


def _object(value: Any, fields: frozenset[str], what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadBodyError(f"The body of {what} must be a JSON object.")
    if not value.keys() <= fields:
        raise BadBodyError(f"Allowed in {what} are {', '.join(sorted(fields))}, and nothing else.")
    return value


def _keys(value: Any) -> tuple[bytes, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_KEYS:
        raise BadBodyError(f'"keys" must be a list of 1 to {MAX_KEYS} keys.')
    if not all(isinstance(key, str) and _KEY.fullmatch(key) for key in value):
        raise BadBodyError('Each of "keys" must be a key of 64 hex digits.')
    return tuple(dict.fromkeys(bytes.fromhex(key) for key in value))


def _again(value: Any) -> Again:
    body = _object(value, _AGAIN, "redo")
    prompt = _text(body.get("prompt"), "prompt", MAX_PROMPT)
    if prompt is not None and (not prompt or prompt.isspace()):
        raise BadBodyError('"prompt" must not be blank; null keeps the prompt as it is.')
    seed = body.get("seed")
    if seed is not None and (type(seed) is not int or not -(2**_SEED_BITS) <= seed < 2**_SEED_BITS):
        raise BadBodyError('"seed" must be null or a whole number of at most 64 bits.')
    return Again(prompt=prompt, seed=seed)


def _text(value: Any, name: str, most: int) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise BadBodyError(f'"{name}" must be text or null.')
    if len(value) > most:
        raise BadBodyError(f'"{name}" has {len(value)} characters; at most {most} are kept.')
    bad = _UNPRINTABLE.search(value)
    if bad is not None:
        raise BadBodyError(f'"{name}" holds the character U+{ord(bad.group()):04X}; remove it.')
    return value
