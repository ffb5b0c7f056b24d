from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.errors import Code, JobError
from batchflux.models import HttpRequest, Json, LocalImage, Reference
from batchflux.providers import Provider, capabilities, preview, providers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batchflux.models import Job

A, B = "https://photos.example/a.png", "http://photos.example/b.png?x=1"
DIGEST = hashlib.sha256(b"photo").hexdigest()
LOCAL = Reference(source="mug.jpg", path="/photos/mug.jpg", sha256=DIGEST, media_type="image/jpeg")
LOCAL2 = Reference(source="cup.png", path="/photos/cup.png", sha256="b" * 64, media_type="image/png")


def url(address: str) -> Reference:
    return Reference(source=address, url=address)


def request_of(job: Job) -> HttpRequest:
    return providers()["flux-relay", job.style].submit(job, 1)


def body_of(job: Job) -> Mapping[str, Any]:
    content = request_of(job).content
    assert isinstance(content, Json)
    return content.value


def test_the_providers_are_found_by_presence() -> None:
    assert set(providers()) > {("flux-relay", style) for style in ("standard", "chat", "native")} | {("bfl", "bfl")}
    assert all(isinstance(provider, Provider) for provider in providers().values())
    assert providers() is providers()


def test_capabilities() -> None:
    offers = {offer.style: offer for offer in capabilities()}
    standard, chat = offers["standard"], offers["chat"]
    assert (standard.api, standard.local_images) == ("flux-relay", False)
    assert standard.fields == {
        "seed", "aspect_ratio", "output_format", "safety_tolerance", "prompt_upsampling", "webhook_url",
        "webhook_secret",
    }  # fmt: skip
    assert (chat.api, chat.local_images, chat.fields) == ("flux-relay", True, frozenset())


def test_submitting_is_a_post_that_is_never_repeated(make_job: Callable[..., Job]) -> None:
    standard, chat = request_of(make_job(style="standard")), request_of(make_job(style="chat"))
    assert (standard.method, standard.url, standard.repeatable) == ("POST", "/v1/images/generations", False)
    assert (chat.method, chat.url, chat.repeatable) == ("POST", "/v1/chat/completions", False)


ALL: dict[str, Any] = {
    "seed": 0,
    "aspect_ratio": "16:9",
    "output_format": "png",
    "safety_tolerance": 0,
    "prompt_upsampling": False,
    "webhook_url": "https://hook.example/x",
    "webhook_secret": "canary",
}


@pytest.mark.parametrize(
    ("fields", "images", "sent"),
    [
        ({}, (), {"prompt": "Make the mug red"}),
        ({}, (url(A),), {"prompt": f"{A} Make the mug red"}),
        ({}, (url(B), url(A)), {"prompt": f"{B} {A} Make the mug red"}),
        ({"prompt": "  two\nlines "}, (url(A),), {"prompt": f"{A}   two\nlines "}),
        (ALL, (), {"prompt": "Make the mug red", **ALL}),
        ({**ALL, "dropped": ("seed", "webhook_secret")}, (), {
            "prompt": "Make the mug red",
            **{key: value for key, value in ALL.items() if key not in {"seed", "webhook_secret"}},
        }),
        ({"variant": 2, "tags": (("sku", "1"),)}, (), {"prompt": "Make the mug red"}),
    ],
)  # fmt: skip
def test_the_standard_body_is_exact(
    make_job: Callable[..., Job], fields: dict[str, Any], images: tuple[Reference, ...], sent: dict[str, Any]
) -> None:
    sent_body = body_of(make_job(style="standard", images=images, **fields))
    assert sent_body == {"model": "flux-kontext-pro", **sent}


def part(image: Reference) -> dict[str, Any]:
    assert image.path is not None
    assert image.sha256 is not None
    assert image.media_type is not None
    local = LocalImage(path=image.path, sha256=image.sha256, media_type=image.media_type)
    return {"type": "image_url", "image_url": {"url": local}}


@pytest.mark.parametrize(
    ("images", "content"),
    [
        ((), "Make the mug red"),
        ((url(B), url(A)), f"{B} {A} Make the mug red"),
        ((LOCAL,), [{"type": "text", "text": "Make the mug red"}, part(LOCAL)]),
        (
            (LOCAL2, url(A), LOCAL, url(B)),
            [{"type": "text", "text": f"{A} {B} Make the mug red"}, part(LOCAL2), part(LOCAL)],
        ),
    ],
)
def test_the_chat_body_is_exact(make_job: Callable[..., Job], images: tuple[Reference, ...], content: Any) -> None:
    assert body_of(make_job(images=images, dropped=("seed",), **ALL)) == {
        "model": "flux-kontext-pro",
        "messages": [{"role": "user", "content": content}],
        "stream": True,
    }


def test_standard_refuses_a_local_file(make_job: Callable[..., Job]) -> None:
    with pytest.raises(JobError, match=r"local file mug\.jpg: use style chat") as caught:
        request_of(make_job(style="standard", images=(url(A), LOCAL)))
    assert caught.value.code is Code.INVALID_REQUEST


def test_chat_refuses_an_unreadable_file(make_job: Callable[..., Job]) -> None:
    gone = Reference(source="gone.jpg", path="/photos/gone.jpg", fault="gone.jpg: there is no such file")
    with pytest.raises(JobError, match="there is no such file") as caught:
        request_of(make_job(images=(gone,)))
    assert caught.value.code is Code.REFERENCE


def test_the_preview_shows_no_bytes_and_no_secret(make_job: Callable[..., Job]) -> None:
    chat = preview(request_of(make_job(images=(LOCAL,))))
    shown = f"data:image/jpeg;base64,<mug.jpg, sha256 {DIGEST[:8]}…>"
    assert chat["messages"][0]["content"][1] == {"type": "image_url", "image_url": {"url": shown}}
    assert chat["stream"] is True
    standard = preview(request_of(make_job(style="standard", **ALL)))
    assert standard["webhook_secret"] == "***"
    assert "canary" not in str(standard)
    assert standard["seed"] == 0
