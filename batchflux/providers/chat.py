"""The chat style: `POST /v1/chat/completions`, streamed, because only streaming works (CONTRACT 7).

The body holds the model, one user message and `stream`, nothing else. Reference URLs stand at the front of the text, in
order, one space apart; local references follow as parts of the content, in order, put in by the transport as it sends.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, cast

from batchflux.errors import Code, JobError
from batchflux.models import Capabilities, LocalImage, Request
from batchflux.providers.reading import reader

if TYPE_CHECKING:
    from batchflux.models import Flow, Job, Picture, Reference

PATH = "/v1/chat/completions"


class Chat:
    """One call, one event stream with the picture in its text."""

    capabilities = Capabilities(
        api="flux-relay", style="chat", fields=frozenset(), formats=frozenset(), local_images=True
    )

    def flow(self, job: Job) -> Flow:
        """Yield the one request.

        Raises:
            JobError: `reference` when a local reference could not be read.
        """
        picture = yield Request(method="POST", path=PATH, body=body(job), reader=partial(reader, job))
        return cast("Picture", picture)


def body(job: Job) -> dict[str, Any]:
    """Return the request's JSON, with a LocalImage where a file's `data:` URL goes.

    Raises:
        JobError: `reference` when a local reference could not be read.
    """
    urls = [image.url for image in job.images if image.url is not None]
    text = " ".join([*urls, job.prompt])
    local = [_part(image) for image in job.images if image.url is None]
    content = [{"type": "text", "text": text}, *local] if local else text
    return {"model": job.model, "messages": [{"role": "user", "content": content}], "stream": True}


def _part(image: Reference) -> dict[str, Any]:
    if image.path is None or image.sha256 is None or image.media_type is None:
        raise JobError(Code.REFERENCE, image.fault or f"the reference {image.source} could not be read")
    url = LocalImage(path=image.path, sha256=image.sha256, media_type=image.media_type)
    return {"type": "image_url", "image_url": {"url": url}}


PROVIDER = Chat()
