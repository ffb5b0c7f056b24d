"""References that travel as signed links: in requests, and in answers that quote them, which are not their pictures."""

from __future__ import annotations

import html
import json
from dataclasses import replace
from functools import partial
from hashlib import sha256
from typing import Any
from urllib.parse import quote

import pytest

from batchflux.errors import Code, JobError
from batchflux.models import BASE, Finished, Job, Json, Link, Multipart, Reference
from batchflux.photos import Published
from batchflux.providers import providers
from batchflux.providers.answers.echoes import Own
from batchflux.providers.answers.listed import equal
from batchflux.redaction import without_links
from tests.conftest import numbered_job
from tests.providers.driving import body_of, read

WAYS = ("flux-relay", "standard"), ("openai", "openai")
STANDARD, OPENAI = map(providers().__getitem__, WAYS)
DIGEST = sha256(b"photo").hexdigest()
SECRET = "3e5b" * 16
QUERY = (
    "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20261130%2Fus-east-1%2Fs3%2Faws4_request"
    f"&X-Amz-Date=20261130T120000Z&X-Amz-Expires=7200&X-Amz-SignedHeaders=host&X-Amz-Signature={SECRET}"
)
SIGNED = f"https://shop.s3.us-east-1.amazonaws.com/refs/{DIGEST}.png?{QUERY}"
LOCAL = Reference(source="p/a.png", path="/p/a.png", sha256=DIGEST, media_type="image/png")
THERE = Reference(source="s3://shop/shelf/a b.png", url="s3://shop/shelf/a b.png")
THERE_SIGNED = f"https://shop.s3.us-east-1.amazonaws.com/shelf/a%20b.png?{QUERY}"
RESULT = "https://cdn.example/out/mug.png"


def job_of(*images: Reference, **fields: Any) -> Job:
    return numbered_job(0, prompt="Make it red", images=images, **fields)


def spelled(url: str) -> list[str]:
    """Return how relays spell a link in JSON, HTML and markdown, or as a part of another URL."""
    in_json = url.replace("&", r"\u0026")
    return [url, html.escape(url), in_json, url.replace("/", r"\/"), quote(url, "")]


def test_a_signed_link_stands_in_front_of_the_prompt_as_any_url_does() -> None:
    job = job_of(replace(LOCAL, url=SIGNED), seed=7, aspect_ratio="16:9")
    body = body_of(STANDARD.submit(job, 1))
    assert body == {"model": "m", "prompt": f"{SIGNED} Make it red", "seed": 7, "aspect_ratio": "16:9"}


# As the run knows the job that sent it, and as a later one does, which has no link, or one signed anew.
KNOWN = {
    "sent": (replace(LOCAL, url=SIGNED), SIGNED),
    "later": (LOCAL, SIGNED),
    "anew": (replace(LOCAL, url=SIGNED.replace(SECRET, "ff" * 32)), SIGNED),
    "there": (replace(THERE, url=THERE_SIGNED), THERE_SIGNED),
    "there, later": (THERE, THERE_SIGNED),
}


@pytest.mark.parametrize("known", KNOWN)
def test_an_echoed_link_is_not_the_picture(known: str) -> None:
    image, sent = KNOWN[known]
    request = STANDARD.submit(job_of(replace(image, url=sent)), 1)
    reader = replace(request, reader=partial(STANDARD.answers, job_of(image)))
    for url in spelled(sent)[:4]:
        answer = f"Using {url} as the reference\n\n![reference]({url})\n\n![image]({RESULT})"
        frame = {"choices": [{"delta": {"content": answer}}]}
        found = read(reader, f"data: {json.dumps(frame)}\n\ndata: [DONE]\n\n")
        assert found == Finished(asset=Link(url=RESULT)), found
        only = read(reader, json.dumps({"data": [{"url": sent}]}))
        assert isinstance(only, JobError), only
        assert only.code is Code.ECHOED_INPUT


@pytest.mark.parametrize("url", ["s3://shop/sample.jpeg", f"https://shop.s3.amazonaws.com/sample.jpeg?{QUERY}"])
def test_a_picture_may_have_the_name_of_a_reference(url: str) -> None:
    """Signed results of some APIs are all called alike; only the reference's own bucket makes it the reference."""
    reference = Reference(source="s3://shop/sample.jpeg", url=url)
    for own in (f"https://shop.s3.amazonaws.com/sample.jpeg?{QUERY[9:]}", "http://host/shop/sample.jpeg?sig=2"):
        assert Own(job_of(reference)).is_url(own)
    for picture in ("https://delivery.bfl.ai/results/9/sample.jpeg?sig=1", "https://cdn.ai/sample.jpeg/1?sig=1"):
        assert not Own(job_of(reference)).is_url(picture)
        assert not equal(reference.source, picture)


@pytest.mark.parametrize("known", KNOWN)
def test_no_text_keeps_what_makes_the_link_a_key(known: str) -> None:
    image, sent = KNOWN[known]
    for url in spelled(sent):
        said = without_links(f'{{"prompt": "{url} Make it red", "n": 1}}', [image])
        assert SECRET not in said, (url, said)
        assert "Make it red" in said
        assert said.endswith('"n": 1}')
    assert without_links(f"{RESULT}?token=1", [image]) == f"{RESULT}?token=1", "a picture's own link is left to others"


def test_openai_takes_links_in_json_and_falls_back_to_the_file(tmp_path: Any) -> None:
    (tmp_path / "a.png").write_bytes(b"photo")
    image = replace(LOCAL, path=str(tmp_path / "a.png"))
    job = job_of(replace(image, url=SIGNED), style="openai", model="qwen-image-edit")
    request = OPENAI.submit(job, 1)
    assert isinstance(request.content, Json)
    assert request.content.value["images"] == [{"image_url": SIGNED}]
    reader = request.reader(415, {BASE: ""})
    reader.feed(b'{"error": {"message": "Unsupported content type: use multipart/form-data"}}')
    told: Any = reader.finish(complete=True)
    assert isinstance(told.request.content, Multipart), "refused for its form, which is free: the bytes are there, too"
    assert OPENAI.takes_links(job)
    assert not OPENAI.takes_links(replace(job, options=(("edits", "multipart"),)))


def test_who_takes_links() -> None:
    takes = {api: wire.takes_links(job_of(LOCAL)) for (api, _), wire in providers().items()}
    assert {api for api, links in takes.items() if not links} == {"comfyui"}


@pytest.mark.parametrize(
    ("image", "signs"),
    [
        (THERE, True),
        (LOCAL, False),
        (replace(LOCAL, url=f"s3://shop/refs/{DIGEST}.png"), True),
        (replace(LOCAL, url=f"gs://files-of-an-api/{DIGEST}.png"), False),
        (replace(LOCAL, url="batchflux/0/a.png"), False),
        (replace(THERE, url=RESULT), False),
    ],
)
def test_only_what_lies_in_a_bucket_is_signed(image: Reference, signs: bool) -> None:  # noqa: FBT001  a parameter
    assert Published(to="s3://shop/refs").signs(image) is signs
    assert Published().signs(image) is (signs and image.path is None)
