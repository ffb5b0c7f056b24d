"""What an API that sells batches is: many jobs in one file, at a lower price, whose answers come within a day.

The steps are requests without I/O, as those of a Provider, which names its BatchApi in `batches`. The engine writes the
lines of a batch into a file, uploads it (free), and creates the batch, which is the one step that costs money; a lost
answer of that costs nothing, for the batch is found by its `name`. What it answers for a job is what a single request
would be answered, and is read so.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from batchflux.errors import Code, JobError
from batchflux.models import HttpRequest, Job
from batchflux.providers.answers.documents import DocumentReader
from batchflux.providers.answers.untrusted import UnreadableError, parse, text_of, told_text
from batchflux.redaction import tidy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batchflux.models import Content, Json, LocalFile, Reply

_SHOWN = 80  # characters of a line
_NO_JOB = Job(id="", key="", prompt="", style="", model="", provider="", file_name="", position=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchAnswer:
    """What a batch answered for one job, known by the `key` of its line: a single request's HTTP status and body."""

    key: str
    status: int
    body: bytes = field(repr=False)


class BatchApi(ABC):
    """How one API takes batches; its Capabilities say at which terms."""

    @abstractmethod
    def kind(self, job: Job) -> str:
        """Return what all jobs of a batch have in common (a model, an endpoint); others go into another batch."""

    @abstractmethod
    def line(self, job: Job, key: str) -> Json:
        """Return a job's line, in which `key` is what its answer is known by.

        Raises JobError (`invalid_request`, `reference`) when the job cannot be sent this way.
        """

    @abstractmethod
    def upload(self, file: LocalFile) -> HttpRequest:
        """Return the free step whose reader returns Uploaded, `url` being what `create` names the file by."""

    @abstractmethod
    def create(self, kind: str, file: str, name: str) -> HttpRequest:
        """Return the step that may cost money; its reader returns Submitted, whose handle is the batch's.

        What it raises with an HTTP status of the API's own (4xx) says that nothing was accepted.
        """

    @abstractmethod
    def find(self, name: str) -> HttpRequest:
        """Return the free step that looks for a batch by its name; its reader returns Submitted, Missing, or Then."""

    @abstractmethod
    def poll(self, handle: str) -> HttpRequest:
        """Return the free step that asks for a batch; its reader returns Pending, Missing, or Closed."""

    @abstractmethod
    def cancel(self, handle: str) -> HttpRequest:
        """Return the free step that ends a batch early; its reader returns Pending, or Closed; what is made is kept."""

    @abstractmethod
    def answers(self, file: str) -> HttpRequest:
        """Return the free step whose answer is lines, one for each job; its reader reads what is no 200.

        That is Missing where the file is not there, or no more; it raises why else there are none.
        """

    @abstractmethod
    def read(self, line: bytes) -> BatchAnswer | None:
        """Return what a line says; None where it is blank, or says that its job was not made as the batch ended early.

        Raises JobError `bad_answer` when it is not understood: whose answer it was, or would have been, is not known.
        """


def step(
    url: str,
    interpret: Callable[[DocumentReader], Reply],
    *,
    method: Literal["GET", "POST"] = "GET",
    content: Content | None = None,
    paid: bool = False,
) -> HttpRequest:
    """Return a step that is about no single job; `paid`: it may cost money, and leaves at most once."""
    reader = partial(DocumentReader, _NO_JOB, interpret, paid=paid)
    return HttpRequest(method=method, url=url, content=content, reader=reader, repeatable=not paid)


def object_in(line: bytes) -> Mapping[str, Any] | None:
    """Return the object that a line is, None where it is blank; JobError `bad_answer` where it is anything else."""
    text = text_of(line)
    try:
        found = parse(text) if text else None
    except UnreadableError:
        raise unread(line) from None
    if found is not None and not isinstance(found, dict):
        raise unread(line)
    return found


def answer(key: object, status: object, body: object) -> BatchAnswer | None:
    """Return what a line says of a job by its parts; None where they are none."""
    name = told_text(key)
    known = type(status) is int and 100 <= status < 600  # noqa: PLR2004  HTTP
    if name is None or not known or body is None:
        return None
    return BatchAnswer(key=name, status=int(str(status)), body=json.dumps(body).encode())


def unread(line: bytes) -> JobError:
    """Return that a line is not understood."""
    shown = tidy(text_of(line[: 4 * _SHOWN]), limit=_SHOWN)
    return JobError(Code.BAD_ANSWER, f"a line of the batch's answers is not understood; it starts with: {shown}")
