"""Reads an answer about a task: what its JSON says of it, whatever the HTTP status.

A task that failed may come under HTTP 503, and one that is not known under 200, so the body counts before the status.
An answer that is no task's goes to the readers of plain answers and of failures.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from batchflux.errors import Code, JobError
from batchflux.models import Finished
from batchflux.providers.answers.echoes import Own
from batchflux.providers.answers.failures import words_code
from batchflux.providers.answers.pictures import Finder, no_picture
from batchflux.providers.answers.reading import LARGEST_BODY, AnswerReader, FailureReader, reader
from batchflux.providers.answers.transcript import as_target
from batchflux.providers.answers.untrusted import UnreadableError, parse, text_of
from batchflux.redaction import tidy

if TYPE_CHECKING:
    from batchflux.models import Asset, Job, Reply

_PICTURE_KEYS = ("sample", "url", "image", "image_url", "b64_json", "output", "images", "samples", "data")
_SAID_KEYS = ("details", "error", "message", "fail_reason", "reason")
_LONGEST_STATUS = 60
_CUT = re.compile(r'"(id|polling_url)"\s*:\s*"((?:[^"\\]|\\.)+)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What an answer says of a task.

    `http` is the answer's status, `status` the task's own in lower case with blanks between words (empty when there is
    none), `asset` its picture, `said` its reasons on one line, `cost` as the API counts.
    """

    http: int
    id: str | None = None
    status: str = ""
    polling_url: str | None = None
    asset: Asset | None = None
    cost: Decimal | None = None
    seed: int | None = None
    revised_prompt: str | None = None
    said: str = ""
    retry_after: float | None = None

    def failure(self) -> JobError:
        """Return why the task failed: `server`, unless its words say more."""
        return JobError(words_code(self.said) or Code.SERVER, f"the task failed ({self.status}): {self.said or '-'}")


Interpret = Callable[[Task], "Reply | None"]


class TaskReader:
    """Takes the body of an answer, and lets the provider's `interpret` say what the task means.

    What is no task's, or means nothing to it, is read as a plain answer or as a failure.
    """

    def __init__(self, job: Job, interpret: Interpret, status: int, headers: Mapping[str, str]) -> None:
        self._job = job
        self._interpret = interpret
        self._status = status
        self._plain: AnswerReader | FailureReader = reader(job, status, headers)
        self._body = bytearray()

    def feed(self, data: bytes) -> bool:
        """Take the next bytes; True when more came than is held."""
        self._body += data
        return self._plain.feed(data) or len(self._body) > LARGEST_BODY

    def finish(self, *, complete: bool) -> Reply:
        """Return what became of the task, or the picture of a plain answer.

        Raises:
            JobError: the answer is a failure, is not understood, or broke off.
        """
        finder = Finder(Own(self._job))
        task = self._task(text_of(bytes(self._body)), finder)
        reply = None if task is None else self._interpret(task)
        if reply is None:
            return self._plain.finish(complete=complete)
        if finder.echoed and not isinstance(reply, Finished):
            raise no_picture(finder)
        return reply

    def _task(self, text: str, finder: Finder) -> Task | None:
        try:
            document = parse(text)
        except UnreadableError:
            # The id of a task that was accepted is worth its price: it stands near the front of an answer cut off.
            found = dict(_CUT.findall(text)) if self._status < 300 and text.startswith("{") else {}  # noqa: PLR2004  HTTP: success
            return (
                Task(http=self._status, id=found["id"], polling_url=found.get("polling_url"))
                if found.get("id")
                else None
            )
        if isinstance(document, Mapping) and isinstance(document.get("data"), Mapping) and "id" not in document:
            document = document["data"]
        if not isinstance(document, Mapping) or not _is_task(document):
            return Task(http=self._status) if self._status >= 400 else None  # noqa: PLR2004  HTTP: failures
        result = document.get("result")
        inner: Mapping[str, Any] = result if isinstance(result, Mapping) else {"url": result}
        told = {**document, **inner}
        return Task(
            http=self._status,
            id=_word(document.get("id")),
            status=_status(document),
            polling_url=_word(document.get("polling_url")),
            asset=finder.in_json([*_named(inner), *_named(document)]),
            cost=_amount(document.get("cost")),
            seed=told["seed"] if type(told.get("seed")) is int else None,
            revised_prompt=_word(told.get("revised_prompt")),
            said=_said(document, inner),
        )


def _is_task(document: Mapping[str, Any]) -> bool:
    if document.get("error") and "status" not in document and "state" not in document:
        return False
    return any(key in document for key in ("id", "polling_url", "result", "sample"))


def _status(document: Mapping[str, Any]) -> str:
    value = document.get("status") or document.get("state")
    if not isinstance(value, str):
        return ""
    return re.sub(r"[\s_-]+", " ", value[:_LONGEST_STATUS]).strip().casefold()


def _named(container: Mapping[str, Any]) -> list[str]:
    """Return the pictures that one level of an answer names."""
    found: list[str] = []
    for key in _PICTURE_KEYS:
        value = container.get(key)
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, str) and item.strip():
                found.append(as_target(key, item))
            elif isinstance(item, Mapping):
                found += [as_target(k, item[k]) for k in ("url", "b64_json") if isinstance(item.get(k), str)]
    return found


def _said(*containers: Mapping[str, Any]) -> str:
    """Return the reasons that an answer gives, on one line without secrets."""
    words: list[str] = []
    for container in containers:
        for key in _SAID_KEYS:
            words += _texts(container.get(key))
    return tidy(", ".join(dict.fromkeys(words)))


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value] if value.strip() else []
    if isinstance(value, Mapping):
        return [text for item in list(value.values())[:10] for text in _texts(item)]
    return [text for item in value[:10] for text in _texts(item)] if isinstance(value, list) else []


def _amount(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:  # noqa: PLR2004  no price
        return None
    return Decimal(str(value))


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) and value.strip() else None
