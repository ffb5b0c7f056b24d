"""What an API that sells batches is: many jobs in one file, at a lower price, whose answers come within a day.

The steps are requests without I/O, as those of a Provider, which names its BatchApi in `batches`. The engine writes the
lines of a batch into a file, uploads it (free), and creates the batch, which is the one step that costs money; a lost
answer of that costs nothing, for the batch is found by its `name`. What it answers for a job is what a single request
would be answered, and is read so.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchflux.models import HttpRequest, Job, Json, LocalFile


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
        """Return the step that may cost money; its reader returns Submitted, whose handle is the batch's."""

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
        """Return the free step whose answer is lines, one for each job; its reader reads what is no 200."""

    @abstractmethod
    def read(self, line: bytes) -> BatchAnswer | None:
        """Return what a line says; None: nothing, or that its job was not made because the batch ended before.

        Raises JobError `bad_answer` when it is not understood.
        """
