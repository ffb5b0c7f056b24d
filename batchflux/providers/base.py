"""What every call style is: a generator without I/O that says which HTTP step it wants done.

The flow yields a Request (or a Wait); the engine has it performed, repeats that step when it fails, and sends the
Picture that the request's reader made of the answer. Whatever is not a picture is raised by the reader, outside the
generator, so a retry repeats one step and never the flow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from batchflux.models import Capabilities, Flow, Job


@runtime_checkable
class Provider(Protocol):
    """One way of calling an API. A module of this package that names one `PROVIDER` is thereby registered."""

    @property
    def capabilities(self) -> Capabilities:
        """Which job fields this style can carry; asked at plan time."""
        ...

    def flow(self, job: Job) -> Flow:
        """Yield the steps that make the job's picture and return it.

        Raises:
            JobError: the job cannot be sent in this style (`reference`, `invalid_request`).
        """
        ...
