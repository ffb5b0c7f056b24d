"""Reads one answer of any shape to a picture or a JobError.

Relays answer in the wrong shape, so the body itself decides how it is read, not the style and not the content type: its
first bytes are a picture's; `{` or `[` is JSON, and XML is read as such; of a page of HTML the pictures count; else it
is an event stream, or any text. The order is: a picture; a failure reported as such; a broken connection; a task; a
failure in words; a link that may be a picture; a picture that is the job's own; nothing.
"""

from __future__ import annotations

import contextlib
import re
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from batchflux.errors import Code, JobError
from batchflux.models import BASE, Finished
from batchflux.providers.answers import failures
from batchflux.providers.answers.echoes import Own
from batchflux.providers.answers.inlined import Inlined
from batchflux.providers.answers.markup import without_unseen
from batchflux.providers.answers.pictures import Finder, no_picture
from batchflux.providers.answers.signs import Rank, Sign, is_picture, sign_of
from batchflux.providers.answers.sse import events, joined
from batchflux.providers.answers.transcript import Transcript
from batchflux.providers.answers.untrusted import (
    UnreadableError,
    as_utf8,
    closed_off,
    elements,
    objects,
    parse,
    text_of,
    unescape,
    unquoted,
    without_bom,
)
from batchflux.redaction import hush, tidy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batchflux.models import Asset, Inline, Job, Reply

LARGEST_BODY = 100_000_000
LARGEST_ERROR_BODY = 1_000_000
_BLANK = " \t\r\n"
_END = rb"(?:\r\n|\n|\r(?!\n))"  # of a line
_DONE = re.compile(
    rb"(?:\n\n|\r\r|\r\n\r\n)(?:(?:event|id|retry)?:[^\r\n]{0,60}%b){0,3}data:[ \t]*\[DONE\][ \t]*%b%b" % ((_END,) * 3)
)
_LONGEST_DONE = 300  # bytes
_LAST = 1 << 15  # bytes of a large piece, in which the end of a stream is looked for
_STREAM = re.compile(rb"[ \t\r\n]*(?:\xef\xbb\xbf)?[ \t\r\n]*[^ \t\r\n{\[<]")
_CUT_TEXT = re.compile(r'"(?:content|text)"\s*:\s*"((?:[^"\\]++|\\.)*+)', re.DOTALL)
_SHOWN = 2000  # characters, before they are shortened for a message
_RECEIPTS = ("x-oneapi-request-id", "x-request-id")  # of relays, and of OpenAI
_KEPT = frozenset({Code.BAD_ANSWER, Code.NO_IMAGE, Code.ECHOED_INPUT, Code.UNSAFE_URL})


class AnswerReader:
    """Takes the body of an answer, of a failed one its first megabyte; `headers` have names in lower case.

    `paid`: whether the step may cost money, so that a gateway's timeout leaves it unknown. An API whose answers say
    more (what they cost, who is billed for a failure) overrides `picture` and `explained`; one whose last picture is
    the result, and not the first, says so by `last_counts`.
    """

    last_counts: ClassVar = False

    def __init__(
        self, job: Job, status: int, headers: Mapping[str, str], *, largest: int = LARGEST_BODY, paid: bool = True
    ) -> None:
        self._job = job
        self._status, self._headers, self._paid = status, headers, paid
        self._success = 200 <= status < 300  # noqa: PLR2004  the HTTP success class
        self._largest = largest if self._success else LARGEST_ERROR_BODY
        self._pieces = list[bytes]()
        self._size, self._last = 0, b"\n\n"
        self._hide = job.webhook_secret
        self._inlined = Inlined()

    def feed(self, data: bytes) -> bool:
        """Take the next bytes; True once the stream said `[DONE]` or more came than is held."""
        self._pieces.append(data)
        self._size += len(data)
        if not self._success or self._size > self._largest:
            return self._size >= self._largest
        last = data[-_LAST:] if len(data) > _LAST else self._last + data
        self._last = last[-_LONGEST_DONE:]
        return b"[DONE]" in last and _DONE.search(last) is not None and self._is_stream

    def finish(self, *, complete: bool) -> Reply:
        """Return the picture; JobError with the code of what came instead."""
        return self.picture(complete=complete)

    def picture(self, *, complete: bool) -> Finished:
        """Return the picture, with what the answer says about it; JobError with the code of what came instead."""
        try:
            asset = self._found(complete=complete)
        except JobError as error:
            error = self.explained(error)
            error.receipt = self.receipt()
            raise error from None
        told = self._transcript
        return Finished(
            asset=asset,
            seed=told.seed,
            revised_prompt=told.revised_prompt,
            more=self._finder.more(),
            receipt=self.receipt(),
        )

    def receipt(self) -> str | None:
        """Return how the provider's books name the request; a header tells, or nothing."""
        told = (self._headers.get(name) for name in _RECEIPTS)
        return next((name for name in told if name and name.isprintable()), None)

    def explained(self, error: JobError) -> JobError:
        """Return the error as it may be shown, with the whole answer where that was not understood."""
        if self._hide is not None:
            hush(error, [self._hide])  # also where the words were not tidied: in a link that is none
        if error.code in _KEPT:
            error.answer = self._body
        return error

    def documents(self) -> Iterator[Any]:
        """Yield the JSON documents of the answer in their order, with little left of each large picture in them."""
        text = "" if is_picture(self._body[:32]) else unquoted(without_bom(self._text))
        for one in (text,) if text.startswith(("{", "[")) else (event.data for event in events(text)):
            with contextlib.suppress(UnreadableError):
                yield parse(one.strip())

    def _found(self, *, complete: bool) -> Asset:
        if not self._success:
            text = text_of(self._body[:LARGEST_ERROR_BODY])
            raise failures.from_answer(self._status, self._headers, text, hide=self._hide, paid=self._paid)
        if self._size > self._largest:
            fault = f"the answer is not understood: it is longer than {self._largest} bytes"
            raise JobError(Code.BAD_ANSWER, fault)
        if is_picture(self._body[:32]):
            return self._whole_body(complete=complete)
        text = unquoted(self._text.lstrip(_BLANK).removeprefix("\ufeff").lstrip(_BLANK))
        return self._judge(text, whole=self._read(text, complete=complete))

    @cached_property
    def _body(self) -> bytes:
        """The whole body, which is not held in pieces besides."""
        body = b"".join(self._pieces)
        self._pieces.clear()
        return body if is_picture(body[:32]) else as_utf8(body, self._headers.get("content-type", ""))

    @cached_property
    def _is_stream(self) -> bool:
        return _STREAM.match(b"".join(self._pieces)) is not None

    @cached_property
    def _text(self) -> str:
        """The whole body, without what is inlined in it."""
        return self._inlined.cut(joined(self._body)).decode("utf-8", "replace")

    @cached_property
    def _own(self) -> Own:
        return Own(self._job)

    @cached_property
    def _finder(self) -> Finder:
        return self._new_finder()

    @cached_property
    def _transcript(self) -> Transcript:
        return Transcript(self._finder)

    def _new_finder(self) -> Finder:
        return Finder(self._own, self._inlined, self._headers.get(BASE, ""), last=self.last_counts)

    def _whole_body(self, *, complete: bool) -> Inline:
        if not complete:
            raise JobError(Code.UNKNOWN, "the picture broke off before its end; it may have been billed")
        picture = self._own.inline(self._body)
        if picture is None:
            raise JobError(Code.ECHOED_INPUT, "the answer is a reference image, unchanged: reword the prompt")
        return picture

    def _read(self, stream: str, *, complete: bool) -> bool:
        """Take in the text; return whether it is whole."""
        text, whole = stream.lstrip(), complete
        if failures.is_page(text):
            if complete and failures.is_titled_failing(text):
                raise failures.from_answer(200, {}, text, hide=self._hide, paid=self._paid)
            self._transcript.say(without_unseen(text.rstrip()))
        elif text.startswith("<?xml"):
            self._transcript.take(elements(text))
        elif text.startswith(("{", "[")):
            self._take(text.rstrip(), cut=not complete)
        else:
            event = None
            for event in events(stream):
                if whole := event.data.strip() == "[DONE]":
                    break
                failed, sign = event.name == "error", sign_of(event.name)
                self._take(event.data.strip(), failed=failed, cut=not complete and not event.closed, sign=sign)
            whole = whole or complete
            if event is None:
                self._transcript.say(stream)
        self._transcript.close(whole=whole)
        return whole

    def _take(self, data: str, *, failed: bool = False, cut: bool, sign: Sign = Sign.NONE) -> None:
        """Take a JSON document; `failed` when it came as an `error` event, `cut` when the answer broke within it."""
        sign = sign if sign in (Sign.OURS, Sign.DOUBT) and not failed else Sign.NONE
        try:
            self._transcript.take(parse(data), failed=failed, sign=sign)
        except UnreadableError:
            if failed and data:
                self._transcript.take({"message": data}, failed=True)
            elif cut:
                self._cut_off(data)
            elif not failed:
                self._loose(data)

    def _loose(self, text: str) -> None:
        """Take text that is no JSON document, but may hold some, as lines or between words."""
        last = 0
        for start, end, value in objects(text):
            self._transcript.say(text[last:start] + "\n")
            self._transcript.take(value)
            last = end
        self._transcript.say(text[last:])

    def _cut_off(self, text: str) -> None:
        """Take what stands whole in JSON that broke off: the pictures it names, and the text so far."""
        whole, rest = closed_off(text)
        with contextlib.suppress(UnreadableError):
            self._transcript.take(parse(whole))
        content = _CUT_TEXT.search(rest)
        if content is not None:
            self._transcript.say(unescape(content[1]), ("choices", "delta", "content"))

    def _judge(self, text: str, *, whole: bool) -> Asset:
        finder, transcript = self._finder, self._transcript
        picture = finder.best(Rank.LIKELY if whole else Rank.SHOWN)
        if picture is not None:
            return picture
        end = transcript.end and transcript.end._replace(message=transcript.end.message or finder.words[:_SHOWN])
        if complaints := transcript.complaints or (end and (end,)):
            raise failures.left_open(failures.from_complaints(complaints, hide=self._hide))
        if not whole:
            raise JobError(Code.UNKNOWN, "the answer broke off before its end; it may have been billed")
        if in_words := failures.from_prose(finder.prose, hide=self._hide, loosely=not finder.echoed):
            raise in_words
        if transcript.task is not None:
            raise _task(tidy(transcript.task, hide=self._hide, limit=80))
        page = failures.is_page(text)
        in_words = None if transcript.understood or page else failures.from_prose(text[:_SHOWN], hide=self._hide)
        if in_words is not None and in_words.code is not Code.NO_IMAGE:
            raise in_words
        if not page and (picture := finder.best(Rank.POSSIBLE)) is not None:
            return picture
        error = _absent(finder, self._hide)
        if failures.is_html(text) and error.code is Code.NO_IMAGE:
            raise failures.from_answer(200, {}, text, hide=self._hide, paid=self._paid)
        if transcript.understood or error.code is not Code.NO_IMAGE or error.final:
            raise error
        shown = tidy(text[:_SHOWN].strip(), hide=self._hide, limit=120)
        what = f"it starts with: {shown}" if shown else "it is empty"
        raise JobError(Code.BAD_ANSWER, f"the answer is no JSON and no event stream of a shape that is known: {what}")


def _absent(finder: Finder, hide: str | None) -> JobError:
    """Return why there is no picture, by what stands beside its empty place where nothing else says it."""
    error = no_picture(finder, hide=hide)
    unsaid = error.code is Code.NO_IMAGE and not error.final
    return (failures.from_prose(finder.remarks, hide=hide) if unsaid else None) or error


def recoded(error: JobError, code: Code, *, billed: bool | None = None) -> JobError:
    """Return an error of the same words under another code; `billed` left out, as RULES says."""
    made = JobError(code, error.message.removesuffix(failures.LEFT_OPEN), retry_after=error.retry_after, billed=billed)
    made.itself = error.itself
    return made


def _task(named: str) -> JobError:
    message = f"the answer is a task ({named}), not a picture: this relay works with tasks, which style: native polls"
    return JobError(Code.BAD_ANSWER, message, final=True)
