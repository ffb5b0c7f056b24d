"""Reads one answer of either style, as its bytes come in, to a picture or a JobError.

Relays answer in the wrong shape: an event stream to a plain call, JSON to a streamed one, a page of HTML under 200.
So the first byte that is not blank decides how the body is read, not the style and not the content type: `{` or `[` is
JSON, `<` is a page, everything else an event stream. At the end the order is: a picture; a failure reported as
such; a broken connection; a failure in words; a picture that is the job's own; nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from batchflux.errors import Code, JobError
from batchflux.models import Finished
from batchflux.providers.answers import failures
from batchflux.providers.answers.echoes import Own
from batchflux.providers.answers.pictures import Finder, no_picture
from batchflux.providers.answers.sse import Event, EventTooLongError, SSEParser
from batchflux.providers.answers.transcript import TextTooLongError, Transcript, as_target
from batchflux.providers.answers.untrusted import UnreadableError, parse, text_of, unescape
from batchflux.redaction import hush, tidy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchflux.models import Asset, Job

LARGEST_BODY = 100_000_000
LARGEST_ERROR_BODY = 1_000_000
_HEAD = 2000
_BLANK = b" \t\r\n"
_BOM = b"\xef\xbb\xbf"
_CUT_CONTENT = re.compile(r'"content"\s*:\s*"((?:[^"\\]++|\\.)*+)', re.DOTALL)
_CUT_PICTURE = re.compile(r'"(url|b64_json)"\s*:\s*"((?:[^"\\]++|\\.)*+)"', re.DOTALL)


def reader(job: Job, status: int, headers: Mapping[str, str]) -> AnswerReader | FailureReader:
    """Return the reader for an answer to the job, by its HTTP status and headers (names in lower case)."""
    if 200 <= status < 300:  # noqa: PLR2004  the HTTP success class
        return AnswerReader(job)
    return FailureReader(status, headers, hide=job.webhook_secret)


class FailureReader:
    """Takes the body of an answer whose status says that it holds no picture; keeps its first megabyte."""

    def __init__(self, status: int, headers: Mapping[str, str], *, hide: str | None) -> None:
        self._status, self._headers, self._hide = status, headers, hide
        self._body = bytearray()

    def feed(self, data: bytes) -> bool:
        """Take the next bytes; True when enough came."""
        self._body += data[: LARGEST_ERROR_BODY - len(self._body)]
        return len(self._body) >= LARGEST_ERROR_BODY

    def finish(self, *, complete: bool) -> Finished:
        """Raise the JobError that the answer means; a cut-off body does not unsay its status."""
        raise failures.from_answer(self._status, self._headers, text_of(bytes(self._body)), hide=self._hide)


class AnswerReader:
    """Takes the body of an answer with a status of success."""

    def __init__(self, job: Job, *, largest: int = LARGEST_BODY) -> None:
        self._hide = job.webhook_secret
        self._largest = largest
        self._finder = Finder(Own(job))
        self._transcript = Transcript(largest)
        self._events = SSEParser(largest)
        self._streamed: bool | None = None
        self._done = False
        self._size = 0
        self._chunks: list[bytes] = []
        self._head = b""
        self._cut: list[str] = []
        self._fault: str | None = None

    def feed(self, data: bytes) -> bool:
        """Take the next bytes; True once the stream said `[DONE]` or more came than is held."""
        if self._done or self._fault is not None:
            return True
        if self._streamed is None:
            # Relays send blanks to keep a connection open; neither JSON nor an event stream needs them.
            data = (self._head + data).lstrip(_BLANK)
            if _BOM.startswith(data):
                self._head = data if data != _BOM else b""
                return False
            data, self._head = data.removeprefix(_BOM).lstrip(_BLANK), b""
            if not data:
                return False
            self._streamed = data[:1] not in b"{[<"
        if len(self._head) < _HEAD:
            self._head += data[: _HEAD - len(self._head)]
        return self._keep(data)

    def _keep(self, data: bytes) -> bool:
        try:
            if self._streamed:
                for event in self._events.feed(data):
                    self._take(event, cut=False)
                return self._done
        except (EventTooLongError, TextTooLongError) as error:
            self._fault = str(error)
            return True
        self._size += len(data)
        if self._size > self._largest:
            self._fault = f"the answer is longer than {self._largest} bytes"
            return True
        self._chunks.append(data)
        return False

    def _take(self, event: Event, *, cut: bool) -> None:
        """Take one event; `cut` when the stream broke within it."""
        data = event.data.strip()
        if self._done or not data:
            return
        if data == "[DONE]":
            self._done = True
            return
        failed = event.name == "error"
        try:
            document = parse(data)
        except UnreadableError:
            if failed:
                document = {"message": data}
            else:
                if cut:
                    self._cut_off(data)
                return
        self._transcript.take(document, failed=failed)

    def finish(self, *, complete: bool) -> Finished:
        """Return the picture, with what the answer says about it.

        Raises:
            JobError: with the code of what came instead.
        """
        try:
            picture = self._finish(complete=complete)
        except JobError as error:
            if self._hide is not None:
                hush(error, [self._hide])  # also where the words were not tidied: in a link that is none
            raise
        told = self._transcript
        return Finished(asset=picture, seed=told.seed, revised_prompt=told.revised_prompt)

    def _finish(self, *, complete: bool) -> Asset:
        if self._fault is None:
            try:
                self._close(complete=complete)
            except (EventTooLongError, TextTooLongError) as error:
                self._fault = str(error)
        if self._fault is not None:
            raise JobError(Code.BAD_ANSWER, f"the answer is not understood: {self._fault}")
        return self._judge(whole=complete or self._done)

    def _close(self, *, complete: bool) -> None:
        """Read what is left: the last event, or the whole body when it is no stream."""
        if self._streamed:
            for event in self._events.close():
                self._take(event, cut=not complete)
            return
        text = text_of(b"".join(self._chunks))
        self._chunks = []
        if failures.is_html(text):
            if complete:
                raise failures.from_answer(200, {}, text, hide=self._hide)
            return
        try:
            self._transcript.take(parse(text))
        except UnreadableError:
            if not complete:
                self._cut_off(text)

    def _cut_off(self, text: str) -> None:
        """Take what stands whole in JSON that broke off: the pictures it names, and the text so far."""
        self._cut = [as_target(m.group(1), unescape(m.group(2))) for m in _CUT_PICTURE.finditer(text)]
        content = _CUT_CONTENT.search(text)
        if content is not None:
            self._transcript.say(unescape(content.group(1)))

    def _judge(self, *, whole: bool) -> Asset:
        finder, transcript = self._finder, self._transcript
        text = transcript.text
        picture = finder.in_json(transcript.named) or finder.in_json(self._cut) or finder.in_text(text, whole=whole)
        if picture is not None:
            return picture
        if transcript.complaints:
            raise failures.from_complaints(transcript.complaints, hide=self._hide)
        if not whole:
            raise JobError(Code.UNKNOWN, "the answer broke off before its end; it may have been billed")
        if not transcript.understood:
            raise self._not_understood()
        in_words = failures.from_prose(finder.prose, hide=self._hide, loosely=not finder.echoed)
        if in_words is not None:
            raise in_words
        picture = finder.leftover()
        if picture is not None:
            return picture
        raise no_picture(finder)

    def _not_understood(self) -> JobError:
        said = text_of(self._head)
        in_words = failures.from_prose(said, hide=self._hide)
        if in_words is not None and in_words.code is not Code.NO_IMAGE:
            return in_words
        shown = tidy(said, hide=self._hide, limit=120)
        what = f"it starts with: {shown}" if shown else "it is empty"
        return JobError(Code.BAD_ANSWER, f"the answer is neither JSON nor an event stream we know: {what}")
