"""Reads one answer of either style to a picture or a JobError.

Relays answer in the wrong shape, so the first character that is not blank decides how the body is read, not the style
and not the content type: `{` or `[` is JSON, `<` is a page, everything else an event stream. The order is: a picture; a
failure reported as such; a broken connection; a failure in words; a picture that is the job's own; nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from batchflux.errors import Code, JobError
from batchflux.models import Finished
from batchflux.providers.answers import failures
from batchflux.providers.answers.echoes import Own
from batchflux.providers.answers.pictures import Finder, no_picture
from batchflux.providers.answers.sse import events
from batchflux.providers.answers.transcript import Transcript, as_target
from batchflux.providers.answers.untrusted import UnreadableError, parse, text_of, unescape
from batchflux.redaction import hush, tidy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchflux.models import Asset, Job, Reply

LARGEST_BODY = 100_000_000
LARGEST_ERROR_BODY = 1_000_000
_BLANK = " \t\r\n"
_END = rb"(?:\r\n|\n|\r(?!\n))"  # of a line
_DONE = re.compile(
    rb"(?:^|\n\n|\r\r|\r\n\r\n)(?:(?:event|id|retry)?:[^\r\n]{0,60}%b){0,3}data:[ \t]*\[DONE\][ \t]*%b%b"
    % ((_END,) * 3)
)
_LONGEST_DONE = 300  # bytes
_STREAM = re.compile(rb"[ \t\r\n]*(?:\xef\xbb\xbf)?[ \t\r\n]*[^ \t\r\n{\[<]")
_CUT_CONTENT = re.compile(r'"content"\s*:\s*"((?:[^"\\]++|\\.)*+)', re.DOTALL)
_CUT_PICTURE = re.compile(r'"(url|b64_json)"\s*:\s*"((?:[^"\\]++|\\.)*+)"', re.DOTALL)


class AnswerReader:
    """Takes the body of an answer, of a failed one its first megabyte; `headers` have names in lower case."""

    def __init__(self, job: Job, status: int, headers: Mapping[str, str], *, largest: int = LARGEST_BODY) -> None:
        self._job = job
        self._status, self._headers = status, headers
        self._success = 200 <= status < 300  # noqa: PLR2004  the HTTP success class
        self._largest = largest if self._success else LARGEST_ERROR_BODY
        self._body = bytearray()
        self._hide = job.webhook_secret
        self._finder = Finder(Own(job))
        self._transcript = Transcript()
        self._cut: list[str] = []

    def feed(self, data: bytes) -> bool:
        """Take the next bytes; True once the stream said `[DONE]` or more came than is held."""
        self._body += data
        if not self._success or len(self._body) > self._largest:
            return len(self._body) >= self._largest
        start = max(0, len(self._body) - len(data) - _LONGEST_DONE)
        if self._body.find(b"[DONE]", start) < 0:
            return False
        return _DONE.search(self._body, start) is not None and _STREAM.match(self._body) is not None

    def finish(self, *, complete: bool) -> Reply:
        """Return the picture; JobError with the code of what came instead."""
        return self.picture(complete=complete)

    def picture(self, *, complete: bool) -> Finished:
        """Return the picture, with what the answer says about it; JobError with the code of what came instead."""
        if not self._success:
            text = text_of(bytes(self._body[:LARGEST_ERROR_BODY]))
            raise failures.from_answer(self._status, self._headers, text, hide=self._hide)
        if len(self._body) > self._largest:
            fault = f"the answer is not understood: it is longer than {self._largest} bytes"
            raise JobError(Code.BAD_ANSWER, fault)
        text = self._body.decode("utf-8", "replace").lstrip(_BLANK).removeprefix("\ufeff").lstrip(_BLANK)
        try:
            asset = self._judge(text, whole=self._read(text, complete=complete))
        except JobError as error:
            if self._hide is not None:
                hush(error, [self._hide])  # also where the words were not tidied: in a link that is none
            raise
        return Finished(asset=asset, seed=self._transcript.seed, revised_prompt=self._transcript.revised_prompt)

    def _read(self, stream: str, *, complete: bool) -> bool:
        """Take in the text; return whether it is whole."""
        text = stream.strip()
        if failures.is_html(text):
            if complete:
                raise failures.from_answer(200, {}, text, hide=self._hide)
        elif text.startswith(("{", "[")):
            self._take(text, cut=not complete)
        else:
            for event in events(stream):
                if event.data.strip() == "[DONE]":
                    return True
                self._take(event.data.strip(), failed=event.name == "error", cut=not complete and not event.closed)
        return complete

    def _take(self, data: str, *, failed: bool = False, cut: bool) -> None:
        """Take a JSON document; `failed` when it came as an `error` event, `cut` when the answer broke within it."""
        try:
            self._transcript.take(parse(data), failed=failed)
        except UnreadableError:
            if failed and data:
                self._transcript.take({"message": data}, failed=True)
            elif cut:
                self._cut_off(data)

    def _cut_off(self, text: str) -> None:
        """Take what stands whole in JSON that broke off: the pictures it names, and the text so far."""
        self._cut = [as_target(m.group(1), unescape(m.group(2))) for m in _CUT_PICTURE.finditer(text)]
        content = _CUT_CONTENT.search(text)
        if content is not None:
            self._transcript.say(unescape(content.group(1)))

    def _judge(self, text: str, *, whole: bool) -> Asset:
        finder, transcript = self._finder, self._transcript
        named = [*transcript.named, *self._cut]
        picture = finder.in_json(named) or finder.in_text(transcript.text, whole=whole)
        if picture is not None:
            return picture
        if transcript.complaints:
            raise failures.from_complaints(transcript.complaints, hide=self._hide)
        if not whole:
            raise JobError(Code.UNKNOWN, "the answer broke off before its end; it may have been billed")
        if not transcript.understood:
            raise self._not_understood(text[:2000].strip())
        if in_words := failures.from_prose(finder.prose, hide=self._hide, loosely=not finder.echoed):
            raise in_words
        if (picture := finder.leftover()) is None:
            raise no_picture(finder)
        return picture

    def _not_understood(self, said: str) -> JobError:
        in_words = failures.from_prose(said, hide=self._hide)
        if in_words is not None and in_words.code is not Code.NO_IMAGE:
            return in_words
        shown = tidy(said, hide=self._hide, limit=120)
        what = f"it starts with: {shown}" if shown else "it is empty"
        return JobError(Code.BAD_ANSWER, f"the answer is neither JSON nor an event stream we know: {what}")
