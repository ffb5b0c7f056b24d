"""What counts for a job's key: no signature of a URL, and no blanks; and the URLs at a prompt's very front."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.manifest.sameness import parted, same_prompt, unsigned
from batchflux.models import Json
from batchflux.planner import load_manifest, plan
from batchflux.providers import providers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchflux.models import Job

    Jobs = Callable[[str], list[Job]]

PHOTO = "https://h.example/a.jpg"
NOW = "1790000000"
SIGNATURES = [
    "X-Amz-Algorithm=A&X-Amz-Credential=K%2F2&X-Amz-Date=1&X-Amz-Expires=9&X-Amz-SignedHeaders=host&X-Amz-Signature=a",
    "x-amz-signature=a&X-Amz-Security-Token=b",
    "X-Goog-Algorithm=a&X-Goog-Credential=b&X-Goog-Signature=c&X-Goog-Date=d&X-Goog-Expires=1&X-Goog-SignedHeaders=h",
    f"OSSAccessKeyId=a&Expires={NOW}&Signature=b%3D&security-token=xx",
    "x-oss-signature-version=OSS4&x-oss-credential=a&x-oss-date=b&x-oss-expires=1&x-oss-signature=c",
    f"AWSAccessKeyId=a&Signature=b&Expires={NOW}",
    f"AccessKeyId=a&Expires={NOW}&Signature=b&x-obs-security-token=c",
    f"GoogleAccessId=a&Expires={NOW}&Signature=b",
    "Policy=a&Signature=b&Key-Pair-Id=c&Hash-Algorithm=SHA256",
    f"Expires={NOW}&Signature=b&Key-Pair-Id=c",
    "sv=2023-01-01&st=2026-01-01&se=2026-11-30T00%3A00%3A00Z&sr=b&sp=r&spr=https&sip=1.2.3.4&sig=abc",
    "skoid=1&sktid=2&skt=3&ske=4&sks=b&skv=5&sv=2023&st=1&se=2026&sr=b&sp=r&sig=a",
    "sv=1&si=policy&sr=c&sig=x",
    "sig=x",
    "X-Tos-Algorithm=a&X-Tos-Credential=k&X-Tos-Date=d&X-Tos-Expires=3600&X-Tos-SignedHeaders=host&X-Tos-Signature=c",
    (
        "q-sign-algorithm=sha1&q-ak=a&q-sign-time=1;2&q-key-time=1;2&q-header-list=host&q-url-param-list=&q-signature=b"
        "&x-cos-security-token=t"
    ),
    f"auth_key={NOW}-0-0-0123456789abcdef0123456789abcdef",
    "authorization=bce-auth-v1/ak/2026/1800/host/abc",
    "x-bce-security-token=a",
    "token=eyJhbGciOi.eyJ1cmwiOi.sig_-x",
    f"e={NOW}&token=AK:abc=",
    f"token=abc&expires={NOW}",
    f"sign=abc&t={NOW}",
    "wsSecret=a&wsTime=65f0a1b2",
    "txSecret=a&txTime=65f0a1b2",
    "ex=65f0a1b2&is=65f0a1b2&hm=abcd",
    f"hdnts=exp={NOW}~acl=/*~hmac=abc",
    f"x-expires={NOW}&x-signature=abc",
    f"verify={NOW}-AbC%2Bd3f%3D",
    f"token={NOW}_0a1b2c3d4e5f",
    f"_upt=0a1b2c3d{NOW}",
    f"__cld_token__=exp={NOW}~hmac=abc",
    f"expirationTimestamp={NOW}000&signature=abc",
    "oh=00_abc&oe=65f0a1b2",
    "X-Amz-Algorithm=A&amp;X-Amz-Date=1&amp;X-Amz-Signature=a",
    "access_token=a",
]


@pytest.mark.parametrize("query", SIGNATURES)
def test_a_signature_does_not_count(query: str) -> None:
    assert unsigned(f"{PHOTO}?{query}") == PHOTO
    assert unsigned(f"{PHOTO}?w=100&{query}&id=%41&x#f") == f"{PHOTO}?w=100&id=%41&x#f"


@pytest.mark.parametrize(
    "query",
    ["id=7", "token=7", "x-oss-process=image/resize,w_100", "x-image-process=1", f"t={NOW}", f"v={NOW}", "s=100", "a",
     "sv=1&st=2", "policy=x", "expires=1", "hash=abcd", "", "&&", "seed=1&se=2", "versionId=7", "st=1&e=2",
     *(f"{name}=c1&{time}={NOW}" for name in ("md5", "hash", "s", "st", "hm", "oh") for time in ("t", "ts", "expires")),
     "token=0a1b2c3d-0a1b-0a1b-0a1b-0a1b2c3d4e5f", "verify=7", "_upt=7", "expirationTimestamp=1",
     "imageMogr2/thumbnail/100x", "response-content-type=image/png", "=", "?x=1"],
)  # fmt: skip
def test_what_may_name_the_photo_counts(query: str) -> None:
    assert unsigned(f"{PHOTO}?{query}") == f"{PHOTO}?{query}"


@pytest.mark.parametrize(
    ("photo", "token"),
    [("https://firebasestorage.googleapis.com/v0/b/x/o/a.jpg?alt=media", "0a1b2c3d-0a1b-0a1b-0a1b-0a1b2c3d4e5f"),
     ("https://raw.githubusercontent.com/o/r/main/a.jpg?x=1", "GHSAT0AAAAAACX7Y2QZ5B4"),
     ("https://raw.githubusercontent.com/o/r/main/a.jpg?x=1", "0a1b2c3d4e5f60718293")],
)  # fmt: skip
def test_a_token_that_only_lets_in_does_not_count(photo: str, token: str) -> None:
    assert unsigned(f"{photo}&token={token}") == photo
    assert unsigned(f"{photo}&token=7") == f"{photo}&token=7"


@settings(max_examples=200)
@given(st.text(max_size=60))
def test_any_text_has_a_part_that_counts(text: str) -> None:
    for url in (text, f"{PHOTO}?{text}"):
        assert unsigned(unsigned(url)) == unsigned(url)
    urls, rest = parted(text)
    assert rest in text
    assert all(url in text for url in urls)
    assert same_prompt(f"\r\n {text}\t\n") == same_prompt(text)


@pytest.mark.parametrize(
    ("prompt", "urls", "rest"),
    [
        ("https://a.example/b.png make", ["https://a.example/b.png"], "make"),
        (" HTTPS://a.example/b\nhttp://c.example/d?x=1  make it ", ["HTTPS://a.example/b", "http://c.example/d?x=1"],
         "make it "),
        ("https://a.example/b", ["https://a.example/b"], ""),
        ("https://a.example/b \n", ["https://a.example/b"], ""),
        ("http:// is a scheme", [], "http:// is a scheme"),
        ("https://u:p@h.example/x is no reference", [], "https://u:p@h.example/x is no reference"),
        ("https://a.example/b https:// is", ["https://a.example/b"], "https:// is"),
        ("look at https://a.example/b", [], "look at https://a.example/b"),
        ("httpsx://a", [], "httpsx://a"),
        ("", [], ""),
    ],
)  # fmt: skip
def test_urls_at_the_very_front(prompt: str, urls: list[str], rest: str) -> None:
    assert parted(prompt) == (urls, rest)


def one(prompt: str, more: str = "") -> str:
    return f'version: 1\njobs:\n  - {{prompt: "{prompt}"{more}}}\n'


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (one("x"), one(" x \\r\\n")),
        (one("a\\nb"), one("a\\r\\nb")),
        (one("x", f", image: '{PHOTO}?sig=1'"), one("x", f", image: '{PHOTO}?sig=2'")),
        (one("x", f", image: '{PHOTO}'"), one("x", f", image: '{PHOTO}?sig=2'")),
        (one(f"{PHOTO}?sig=1 x"), one(f"{PHOTO}?sig=2\\n x")),
        (one(f"{PHOTO}?sig=1 x"), one("x", f", image: '{PHOTO}'")),
        (one("x"), one("x", ", style: chat, seed: 1").replace("version: 1", "version: 1\nprovider: {params: drop}")),
    ],
)
def test_what_asks_for_the_same_picture(first: str, second: str, jobs: Jobs) -> None:
    (before,), (after,) = jobs(first), jobs(second)
    same = before.style == after.style  # the style counts
    assert (before.key == after.key) is same


def test_dropped_fields_merge_what_is_asked_for_again(jobs: Jobs) -> None:
    head = "version: 1\nprovider: {params: drop}\njobs:\n  - {prompt: x, style: chat, matrix: "
    made = jobs(f"{head}{{seed: [1, 2, 3], aspect_ratio: [1:1, 16:9]}}}}\n")
    assert [(job.seed, job.dropped) for job in made] == [(1, ("seed", "aspect_ratio"))]
    assert len(jobs(f"{head}{{seed: [1, 2, 3], variant: [1, 2]}}}}\n")) == 2


P1, P2 = "https://h.example/p1.jpg?Expires=1&Signature=s1", "https://h.example/p2.jpg?sig=s2"


def sent(job: Job) -> Any:
    content = providers()["flux-relay", job.style].submit(job, 1).content
    assert isinstance(content, Json)
    return content.value["prompt"] if job.style == "standard" else content.value["messages"][0]["content"]


@pytest.mark.parametrize("style", ["standard", "chat"])
@pytest.mark.parametrize(
    ("prompt", "urls"),
    [(f"{P1} Make it red", 1), (f"{P1} {P2} Put P1 beside P2", 2), (P1, 1), (f"{P1} {P2}", 2), ("Make it", 0)],
)
def test_the_guides_own_form_is_sent_as_it_was_written(prompt: str, urls: int, style: str, jobs: Jobs) -> None:
    (made,) = jobs(one(prompt, f", style: {style}, images: []"))
    assert [image.url for image in made.images] == [P1, P2][:urls]
    assert sent(made) == prompt
    assert "http" not in made.prompt


def test_written_references_come_behind_those_in_front(folder: Path, jobs: Jobs) -> None:
    (made,) = jobs(one(f"{P1} x", f", images: ['{P2}', photos/mug.jpg]"))
    assert [image.source for image in made.images] == [P1, P2, "photos/mug.jpg"]
    assert sent(made)[0] == {"type": "text", "text": f"{P1} {P2} x"}


def test_no_signature_of_a_front_url_is_shown(folder: Path) -> None:
    (folder / "m.yaml").write_text(one(f"{P1} x"))
    shown = str(plan(load_manifest("m.yaml")))
    assert "https://h.example/p1.jpg" in shown
    assert "Signature" not in shown
