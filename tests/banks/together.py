"""Together's images: OpenAI's path, told by models of a maker's name, and a link or base64."""

from __future__ import annotations

from batchflux.testing.dialect import Dialect

DIALECT = Dialect(
    paths=("/v1/images/generations",),
    mine=lambda _, body: "/" in str(body.get("model")) and "batch_size" not in body,
    text=lambda body: str(body["prompt"]),
    picture=lambda made: {
        "id": "o1",
        "model": made.body["model"],
        "object": "list",
        "data": [{"index": 0, "url": made.link, "type": "url"}],
    },
    refusals={"moderated": (422, {"error": {"message": "NSFW content detected", "type": "invalid_request_error"}})},
)
