"""Gemini's batches: a file of requests for one model, answered within a day or so at half the price.

A batch is found again by its display name. A file of answers names the keys of its requests; some come more than once.
A batch that expires, after two days, leaves no answers, and one that is cancelled perhaps none. How many requests one
may have is not said; answers with pictures of 2K come to gigabytes by the hundred, so batches are small here.
Facts: https://ai.google.dev/gemini-api/docs/batch-api and https://ai.google.dev/api/files, read in November 2026.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from batchflux.capabilities import BatchTerms
from batchflux.errors import Code, JobError
from batchflux.models import Bytes, Closed, Json, Missing, Pending, Submitted, Then, Uploaded
from batchflux.providers.answers.batched import (
    ENDLESS,
    MOST_PAGES,
    answer,
    count_in,
    object_in,
    step,
    unread,
    without_file,
)
from batchflux.providers.answers.documents import address_in, texts_in
from batchflux.providers.answers.failures import from_answer
from batchflux.providers.answers.untrusted import told_text
from batchflux.providers.batches import BatchAnswer, BatchApi
from batchflux.redaction import tidy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from batchflux.models import HttpRequest, Job, LocalFile, Reply
    from batchflux.providers.answers.documents import DocumentReader

TERMS = BatchTerms(most=500, most_bytes=2_000_000_000, unproven=200)
_PAGE = 100  # batches
_LONGEST = 300  # characters of Google's words
_STATE = re.compile(r"(?:batch|job)_state_")
_ENDS: Mapping[str, Literal["completed", "expired", "cancelled"]] = {
    "succeeded": "completed",
    "partially_succeeded": "completed",
    "expired": "expired",
    "cancelled": "cancelled",
}
_CANCELLED = 1  # gRPC
_REFUSED, _FAILED, _NOT_FOUND, _CONFLICT = 400, 500, 404, 409  # HTTP
# What a line's code means, which is one of gRPC: the HTTP status that a single request gets, and Google's word.
_CODES = {
    3: (400, "INVALID_ARGUMENT"),
    4: (504, "DEADLINE_EXCEEDED"),
    5: (404, "NOT_FOUND"),
    7: (403, "PERMISSION_DENIED"),
    8: (429, "RESOURCE_EXHAUSTED"),
    9: (400, "FAILED_PRECONDITION"),
    13: (500, "INTERNAL"),
    14: (503, "UNAVAILABLE"),
    16: (401, "UNAUTHENTICATED"),
}


class GeminiBatches(BatchApi):
    """The Files API and `models/MODEL:batchGenerateContent`.

    `asked` gives the request of a job, `meant` what Google says by an error.
    """

    def __init__(
        self,
        asked: Callable[[Job], Mapping[str, Any]],
        meant: Callable[[JobError, Mapping[str, Any]], JobError],
    ) -> None:
        self._asked, self._meant = asked, meant

    def kind(self, job: Job) -> str:
        """Return the model, of which a batch has one."""
        return job.model.rpartition("/")[2]

    def line(self, job: Job, key: str) -> Json:
        """Return a job's request; JobError `reference` when a local reference could not be read."""
        return Json(value={"key": key, "request": self._asked(job)})

    def upload(self, file: LocalFile) -> HttpRequest:
        """Return the first of two steps that lay the file at Google, which keeps it for two days."""

        def allowed(told: DocumentReader) -> Reply:
            place = address_in(told.headers.get("x-goog-upload-url"))
            if not told.ok or place is None:
                raise self._refused(told)
            whole = {"X-Goog-Upload-Command": "upload, finalize", "X-Goog-Upload-Offset": "0"}
            request = step(place, self._uploaded, method="POST", content=Bytes(image=file))
            return Then(request=replace(request, headers=whole, keyless=True))  # what allows it is in the address

        headers = {
            "X-Goog-Upload-Protocol": "resumable",
            "X-Goog-Upload-Command": "start",
            "X-Goog-Upload-Header-Content-Length": str(file.size),
            "X-Goog-Upload-Header-Content-Type": file.media_type,
        }
        about = Json(value={"file": {"display_name": "batchflux"}})
        return replace(step("/upload/v1beta/files", allowed, method="POST", content=about), headers=headers)

    def _uploaded(self, told: DocumentReader) -> Reply:
        file = told.document.get("file")
        name = told_text(file.get("name")) if isinstance(file, dict) else None
        if not told.ok or name is None:
            raise self._refused(told)
        return Uploaded(url=name)

    def create(self, kind: str, file: str, name: str) -> HttpRequest:
        """Return the step that makes a batch of a file."""

        def created(told: DocumentReader) -> Reply:
            handle = told.name("name")
            if not told.ok or handle is None:
                raise without_file(self._refused(told))
            return Submitted(handle=handle)

        asked = Json(value={"batch": {"display_name": name, "input_config": {"file_name": file}}})
        url = f"/v1beta/models/{quote(kind, safe='')}:batchGenerateContent"
        return step(url, created, method="POST", content=asked, paid=True)

    def find(self, name: str) -> HttpRequest:
        """Return the step that looks for a name in a page of batches, which the other pages follow."""
        return self._page(name, None, MOST_PAGES)

    def _page(self, name: str, token: str | None, left: int) -> HttpRequest:
        def listed(told: DocumentReader) -> Reply:
            if not told.ok or not told.understood or not told.complete:
                raise self._refused(told)
            batches = told.document.get("operations") or told.document.get("batches") or []
            for one in batches if isinstance(batches, list) else []:
                about = _mapping(_mapping(one).get("metadata"))
                handle = told_text(_mapping(one).get("name"))
                if handle is not None and name in (about.get("displayName"), about.get("display_name")):
                    return Submitted(handle=handle)
            following = told.name("nextPageToken")
            if following is None:
                return Missing()
            if following == token or not left:  # what was not seen may be it
                raise JobError(Code.BAD_ANSWER, ENDLESS)
            return Then(request=self._page(name, following, left - 1))

        more = "" if token is None else f"&pageToken={quote(token, safe='')}"
        return step(f"/v1beta/batches?pageSize={_PAGE}{more}", listed)

    def poll(self, handle: str) -> HttpRequest:
        """Return the step that asks for a batch."""

        def polled(told: DocumentReader) -> Reply:
            if told.status == _NOT_FOUND:
                return Missing()
            if not told.ok or not told.complete or told.name("name") not in (None, handle):
                raise self._refused(told)
            return self._standing(told)

        return step(_place(handle), polled)

    def cancel(self, handle: str) -> HttpRequest:
        """Return the step that cancels a batch; what became of it is said when it is polled."""

        def cancelled(told: DocumentReader) -> Reply:
            error = None if told.ok else self._refused(told)
            ended = told.status in (_REFUSED, _NOT_FOUND, _CONFLICT) and "API key" not in told.words("error")
            if error is not None and not ended:
                raise error
            return Pending()

        return step(f"{_place(handle)}:cancel", cancelled, method="POST", content=Json(value={}))

    def answers(self, file: str) -> HttpRequest:
        """Return the step whose answer is a batch's file."""

        def missed(told: DocumentReader) -> Reply:
            if told.status == _NOT_FOUND:
                return Missing()
            raise self._refused(told)

        return step(f"/download/v1beta/{quote(file)}:download?alt=media", missed)

    def read(self, line: bytes) -> BatchAnswer | None:
        """Return what was answered for a job, as a single request is."""
        if (said := object_in(line)) is None:
            return None
        key, response, error = said.get("key"), said.get("response"), said.get("error") or said.get("status")
        found: BatchAnswer | None = None
        if isinstance(response, dict):
            found = answer(key, 200, response)
        elif isinstance(error, dict) and isinstance(key, str):
            code = error.get("code")
            if code == _CANCELLED:
                return None
            status, word = _CODES.get(code if type(code) is int else 0, (code, error.get("status")))
            known = type(status) is int and status >= _REFUSED
            found = answer(key, status if known else _FAILED, {"error": {"status": word, **error}})
        if found is None:
            raise unread(line)
        return found

    def _standing(self, told: DocumentReader) -> Reply:
        """Return how a batch stands; JobError when the answer does not say so."""
        about = _mapping(told.document.get("metadata"))
        state = _STATE.sub("", str(about.get("state") or told.document.get("state") or "").lower())
        if not state and "done" not in told.document:
            raise self._refused(told)
        files = tuple(dict.fromkeys(_files(told.document)))
        fault = _mapping(told.document.get("error") or about.get("error"))
        if state == "failed" or (fault and told.document.get("done") is True and state not in _ENDS):
            return Closed(state="failed", files=files, error=self._fault(fault))
        if state not in _ENDS:
            return Pending()
        if not files and _ENDS[state] == "completed":  # what is in no file counts as not made, so it is waited for
            raise JobError(Code.BAD_ANSWER, "the batch has succeeded, and names no file of what it made")
        return Closed(state=_ENDS[state], files=files, made=count_in(about.get("batchStats"), "successfulRequestCount"))

    def _fault(self, fault: Mapping[str, Any]) -> JobError:
        """Return why a batch failed, by the one table and Google's words."""
        code = fault.get("code")
        status, word = _CODES.get(code if type(code) is int else 0, (_REFUSED, None))
        told = {"status": word, **fault}
        error = self._meant(from_answer(status, {}, "", paid=False), told)
        said = tidy("; ".join(texts_in(fault.get("message"))), limit=_LONGEST) or "it does not say why"
        error.message = f"the batch failed: {said}"
        return error

    def _refused(self, told: DocumentReader) -> JobError:
        """Return what Google means by an answer that is not the one asked for."""
        error, fault = told.failure(), told.document.get("error")
        return error if told.ok or not isinstance(fault, dict) else self._meant(error, fault)


def _place(handle: str) -> str:
    return f"/v1beta/{quote(handle)}"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _files(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of a batch's files of answers, wherever they stand."""
    about, response = _mapping(document.get("metadata")), _mapping(document.get("response"))
    for place in (response, response.get("output"), about.get("output"), document.get("output"), document.get("dest")):
        found = _mapping(place)
        for key in ("responsesFile", "responses_file", "fileName"):
            if (name := told_text(found.get(key))) is not None:
                yield name
