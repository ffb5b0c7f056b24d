"""Together's and SiliconFlow's requests; their answers are read as all are."""

from __future__ import annotations

from typing import Any

from batchflux.errors import Code
from batchflux.models import Finished, Link, LocalImage
from batchflux.providers import providers
from tests.providers.answering import LOCAL, REMOTE, body_of, made, read

TOGETHER, SILICON = providers()["together", "together"], providers()["siliconflow", "siliconflow"]
FILE = LocalImage(path="/a.png", sha256="a" * 64, media_type="image/png")
OUT = "https://cdn.example/o/77"


def test_together() -> None:
    model = "black-forest-labs/FLUX.1-kontext-pro"
    job = made("together", model, images=(LOCAL,), aspect_ratio="16:9", seed=7, options=(("steps", 4),))
    head = {"model": model, "prompt": "a mug"}
    sized = {"width": 1360, "height": 768, "seed": 7, "steps": 4}
    request = TOGETHER.submit(job, 1)
    assert body_of(request) == {**head, **sized, "image_url": FILE}
    assert TOGETHER.capabilities(model).most_images == 1
    several = body_of(TOGETHER.submit(made("together", "black-forest-labs/FLUX.2-dev", images=(LOCAL, REMOTE)), 1))
    assert several["reference_images"] == [FILE, REMOTE.url]
    answer = {"id": "o", "object": "list", "data": [{"index": 0, "url": OUT, "type": "url"}]}
    assert read(request, answer) == Finished(asset=Link(url=OUT))
    refusal: dict[str, Any] = {"message": "The image has NSFW content", "type": "invalid_request_error", "code": None}
    for status, error, code in ((401, {}, Code.AUTH), (402, {}, Code.QUOTA), (422, refusal, Code.MODERATED),
                                (422, {}, Code.INVALID_REQUEST), (503, {}, Code.SERVER)):  # fmt: skip
        assert read(request, {"error": {"message": "no", **error}}, status).code is code


def test_siliconflow() -> None:
    job = made("siliconflow", "Qwen/Qwen-Image-Edit-2509", images=(LOCAL, REMOTE), aspect_ratio="1:1", seed=7)
    request = SILICON.submit(job, 1)
    assert body_of(request) == {
        "model": job.model,
        "prompt": "a mug",
        "batch_size": 1,
        "image_size": "1024x1024",
        "seed": 7,
        "image": FILE,
        "image2": REMOTE.url,
    }
    answer = {"images": [{"url": OUT}], "timings": {"inference": 0.3}, "seed": 7, "data": [{"url": OUT}], "created": 1}
    assert read(request, answer) == Finished(asset=Link(url=OUT), seed=7)
    poor = {"code": 30001, "message": "Sorry, your account balance is insufficient", "data": None}
    assert read(request, poor, 403).code is Code.QUOTA
    assert read(request, {**poor, "message": ""}, 403).code is Code.QUOTA
    assert read(request, "Invalid token", 401).code is Code.AUTH
    assert read(request, {"code": 50505, "message": "Model service overloaded.", "data": None}, 503).code is Code.SERVER
