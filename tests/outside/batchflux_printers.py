"""Printers, an API that batchflux does not know: a picture for each call, or many for half in a batch."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from batchflux.capabilities import BatchTerms, Capabilities
from batchflux.errors import Code, JobError
from batchflux.models import Closed, HttpRequest, Json, Missing, Multipart, Pending, Submitted, Uploaded
from batchflux.providers import Provider
from batchflux.providers.answers.batched import step
from batchflux.providers.batches import BatchAnswer, BatchApi

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchflux.models import Job, LocalFile, Reply
    from batchflux.providers.answers.documents import DocumentReader

PRINT, FILES, RUNS = "/printers/print", "/printers/files", "/printers/runs"


def _body(job: Job) -> Mapping[str, Any]:
    return {"text": job.prompt, "ink": job.model}


class Runs(BatchApi):
    """A run has a name, by which one is found whose answer was lost."""

    def kind(self, job: Job) -> str:
        return job.model

    def line(self, job: Job, key: str) -> Json:
        return Json(value={"page": key, "print": _body(job)})

    def upload(self, file: LocalFile) -> HttpRequest:
        def uploaded(told: DocumentReader) -> Reply:
            return Uploaded(url=_name(told, "file"))

        return step(FILES, uploaded, method="POST", content=Multipart(parts=(("file", file),)))

    def create(self, kind: str, file: str, name: str) -> HttpRequest:
        def created(told: DocumentReader) -> Reply:
            return Submitted(handle=_name(told, "run"))

        return step(RUNS, created, method="POST", content=Json(value={"file": file, "name": name}), paid=True)

    def find(self, name: str) -> HttpRequest:
        def found(told: DocumentReader) -> Reply:
            if not told.ok or not told.complete:
                raise told.failure()
            runs = [run for run in told.document["runs"] if run["name"] == name]
            return Submitted(handle=runs[0]["run"]) if runs else Missing()

        return step(RUNS, found)

    def poll(self, handle: str) -> HttpRequest:
        return step(_place(handle), _standing)

    def cancel(self, handle: str) -> HttpRequest:
        return step(f"{_place(handle)}/end", _standing, method="POST")

    def answers(self, file: str) -> HttpRequest:
        def missed(told: DocumentReader) -> Reply:
            raise told.failure()

        return step(f"{FILES}/{quote(file, safe='')}", missed)

    def read(self, line: bytes) -> BatchAnswer | None:
        try:
            said = json.loads(line)
            return BatchAnswer(key=said["page"], status=said["status"], body=json.dumps(said["answer"]).encode())
        except (ValueError, LookupError, TypeError) as error:
            raise JobError(Code.BAD_ANSWER, "a line of a run is not understood") from error


class Printers(Provider):
    """`POST /printers/print`, whose answer has the picture as base64; `/printers/runs` for batches."""

    api = style = "printers"
    batches = Runs()

    def capabilities(self, model: str) -> Capabilities:
        return Capabilities(
            api=self.api, style=self.style, model="black", fields=frozenset({"output_format"}),
            formats=frozenset({"png"}), local_images=False, most_images=0,
            batch=BatchTerms(most=1000, most_bytes=10**8),
            base_url="https://printers.example", key_names=("PRINTERS_KEY",),
        )  # fmt: skip

    def submit(self, job: Job, attempt: int) -> HttpRequest:
        return self.one_call(job, PRINT, Json(value=_body(job)))


def _place(handle: str) -> str:
    return f"{RUNS}/{quote(handle, safe='')}"


def _name(told: DocumentReader, key: str) -> str:
    name = told.name(key)
    if not told.ok or name is None:
        raise told.failure()
    return name


def _standing(told: DocumentReader) -> Reply:
    match told.name("is"):
        case "printed":
            return Closed(state="completed", files=(_name(told, "file"),))
        case "late":
            return Closed(state="expired", files=(_name(told, "file"),))
        case "ended":
            return Closed(state="cancelled", files=(_name(told, "file"),))
        case "refused":
            return Closed(state="failed", files=(), error=JobError(Code.INVALID_REQUEST, "the run was refused"))
        case "printing":
            return Pending()
    if told.status == 404:
        return Missing()
    raise told.failure()


PRINTERS = Printers()
