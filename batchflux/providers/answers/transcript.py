"""What the JSON of an answer adds up to: candidates for the picture, text, failures, and what it says of a task.

Takes a whole answer or the documents of a stream, of any API: every value at any depth is looked at, and what its keys
say of it is read from the tables of signs. Text comes in pieces in a stream: the values of one key are put together.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from batchflux.providers.answers.failures import ANSWER_KEYS, Complaint, complaints_in
from batchflux.providers.answers.signs import (
    FAILED,
    PENDING,
    READY,
    STATES,
    SURE_TASK_IDS,
    TAKEN_ON,
    TEXT_KEYS,
    Sign,
    bad_end,
    below,
    is_picture,
    of_object,
    state_of,
)
from batchflux.providers.answers.untrusted import told_seed, told_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchflux.providers.answers.pictures import Finder

_TASK_IDS = frozenset(SURE_TASK_IDS)
_REMARKS = ("message", "msg", "detail", "reason")  # may say why there is no picture, where no failure is told
_NOTED = _TASK_IDS | {"seed", "revised_prompt", "error", "refusal", "description", *_REMARKS, *STATES}
_RAW = ("",)  # the place of text that is no JSON
_TELLING = 4  # characters that a text does not begin with twice by chance
_TELLING_BYTES = 32
_DEEPEST_TEXT = 3  # JSON as text in JSON as text


class Transcript:
    """Accumulates the documents of one answer; `seed` and `revised_prompt` are what it says was used."""

    def __init__(self, finder: Finder) -> None:
        self._finder = finder
        self._texts: dict[tuple[str, ...], list[str]] = {}
        self._last: dict[tuple[str, ...], int] = {}  # the document that a text was added to last
        self._documents = self._values = 0
        self.complaints: tuple[Complaint, ...] = ()  # the first failure reported
        self.end: Complaint | None = None  # the first reason why it came to no good end
        self.understood = False  # whether something had a shape we know
        self.task: str | None = None  # what shows that the picture is still to be made
        self.seed: int | None = None
        self.revised_prompt: str | None = None

    def say(self, text: str, place: tuple[str, ...] = _RAW) -> None:
        """Add text to what stands at a place: in a stream its pieces follow each other directly."""
        pieces = self._texts.setdefault(place, [])
        apart = pieces and self._last.get(place) == self._documents
        if pieces and len(pieces[0]) >= _TELLING and text.startswith(pieces[0]) and text.startswith("".join(pieces)):
            pieces.clear()  # a stream whose every document has the whole text so far
        pieces.append(f"\n{text}" if apart else text)
        self._last[place] = self._documents

    def take(self, document: Any, *, failed: bool = False, sign: Sign = Sign.NONE) -> None:
        """Take the next JSON document, for which `sign` holds; `failed` when it came as an `error` event."""
        self._documents += 1
        complaints = complaints_in(document, certain=failed)
        self.complaints = self.complaints or complaints
        held = [one for one in (document if isinstance(document, list) else [document]) if isinstance(one, dict)]
        known = isinstance(document, list) or any(not one.keys().isdisjoint(ANSWER_KEYS) for one in held)
        self.understood = self.understood or bool(complaints) or known
        if not failed:
            self._walk(document, sign)

    def close(self, *, whole: bool) -> None:
        """Look through the texts, which are complete now, and through the JSON that they hold."""
        for depth in range(_DEEPEST_TEXT):
            texts, self._texts = self._texts, {}
            for place, pieces in texts.items():
                words, text = depth == 0 and (place[-1] in TEXT_KEYS), "".join(pieces)
                pieces.clear()  # they may be megabytes, once more
                for document in self._finder.in_text(text, whole=whole, words=words):
                    self._documents += 1
                    self._walk(document, Sign.NONE)

    def _walk(self, document: Any, sign: Sign) -> None:
        """Look at every value, in the document's order."""
        left: list[tuple[Any, Sign, tuple[str, ...]]] = [(document, sign, ("",))]
        while left:
            value, sign, place = left.pop()
            if sign is Sign.OURS:
                continue
            if isinstance(value, dict):
                sign = of_object(sign, value)
                self._note(value)
                inside = [(item, below(sign, key), (*place[-2:], key)) for key, item in value.items()]
                left += reversed(inside)
            elif isinstance(value, list) and (picture := _told_in_bytes(value)):
                self._text(picture, Sign.STRONG, place)
            elif isinstance(value, list):
                left += [(item, sign, place) for item in reversed(value)]
            elif isinstance(value, str) and value.strip():
                self._text(value, sign, place)

    def _text(self, value: str, sign: Sign, place: tuple[str, ...]) -> None:
        """Take a value: a link or base64 as such, other text for later; a thought's words are none of the answer."""
        self._values += 1
        goes_on = place in self._texts and self._last[place] < self._documents
        in_pieces = place[-1] in TEXT_KEYS or goes_on
        named = not in_pieces and self._finder.named(value, sign, (-self._documents, self._values), place)
        if not named and sign is not Sign.DOUBT:
            self.say(value, place)

    def _note(self, value: Mapping[str, Any]) -> None:
        """Note what an object says about the picture, wherever it stands, and about how it was made."""
        for key, item in value.items():
            if reason := bad_end(key, item):
                said = told_text(value.get("finishMessage")) or told_text(value.get("blockReasonMessage")) or ""
                self.end = self.end or Complaint(code=reason, message=said)
        if _NOTED.isdisjoint(value):  # as most of a stream's thousands
            return
        seed, prompt = told_seed(value.get("seed")), told_text(value.get("revised_prompt"))
        self.seed = self.seed if seed is None else seed
        self.revised_prompt = prompt or self.revised_prompt
        self._finder.beside += [text for key in _REMARKS if (text := told_text(value.get(key)))]
        error, state = value.get("error"), state_of(value)
        if isinstance(error, dict) or (isinstance(error, str) and "delta" in value) or state in FAILED:
            self.complaints = self.complaints or complaints_in(value)
        refusal = value.get("refusal")
        if isinstance(refusal, str) and refusal:
            self.complaints = self.complaints or (Complaint(code="content_filter", message=refusal),)
        ids = (told_text(str(value[key])) for key in SURE_TASK_IDS if isinstance(value.get(key), str | int))
        taken_on = isinstance(value.get("description"), str) and TAKEN_ON.search(value["description"][:200])
        if state in READY:
            self.task = None
        elif taken_on or state in PENDING or not _TASK_IDS.isdisjoint(value):
            named = next(ids, None) or told_text(value.get("id") or value.get("result"))
            self.task = self.task or named or state or "queued"


def _told_in_bytes(numbers: list[Any]) -> str | None:
    """Return as base64 a picture that is told by the numbers of its bytes, as Node writes a Buffer; else None."""
    try:
        found = is_picture(bytes(numbers[:_TELLING_BYTES]))
        return base64.b64encode(bytes(numbers)).decode() if found else None
    except (TypeError, ValueError):
        return None
