"""What every provider is: the wire format of one API, without I/O and without a clock.

A provider says which HTTP step it wants done, and reads the answer; the engine does the step, repeats it where that is
free, and keeps the record. Nothing of a provider lives between two steps: a task that was submitted goes on from its
`handle`, which is in the ledger, in this process or in one that starts days later.

To add an API, write one module of this package that names its providers in `PROVIDERS`:

1. `capabilities(model)`: what its request has a place for.
2. `authorize(secret)`: the headers that carry the key.
3. `submit(job)`: the one step that may cost money. Its reader returns Finished, or Submitted with a handle.
4. `poll(job, handle)`, if it works with tasks: free, repeated until the reader returns Finished or Ended.
5. Run tests/contract over it, by one line in its table.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, ClassVar

from batchflux.errors import Code, JobError
from batchflux.manifest.job_fields import REQUEST_FIELDS
from batchflux.models import Json, LocalImage
from batchflux.redaction import HIDDEN

if TYPE_CHECKING:
    from decimal import Decimal

    from batchflux.models import Capabilities, Encoding, HttpRequest, Job, Reference


class Provider(ABC):
    """One way of calling an API; `api` and `style` name it in manifests, keys and tables."""

    api: ClassVar[str]
    style: ClassVar[str]

    @abstractmethod
    def capabilities(self, model: str) -> Capabilities:
        """Return what a request for this model can carry; asked at plan time."""

    def authorize(self, secret: str) -> Mapping[str, str]:
        """Return the headers that carry a key; they go to no host but those that `may_have_key` names."""
        return {"Authorization": f"Bearer {secret}"}

    def may_have_key(self, host: str, *, https: bool) -> bool:
        """Whether the key may go to this host, besides the address that the manifest names."""
        return False

    def quote(self, job: Job, price: Decimal | None) -> Decimal | None:
        """Return the most that one request for the job may cost, in the manifest's currency; None when unknown.

        `price` is what the manifest says that one image of the job's model costs.
        """
        return price

    @abstractmethod
    def submit(self, job: Job) -> HttpRequest:
        """Return the step that may cost money.

        Raises JobError (`invalid_request`, `reference`) when the job cannot be sent this way.
        """

    def poll(self, job: Job, handle: str) -> HttpRequest:
        """Return the step that asks for a task; it is free and repeatable. JobError when this API has no tasks."""
        raise JobError(Code.INVALID_REQUEST, f"{self.api} has no tasks that could be asked for")

    def upload(self, image: Reference) -> HttpRequest | None:
        """Return the step that uploads a local reference, None where files travel within `submit`.

        Its reader returns Uploaded; `submit` then sees the reference as a URL. It is free and repeatable.
        """
        return None


def file_of(image: Reference, encoding: Encoding = "data_url") -> LocalImage:
    """Return what stands in a request for a local reference; JobError `reference` when it could not be read."""
    if image.path is None or image.sha256 is None or image.media_type is None:
        raise JobError(Code.REFERENCE, image.fault or f"the reference {image.source} could not be read")
    return LocalImage(path=image.path, sha256=image.sha256, media_type=image.media_type, encoding=encoding)


def carried(job: Job, fields: frozenset[str]) -> dict[str, Any]:
    """Return the optional fields that the job asks for and the request has a place for, then its `options`."""
    sent = {name: getattr(job, name) for name in REQUEST_FIELDS if name in fields and name not in job.dropped}
    return {**{name: value for name, value in sent.items() if value is not None}, **dict(job.options)}


def preview(request: HttpRequest) -> dict[str, Any]:
    """Return a request's JSON as it may be shown: a short stand-in for each local picture, `***` for each secret."""
    if not isinstance(request.content, Json):
        return {}
    return {key: HIDDEN if key == "webhook_secret" else _shown(value) for key, value in request.content.value.items()}


def _shown(value: Any) -> Any:
    if isinstance(value, LocalImage):
        head = f"data:{value.media_type};base64," if value.encoding == "data_url" else ""
        return f"{head}<{PurePath(value.path).name}, sha256 {value.sha256[:8]}…>"
    if isinstance(value, Mapping):
        return {key: _shown(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(item) for item in value]
    return value
