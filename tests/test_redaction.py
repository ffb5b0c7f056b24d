"""Which links lose their query: those that are keys to the picture; and how a known secret goes."""

from __future__ import annotations

import json
from base64 import b64encode, urlsafe_b64encode
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.redaction import HIDDEN, as_code, hushed, queries, redacted

if TYPE_CHECKING:
    from collections.abc import Callable

PICTURE = "https://cdn.example/out/mug.png"
CANARY = "cAnArY0123456789abcdefCANARY"


@pytest.mark.parametrize(
    "query",
    [
        f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature={CANARY}",
        "AWSAccessKeyId=AKIA1&Signature=ab&Expires=1",
        f"X-Goog-Signature={CANARY}",
        "GoogleAccessId=a&Expires=1&Signature=b",
        "sv=2024-01-01&sr=b&sig=ab%3D",
        "Policy=x&Signature=y&Key-Pair-Id=z",
        "OSSAccessKeyId=x&Expires=1&Signature=y",
        "x-oss-signature=short",
        "q-sign-algorithm=sha1&q-signature=short",
        "token=short",
        "access_token=short",
        "api_key=short",
        "apikey=short",
        "auth_key=1-0-0-short",
        "password=short",
        "client_secret=short",
        "upload_signature=short",
        "X-AMZ-SECURITY-TOKEN=short",
        f"v={CANARY}",
        CANARY,
        f"a=1;b={CANARY}",
    ],
)
def test_a_signed_link_is_kept_without_its_query(query: str) -> None:
    assert redacted(f"{PICTURE}?{query}") == PICTURE


@pytest.mark.parametrize(
    "url",
    [
        PICTURE,
        f"{PICTURE}?w=200&h=300",
        f"{PICTURE}?v=2",
        f"{PICTURE}#top",
        f"{PICTURE}?format=png",
        "http://127.0.0.1:8080/files/a.png",
        "https://cdn.example/",
        "",
    ],
)
def test_a_plain_link_stays_as_it_is(url: str) -> None:
    assert redacted(url) == url


def test_a_fragment_can_be_a_secret_too() -> None:
    assert redacted(f"{PICTURE}#{CANARY}") == PICTURE


def test_a_password_in_front_of_the_host_is_taken_out() -> None:
    assert redacted(f"https://me:{CANARY}@cdn.example:8443/a.png?w=1") == "https://cdn.example:8443/a.png?w=1"
    assert redacted(f"https://{CANARY}@cdn.example/a.png?token=x") == "https://cdn.example/a.png"


@pytest.mark.parametrize("url", ["http://[::1", f"http://[bad/?token={CANARY}", f"http://[x]y/#{CANARY}"])
def test_what_is_no_url_is_no_reason_to_fall_over(url: str) -> None:
    assert CANARY not in redacted(url)


@given(st.text(max_size=200))
def test_any_text_is_survived(text: str) -> None:
    assert isinstance(redacted(text), str)


@given(st.text(alphabet=st.characters(codec="ascii", categories=["L", "N"]), min_size=20, max_size=60))
def test_whatever_is_long_and_random_goes(secret: str) -> None:
    kept = redacted(f"{PICTURE}?name={secret}&w=1")
    assert urlsplit(kept).query == ""


@given(st.binary(max_size=30), st.binary(max_size=30), st.sampled_from([b64encode, urlsafe_b64encode]))
def test_a_secret_goes_from_base64_too(before: bytes, after: bytes, encode: Callable[[bytes], bytes]) -> None:
    secret = "cnry+K3y/of=no.known~shape"
    text = encode(before + secret.encode() + after).decode()
    left, found, right = hushed(text, [secret]).partition(HIDDEN)
    assert found
    assert text.startswith(left)
    assert text.endswith(right)
    assert len(text) - len(left) - len(right) >= len(secret) * 8 // 6 - 1, "all but what neighbours have a part in"


def test_a_secret_goes_from_an_error_code_too() -> None:
    secret = "Relay-9F3c-known shape"
    assert hushed(f"HTTP 400 ({as_code('bad ' + secret)})", [secret]) == "HTTP 400 (bad_***)"


def test_what_of_a_jobs_links_is_a_key_leaves_an_answer_that_echoes_them() -> None:
    signed, plain, webhook = (
        f"{PICTURE}?Signature={CANARY}&Expires=1",
        f"{PICTURE}?w=100",
        "https://h.example/x?job=7&me=you",
    )
    found = queries([signed, plain, None], webhook)
    echoed = json.dumps({"images": [signed, plain], "webhook_url": webhook})
    expected = echoed.replace(signed, f"{PICTURE}?***").replace(webhook, "https://h.example/x?***")
    assert hushed(echoed, found) == expected
    assert hushed(echoed.replace("&", r"\u0026"), found) == expected
    assert queries([], None) == queries([], "https://h.example/x") == []
