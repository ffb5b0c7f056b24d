"""Reads the JSON answers of an API whose own words a provider knows: any field may be missing, null or of another type.

Of an answer that was cut off, what stands whole counts: the id of a task that was accepted is worth its price.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from batchflux.errors import Code, JobError
from batchflux.models import Ended, HttpRequest, Job
from batchflux.providers.answers import failures
from batchflux.providers.answers.reading import AnswerReader
from batchflux.providers.answers.signs import state_of
from batchflux.providers.answers.untrusted import (
    UnreadableError,
    closed_off,
    leading,
    parse,
    text_of,
    told_text,
    unquoted,
    without_bom,
)
from batchflux.redaction import tidy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from batchflux.models import Finished, Reference, Reply

_NOBODYS = Job(id="", key="", prompt="", style="", model="", provider="", file_name="", position=0)
_SHOWN = 300  # characters of an API's words
_VAGUE = frozenset({Code.BAD_ANSWER, Code.NO_IMAGE})


SMALL = 256 * 1024
"""Bytes of a photo that travels within the request where a larger one is uploaded."""


class DocumentReader(AnswerReader):
    """Lets `interpret` say what an answer means; `paid`: whether its step may cost money."""

    def __init__(
        self,
        job: Job,
        interpret: Callable[[DocumentReader], Reply],
        status: int,
        headers: Mapping[str, str],
        *,
        paid: bool = False,
    ) -> None:
        super().__init__(job, status, headers, paid=paid)
        self._interpret = interpret
        self.job, self.status, self.headers, self.ok = job, status, self._headers, self._success
        self.complete = True

    def finish(self, *, complete: bool) -> Reply:
        """Return what the answer means; JobError with the code of what came instead."""
        self.complete = complete or self._is_whole
        try:
            reply = self._interpret(self)
        except JobError as error:
            raise self.explained(error) from None
        return Ended(error=self.explained(reply.error)) if isinstance(reply, Ended) else reply

    @cached_property
    def _is_whole(self) -> bool:
        """Whether an answer that was cut off is a whole document all the same: its length was told wrong."""
        try:
            return isinstance(parse(without_bom(self._text)), dict)
        except UnreadableError:
            return False

    @cached_property
    def document(self) -> Mapping[str, Any]:
        """The object that the answer is or begins with, {} where it is none."""
        text = unquoted(without_bom(self._text))
        try:
            found = leading(text) if self.complete else parse(closed_off(text)[0])
        except UnreadableError:
            return {}
        return found if isinstance(found, dict) else {}

    @cached_property
    def whole(self) -> Mapping[str, Any]:
        """The object that a whole answer is, with all that is inlined in it; {} where it is none."""
        try:
            found = parse(text_of(bytes(self._body))) if self.complete else None
        except UnreadableError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def understood(self) -> bool:
        """Whether the answer is an object."""
        return bool(self.document) or text_of(self._body).removesuffix("}").strip() == "{"

    @property
    def state(self) -> str:
        """What the answer says of the state of a task, in lower case with `_` between words; may be empty."""
        return state_of(self.document)

    def name(self, key: str) -> str | None:
        """Return the id or the word under a key."""
        value = self.document.get(key)
        return told_text(str(value) if type(value) is int else value)

    def address(self, key: str) -> str | None:
        """Return the address under a key, None where there is no web address."""
        return address_in(self.document.get(key))

    def nested(self, key: str) -> dict[str, str]:
        """Return the web addresses by name in the object under a key."""
        found = self.document.get(key)
        places = found.items() if isinstance(found, dict) else ()
        return {name: place for name, value in places if (place := address_in(value)) is not None}

    def words(self, *keys: str) -> str:
        """Return what stands under keys, as one line that may be shown."""
        texts = [text for key in keys for text in texts_in(self.document.get(key))]
        return tidy(", ".join(dict.fromkeys(texts)), hide=self._hide, limit=_SHOWN)

    def failure(self) -> JobError:
        """Return what an answer that failed means by the one table."""
        text = text_of(self._body)
        if self.ok:
            return JobError(
                Code.BAD_ANSWER, f"the answer says nothing of the task: {tidy(text, limit=120) or '(empty)'}"
            )
        return failures.from_answer(self._status, self._headers, text, hide=self._hide, paid=self._paid)

    def given(self) -> Finished:
        """Return the picture in the answer to a request that makes a task; JobError with what came instead.

        What was accepted and is not understood is never asked for again by itself: it may be in the making.
        """
        try:
            return self.picture(complete=self.complete)
        except JobError as error:
            if self.ok and error.code in _VAGUE:
                said = "the answer names neither a task nor a picture; what was asked for may be in the making"
                raise JobError(Code.BAD_ANSWER, said, final=True) from None
            raise

    def ended(self, key: str | None = None) -> Finished | Ended:
        """Return the picture in the answer about a task that went well; one without is asked for once, and no more.

        Of an answer that tells more it is below `key`.
        """
        if not self.document or not self.complete:
            raise self.failure()
        try:
            if key is None:
                return self.picture(complete=True)
            part = AnswerReader(self.job, 200, self._headers, paid=False)
            part.feed(json.dumps({key: self.document.get(key)}).encode())
            return part.picture(complete=True)
        except JobError as error:
            error.final = True
            return Ended(error=error)


def texts_in(value: Any) -> list[str]:
    """Return the texts in a value, a few of each list."""
    if isinstance(value, str):
        return [value] if value.strip() else []
    items = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return [text for item in items[:10] for text in texts_in(item)]


def address_in(value: Any) -> str | None:
    """Return a value that is a web address."""
    text = told_text(value)
    try:
        split = urlsplit(text or "")
        usable = split.scheme in {"http", "https"} and split.hostname and split.port != 0
    except ValueError:  # a port or a bracket that is none
        return None
    return text if usable and text and text.isprintable() and " " not in text else None


def id_in(handle: str) -> str:
    """Return the `id` of a handle that is an object; the handle itself where it is another API's."""
    try:
        return str(json.loads(handle)["id"])
    except (ValueError, LookupError, TypeError):
        return handle


def named_in(body: bytes, names: Iterable[str]) -> tuple[str, ...]:
    """Return the ids under these names in a call of an API; none where it is no object."""
    try:
        found = parse(without_bom(text_of(body)))
    except UnreadableError:
        return ()
    values = (found.get(name) for name in names) if isinstance(found, dict) else ()
    told = (told_text(str(value) if type(value) is int else value) for value in values)
    return tuple(text for text in told if text is not None)


def is_small(image: Reference) -> bool:
    """Whether a local photo is known to be SMALL."""
    size = (image.copy or image).size
    return size is not None and size <= SMALL


def uploading(image: Reference, interpret: Callable[[DocumentReader], Reply]) -> HttpRequest:
    """Return a free step of an upload, for its url and content to be put in; it has no job."""
    job = replace(_NOBODYS, images=(image,))
    return HttpRequest(method="POST", url="", reader=partial(DocumentReader, job, interpret), repeatable=True)


def asking(url: str, interpret: Callable[[DocumentReader], Reply]) -> HttpRequest:
    """Return a free question that is about no job."""
    return HttpRequest(method="GET", url=url, reader=partial(DocumentReader, _NOBODYS, interpret), repeatable=True)
