"""Reads an answer about a task: what its JSON says of it, whatever the HTTP status.

A task that failed may come under HTTP 503, and one that is not known under 200, so the body counts before the status.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from batchflux.errors import Code, JobError
from batchflux.manifest.kinds import MEGAPIXEL, MILLION
from batchflux.models import Ended, Finished
from batchflux.providers.answers.failures import words_code
from batchflux.providers.answers.pictures import no_picture
from batchflux.providers.answers.reading import AnswerReader
from batchflux.providers.answers.signs import (
    PENDING,
    READY,
    TASK_IDS,
    TASK_PLACES,
    TASK_SAYS,
    TASK_WRAPS,
    Rank,
    state_of,
)
from batchflux.providers.answers.transcript import Transcript
from batchflux.providers.answers.untrusted import UnreadableError, leading, told_text, unquoted, without_bom
from batchflux.redaction import tidy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batchflux.models import Asset, Job, Reply
    from batchflux.providers.answers.pictures import Finder

_HANDLE = frozenset((*TASK_IDS, *TASK_PLACES, "cost", "input_mp", "output_mp"))
_ROUNDED = Decimal("0.005")  # megapixels are told of a million pixels, to two places
_CUT = re.compile(rf'"({"|".join((*TASK_IDS, *TASK_PLACES))})"\s*:\s*"((?:[^"\\]|\\.)+)"')


class Task(NamedTuple):
    """What an answer says of a task, `said` its reasons on one line."""

    http: int  # the answer's status
    id: str | None = None
    status: str = ""  # the task's own, in lower case with `_` between words
    polling_url: str | None = None
    asset: Asset | None = None
    cost: Decimal | None = None  # as the API counts
    megapixels: int | None = None  # billed for: the picture's and its references'
    seed: int | None = None
    revised_prompt: str | None = None
    said: str = ""

    def failure(self) -> JobError:
        """Return why the task failed: `server`, unless its words say more."""
        return JobError(words_code(self.said) or Code.SERVER, f"the task failed ({self.status}): {self.said or '-'}")


class TaskReader(AnswerReader):
    """Lets a provider's `interpret` say what a task means; what means nothing to it is a plain answer or a failure.

    `asked` is the id of the task that was asked for, whose answer it has to be; without one the answer is to a request
    that may cost money.
    """

    def __init__(
        self,
        job: Job,
        interpret: Callable[[Task], Reply | None],
        status: int,
        headers: Mapping[str, str],
        *,
        asked: str | None = None,
    ) -> None:
        super().__init__(job, status, headers, paid=asked is None)
        self._interpret, self._asked = interpret, asked

    def finish(self, *, complete: bool) -> Reply:
        """Return what became of the task, or the picture of a plain answer; JobError where there is neither."""
        task = self._task(unquoted(without_bom(self._text)))
        reply = None if task is None else self._interpret(task)
        if reply is None:
            return self._plain(complete=complete)
        if self._asked and task and task.id not in (None, self._asked) and isinstance(reply, Finished | Ended):
            raise JobError(Code.BAD_ANSWER, f"the answer is about another task ({tidy(task.id or '', limit=80)})")
        if isinstance(reply, Ended) and reply.error.code is Code.NO_IMAGE:
            why = no_picture(self._task_finder, hide=self._hide)
            return Ended(error=self.explained(reply.error if why.code is Code.NO_IMAGE else why))
        return reply

    @cached_property
    def _task_finder(self) -> Finder:
        """What finds the picture of a task: of a plain answer another does."""
        return self._new_finder()

    def _plain(self, *, complete: bool) -> Reply:
        try:
            return super().finish(complete=complete)
        except JobError as error:
            # What was accepted and is not understood may be in the making: it is not bought again by itself.
            error.final = error.final or (self._success and error.code in (Code.BAD_ANSWER, Code.NO_IMAGE))
            raise

    def _task(self, text: str) -> Task | None:
        try:
            document = leading(text)
        except UnreadableError:
            # The id of a task that was accepted is worth its price: it stands near the front of an answer cut off.
            found = dict(_CUT.findall(text)) if self._success and text.startswith("{") else {}
            ids = [found[key] for key in TASK_IDS if key in found]
            return Task(http=self._status, id=_name(ids[0]), polling_url=_place(found)) if ids else None
        document = _unwrapped(document)
        if not isinstance(document, dict) or not _is_task(document):
            return Task(http=self._status) if self._status >= 400 else None  # noqa: PLR2004  HTTP: failures
        status = state_of(document)
        ids = [name for key in TASK_IDS if (name := _name(document.get(key))) is not None]
        task = Task(
            http=self._status,
            id=self._asked if self._asked in ids else next(iter(ids), None),
            status=status,
            polling_url=_place(document),
            cost=_amount(document.get("cost")),
            megapixels=_megapixels(document),
        )
        if status in PENDING or _is_handle(document):  # as nearly all answers about tasks: nothing else counts yet
            return task
        transcript = Transcript(self._task_finder)
        transcript.take(document)
        transcript.close(whole=True)
        inner = document.get("result")
        layers = (document, inner if isinstance(inner, dict) else {})
        return task._replace(
            asset=self._task_finder.best(Rank.POSSIBLE if status in READY else Rank.NAMED),
            seed=transcript.seed,
            revised_prompt=transcript.revised_prompt,
            said=tidy(", ".join(dict.fromkeys(_texts([one.get(key) for one in layers for key in TASK_SAYS])))),
        )


def _unwrapped(document: Any) -> Any:
    """Return the task that a relay's answer wraps, under one of TASK_WRAPS or as the only item of a list there."""
    if not isinstance(document, dict) or any(key in document for key in TASK_IDS):
        return document
    inside = [document.get(key) for key in TASK_WRAPS]
    inside = [inner[0] if isinstance(inner, list) and len(inner) == 1 else inner for inner in inside]
    return next((inner for inner in inside if isinstance(inner, dict) and _is_task(inner)), document)


def _is_task(document: Mapping[str, Any]) -> bool:
    if document.get("error") and not state_of(document):
        return False
    return any(key in document for key in (*TASK_IDS, *TASK_PLACES, "result", "sample"))


def _is_handle(document: Mapping[str, Any]) -> bool:
    """Whether an answer says no more than how a task is asked for, and what it costs."""
    return document.keys() <= _HANDLE and not any(isinstance(value, dict | list) for value in document.values())


def _place(document: Mapping[str, Any]) -> str | None:
    return next((place for key in TASK_PLACES if (place := _address(document.get(key))) is not None), None)


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value] if value.strip() else []
    items = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return [text for item in items[:10] for text in _texts(item)]


def _amount(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:  # noqa: PLR2004  no price
        return None
    return Decimal(str(value))


def _megapixels(document: Mapping[str, Any]) -> int | None:
    """Return how many megapixels an answer tells, of the picture and of all references; None where it tells none."""
    made, taken = (_amount(document.get(name)) or Decimal(0) for name in ("output_mp", "input_mp"))
    if not made:
        return None
    rounded_up = (math.ceil((told - _ROUNDED) * MILLION / MEGAPIXEL) for told in (made, taken))
    return sum(max(0, one) for one in rounded_up)


def _name(value: Any) -> str | None:
    return told_text(str(value) if type(value) is int else value)


def _address(value: Any) -> str | None:
    """Return an address that can be one; a task whose answer names another is asked for by its id."""
    text = told_text(value)
    try:
        return text if text and urlsplit(text).port != 0 else None
    except ValueError:  # a port or a bracket that is none
        return None
