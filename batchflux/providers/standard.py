"""The standard style: `POST /v1/images/generations` (CONTRACT 7).

The body holds the model, the prompt and what the job asks for, nothing else. Reference URLs stand at the front of the
prompt, in order, one space apart. A local file cannot travel.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, cast

from batchflux.errors import Code, JobError
from batchflux.manifest.job_fields import REQUEST_FIELDS
from batchflux.models import Capabilities, Request
from batchflux.providers.reading import reader

if TYPE_CHECKING:
    from batchflux.models import Flow, Job, Picture

PATH = "/v1/images/generations"
FIELDS = REQUEST_FIELDS
"""The optional fields of the body: this style has a place for all of them."""


class Standard:
    """One call, one JSON answer with a link or base64."""

    capabilities = Capabilities(
        api="flux-relay",
        style="standard",
        fields=frozenset(FIELDS),
        formats=frozenset({"jpeg", "png"}),
        local_images=False,
    )

    def flow(self, job: Job) -> Flow:
        """Yield the one request.

        Raises:
            JobError: `invalid_request` when the job has a local reference.
        """
        picture = yield Request(method="POST", path=PATH, body=body(job), reader=partial(reader, job))
        return cast("Picture", picture)


def body(job: Job) -> dict[str, Any]:
    """Return the request's JSON.

    Raises:
        JobError: `invalid_request` when the job has a local reference.
    """
    local = next((image for image in job.images if image.url is None), None)
    if local is not None:
        raise JobError(
            Code.INVALID_REQUEST,
            f"the standard style cannot carry the local file {local.source}: use style chat, or give its URL",
        )
    urls = [image.url for image in job.images if image.url is not None]
    sent: dict[str, Any] = {"model": job.model, "prompt": " ".join([*urls, job.prompt])}
    for field in FIELDS:
        value = getattr(job, field)
        if value is not None and field not in job.dropped:
            sent[field] = value
    return sent


PROVIDER = Standard()
