"""OpenAI's batches: a file of requests for one endpoint and one model, answered within a day at half the price.

A batch is found again by its metadata. Its answers come in two files: of the requests that went well, and of those that
failed, or were not made before the batch expired or was cancelled.
Facts: https://developers.openai.com/api/docs/guides/batch and https://developers.openai.com/api/reference/resources/batches,
read in November 2026.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from batchflux.capabilities import BatchTerms
from batchflux.errors import Code, JobError
from batchflux.models import Closed, Json, Missing, Multipart, Pending, Submitted, Then, Uploaded
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
from batchflux.providers.answers.failures import from_answer
from batchflux.providers.answers.reading import recoded
from batchflux.providers.batches import BatchAnswer, BatchApi
from batchflux.redaction import tidy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from batchflux.models import HttpRequest, Job, LocalFile, Reply
    from batchflux.providers.answers.documents import DocumentReader

_NAME = "batchflux"  # of the metadata that have a batch's name
_PAGE = 100  # batches; the most that a listing gives
_NOT_MADE = frozenset({"batch_expired", "batch_cancelled"})
_STATUSES = {"request_timeout": 504}  # of what failed without an HTTP answer: nobody knows if a picture was made
_FAILED, _REFUSED, _NOT_FOUND, _CONFLICT = 500, 400, 404, 409  # HTTP
_SHOWN, _LONGEST = 3, 300  # faults of a file, and characters of them


def _conflicts(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if values["images"] and dict(values["options"]).get("edits") == "multipart":
        yield "options", "a batch carries no form; remove options: {edits: multipart}, or set mode: live"


TERMS = BatchTerms(most=50_000, most_bytes=200_000_000, conflicts=_conflicts)


class OpenAiBatches(BatchApi):
    """`POST /v1/files` and `/v1/batches`; `asked` gives the endpoint of a job and the request that it is there."""

    def __init__(self, asked: Callable[[Job], tuple[str, Mapping[str, Any]]]) -> None:
        self._asked = asked

    def kind(self, job: Job) -> str:
        """Return the endpoint and the model, of which a batch has one."""
        return f"/v1/images/{'edits' if job.images else 'generations'} {job.model}"

    def line(self, job: Job, key: str) -> Json:
        """Return a job's request; JobError `invalid_request` or `reference` when it cannot be sent this way."""
        for _, message in _conflicts({"images": job.images, "options": job.options}):
            raise JobError(Code.INVALID_REQUEST, message)
        url, body = self._asked(job)
        whole = {name: value for name, value in body.items() if name not in ("stream", "partial_images")}
        return Json(value={"custom_id": key, "method": "POST", "url": url, "body": whole})

    def upload(self, file: LocalFile) -> HttpRequest:
        """Return the one step that lays the file at OpenAI, which keeps it for 30 days."""
        form = Multipart(parts=(("purpose", "batch"), ("file", file)))
        return step("/v1/files", _uploaded, method="POST", content=form)

    def create(self, kind: str, file: str, name: str) -> HttpRequest:
        """Return the step that makes a batch of a file."""
        asked = {
            "input_file_id": file,
            "endpoint": kind.partition(" ")[0],
            "completion_window": "24h",
            "metadata": {_NAME: name},
        }
        return step("/v1/batches", _created, method="POST", content=Json(value=asked), paid=True)

    def find(self, name: str) -> HttpRequest:
        """Return the step that looks for a name in the newest batches, which those before them follow."""
        return self._page(name, None, MOST_PAGES)

    def _page(self, name: str, after: str | None, left: int) -> HttpRequest:
        def listed(told: DocumentReader) -> Reply:
            batches = told.document.get("data")
            if not told.ok or not told.complete or not isinstance(batches, list):
                raise told.failure()
            batches = [one for one in batches if isinstance(one, dict) and isinstance(one.get("id"), str)]
            for one in batches:
                about = one.get("metadata")
                if isinstance(about, dict) and about.get(_NAME) == name:
                    return Submitted(handle=one["id"])
            if told.document.get("has_more") is not True:
                return Missing()
            last = told.name("last_id") or next((one["id"] for one in reversed(batches)), None)
            if last in (None, after) or not left:  # what was not seen may be it
                raise JobError(Code.BAD_ANSWER, ENDLESS)
            return Then(request=self._page(name, last, left - 1))

        more = "" if after is None else f"&after={quote(after, safe='')}"
        return step(f"/v1/batches?limit={_PAGE}{more}", listed)

    def poll(self, handle: str) -> HttpRequest:
        """Return the step that asks for a batch."""

        def polled(told: DocumentReader) -> Reply:
            if told.status == _NOT_FOUND:
                return Missing()
            return _standing(told, handle)

        return step(_place(handle), polled)

    def cancel(self, handle: str) -> HttpRequest:
        """Return the step that cancels a batch; one that cannot be, for it has ended, says so when it is polled."""

        def cancelled(told: DocumentReader) -> Reply:
            if told.status in (_REFUSED, _NOT_FOUND, _CONFLICT):
                return Pending()
            return _standing(told, handle)

        return step(f"{_place(handle)}/cancel", cancelled, method="POST")

    def answers(self, file: str) -> HttpRequest:
        """Return the step whose answer is one of a batch's files."""

        def missed(told: DocumentReader) -> Reply:
            if told.status == _NOT_FOUND:
                return Missing()
            raise told.failure()

        return step(f"/v1/files/{quote(file, safe='')}/content", missed)

    def read(self, line: bytes) -> BatchAnswer | None:
        """Return what was answered for a job, as a single request is."""
        if (said := object_in(line)) is None:
            return None
        key, response, error = said.get("custom_id"), said.get("response"), said.get("error")
        found: BatchAnswer | None = None
        if isinstance(response, dict):
            found = answer(key, response.get("status_code"), response.get("body"))
        elif isinstance(error, dict) and isinstance(key, str):
            code = str(error.get("code"))
            if code in _NOT_MADE:
                return None
            found = answer(key, _STATUSES.get(code, _FAILED), {"error": error})
        if found is None:
            raise unread(line)
        return found


def _place(handle: str) -> str:
    return f"/v1/batches/{quote(handle, safe='')}"


def _uploaded(told: DocumentReader) -> Reply:
    name = told.name("id")
    if not told.ok or name is None:
        raise told.failure()
    return Uploaded(url=name)


def _created(told: DocumentReader) -> Reply:
    name = told.name("id")
    if not told.ok or name is None:
        raise without_file(told.failure())
    return Submitted(handle=name)


def _standing(told: DocumentReader, handle: str) -> Reply:
    """Return how a batch stands; JobError when the answer does not say so."""
    if not told.ok or not told.complete or not told.state or told.name("id") not in (None, handle):
        raise told.failure()
    files = tuple(name for key in ("output_file_id", "error_file_id") if (name := told.name(key)) is not None)
    match told.state:
        case "failed":
            return Closed(state="failed", files=files, error=_fault(told))
        case "completed" | "expired" | "cancelled" as state:
            made = count_in(told.document.get("request_counts"), "completed")
            lacking = told.name("output_file_id") is None if made else state == "completed" and not files
            if lacking:  # what is in no file counts as not made: one that is not there yet is waited for
                raise JobError(Code.BAD_ANSWER, f"the batch is {state}, and names no file of what it made")
            return Closed(state=state, files=files, made=made)
    return Pending()


def _fault(told: DocumentReader) -> JobError:
    """Return why a batch's file was refused, by the one table and OpenAI's words."""
    errors = told.document.get("errors")
    listed = errors.get("data") if isinstance(errors, dict) else errors
    faults = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    error = from_answer(_REFUSED, {}, json.dumps({"error": faults[0] if faults else {}}), paid=False)
    places = [f"line {line}: " if isinstance(line := one.get("line"), int) else "" for one in faults]
    shown = [f"{place}{one.get('message') or one.get('code')}" for place, one in zip(places, faults, strict=True)]
    said = tidy("; ".join(dict.fromkeys(shown[:_SHOWN])), limit=_LONGEST) or "it does not say why"
    error.message = f"the batch was refused: {said}"
    enqueued = any(one.get("code") == "token_limit_exceeded" for one in faults)  # by all batches of the account
    return recoded(error, Code.RATE_LIMITED if enqueued else error.code)
