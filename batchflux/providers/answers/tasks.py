"""Reads an answer about a task: what its JSON says of it, whatever the HTTP status.

A task that failed may come under HTTP 503, and one that is not known under 200, so the body counts before the status.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from batchflux.errors import Code, JobError
from batchflux.models import Ended
from batchflux.providers.answers.echoes import Own
from batchflux.providers.answers.failures import words_code
from batchflux.providers.answers.pictures import Finder, no_picture
from batchflux.providers.answers.reading import AnswerReader
from batchflux.providers.answers.transcript import as_target
from batchflux.providers.answers.untrusted import UnreadableError, parse, text_of, told_seed, told_text
from batchflux.redaction import tidy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batchflux.models import Asset, Job, Reply

_PICTURE_KEYS = ("sample", "url", "image", "image_url", "b64_json", "output", "images", "samples", "data")
_SAID_KEYS = ("details", "error", "message", "fail_reason", "reason")
_CUT = re.compile(r'"(id|polling_url)"\s*:\s*"((?:[^"\\]|\\.)+)"')


class Task(NamedTuple):
    """What an answer says of a task, `said` its reasons on one line."""

    http: int  # the answer's status
    id: str | None = None
    status: str = ""  # the task's own, in lower case with blanks between words
    polling_url: str | None = None
    asset: Asset | None = None
    cost: Decimal | None = None  # as the API counts
    seed: int | None = None
    revised_prompt: str | None = None
    said: str = ""

    def failure(self) -> JobError:
        """Return why the task failed: `server`, unless its words say more."""
        return JobError(words_code(self.said) or Code.SERVER, f"the task failed ({self.status}): {self.said or '-'}")


class TaskReader(AnswerReader):
    """Lets a provider's `interpret` say what a task means; what means nothing to it is a plain answer or a failure."""

    def __init__(
        self, job: Job, interpret: Callable[[Task], Reply | None], status: int, headers: Mapping[str, str]
    ) -> None:
        super().__init__(job, status, headers)
        self._interpret = interpret

    def finish(self, *, complete: bool) -> Reply:
        """Return what became of the task, or the picture of a plain answer; JobError where there is neither."""
        finder = Finder(Own(self._job))
        task = self._task(text_of(bytes(self._body)), finder)
        reply = None if task is None else self._interpret(task)
        if reply is None:
            return super().finish(complete=complete)
        if finder.echoed and isinstance(reply, Ended) and reply.error.code is Code.NO_IMAGE:
            return Ended(error=no_picture(finder))
        return reply

    def _task(self, text: str, finder: Finder) -> Task | None:
        try:
            document = parse(text)
        except UnreadableError:
            # The id of a task that was accepted is worth its price: it stands near the front of an answer cut off.
            found = dict(_CUT.findall(text)) if self._success and text.startswith("{") else {}
            if not found.get("id"):
                return None
            return Task(http=self._status, id=_name(found["id"]), polling_url=_address(found.get("polling_url")))
        if isinstance(document, dict) and isinstance(document.get("data"), dict) and "id" not in document:
            document = document["data"]
        if not isinstance(document, dict) or not _is_task(document):
            return Task(http=self._status) if self._status >= 400 else None  # noqa: PLR2004  HTTP: failures
        result = document.get("result")
        inner: Mapping[str, Any] = result if isinstance(result, dict) else {"url": result}
        told = {**document, **inner}
        return Task(
            http=self._status,
            id=_name(document.get("id")),
            status=_status(document.get("status") or document.get("state")),
            polling_url=_address(document.get("polling_url")),
            asset=finder.in_json([*_named(inner), *_named(document)]),
            cost=_amount(document.get("cost")),
            seed=told_seed(told.get("seed")),
            revised_prompt=told_text(told.get("revised_prompt")),
            said=tidy(
                ", ".join(dict.fromkeys(_texts([one.get(key) for one in (document, inner) for key in _SAID_KEYS])))
            ),
        )


def _is_task(document: Mapping[str, Any]) -> bool:
    if document.get("error") and "status" not in document and "state" not in document:
        return False
    return any(key in document for key in ("id", "polling_url", "result", "sample"))


def _status(value: Any) -> str:
    return re.sub(r"[\s_-]+", " ", value[:60]).strip().casefold() if isinstance(value, str) else ""


def _named(container: Mapping[str, Any]) -> list[str]:
    """Return the pictures that one level of an answer names."""
    found: list[str] = []
    for key in _PICTURE_KEYS:
        value = container.get(key)
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, str) and item.strip():
                found.append(as_target(key, item))
            elif isinstance(item, dict):
                found += [as_target(k, item[k]) for k in ("url", "b64_json") if isinstance(item.get(k), str)]
    return found


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value] if value.strip() else []
    items = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return [text for item in items[:10] for text in _texts(item)]


def _amount(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:  # noqa: PLR2004  no price
        return None
    return Decimal(str(value))


def _name(value: Any) -> str | None:
    return told_text(str(value) if type(value) is int else value)


def _address(value: Any) -> str | None:
    """Return an address that can be one; a task whose answer names another is asked for by its id."""
    text = told_text(value)
    try:
        return text if text and urlsplit(text).port != 0 else None
    except ValueError:  # a port or a bracket that is none
        return None
