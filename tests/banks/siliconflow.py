"""SiliconFlow's images: OpenAI's path, a `batch_size`, and a link."""

from __future__ import annotations

from batchflux.testing.dialect import Dialect

DIALECT = Dialect(
    paths=("/v1/images/generations",),
    mine=lambda _, body: "batch_size" in body,
    text=lambda body: str(body["prompt"]),
    picture=lambda made: {"images": [{"url": made.link}], "timings": {"inference": 0.3}, "seed": 7},
    refusals={
        "500": (503, {"code": 50505, "message": "Model service overloaded. Please try again later.", "data": None}),
        "quota": (403, {"code": 30001, "message": "Sorry, your account balance is insufficient", "data": None}),
        "moderated": (400, {"code": 20015, "message": "The prompt holds sensitive content", "data": None}),
    },
)
