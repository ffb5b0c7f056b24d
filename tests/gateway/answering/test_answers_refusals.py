"""The table of refusals, links and headers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import ErrorObject

import batchflux
from batchflux.engine.outages import FAILURES
from batchflux.engine.shutdown import BUDGET, CANARY, DEADLINE, SIGNAL, STORAGE
from batchflux.errors import RULES, Code
from batchflux.gateway.answering.errors import ROWS, envelope, headers_of, of_not_made, refusal, resent
from batchflux.gateway.answering.headers import told
from batchflux.gateway.answering.links import Names, base_of, link_of
from batchflux.gateway.answering.send import refused
from batchflux.gateway.orders import RefusalError
from batchflux.runner.stream import RENEWED, NotMadeError

SECRET = b"of a folder"
NEVER = {Code.AUTH, Code.QUOTA}  # free, and of no use to ask again
FREE = {Code.RATE_LIMITED, Code.SERVER, Code.NETWORK, Code.TIMEOUT}


def test_every_code_and_every_end_of_a_run_has_a_row() -> None:
    assert set(Code) <= set(ROWS)
    floors = (Path(batchflux.__file__).parent / floor for floor in ("engine", "runner"))
    texts = [path.read_text(encoding="utf-8") for floor in floors for path in floor.rglob("*.py")]
    said = re.compile(r'StopRun\(\s*"(\w+)"|return "(\w+)", "Nothing more was sent')
    named = {first or second for text in texts for first, second in said.findall(text)}
    assert named >= {"bug", "bucket", "withdrawn"}
    assert named | {BUDGET, DEADLINE, SIGNAL, STORAGE, CANARY, FAILURES, RENEWED} <= set(ROWS)
    assert all(row.why and row.says.endswith(".") for row in ROWS.values())


@pytest.mark.parametrize("cause", ROWS)
def test_nothing_that_may_be_billed_is_sent_again_by_a_client(cause: str) -> None:
    assert not resent(refusal(cause, billed=True).status)
    assert "Retry-After" not in headers_of(refusal(cause, billed=True))
    if cause in set(Code) and RULES[Code(cause)].billed != "no":
        assert ROWS[cause].status == 400


def test_what_was_not_billed_says_when_to_ask_again_or_that_it_does_not_help() -> None:
    for code in FREE:
        assert int(headers_of(refusal(code, billed=False))["Retry-After"]) >= 1
    assert headers_of(refusal(Code.SERVER, billed=False, after=2.1)) == {"Retry-After": "3"}
    for cause in (*NEVER, BUDGET):
        assert headers_of(refusal(cause, billed=False)) == {"x-should-retry": "false"}
    assert refusal(BUDGET, billed=False).status == 429


def test_a_job_s_end_says_whether_something_was_billed() -> None:
    failed = refusal(Code.SERVER, "500 (oops)", billed=False)
    assert (failed.status, failed.message) == (503, "The provider failed. (500 (oops))")
    again = refusal(Code.SERVER, "500 (oops)", billed=True)  # an attempt before it was never answered
    assert (again.status, again.code) == (400, "unknown_outcome")
    ours, theirs = (refusal(Code.UNSAFE_URL, billed=billed) for billed in (False, True))
    assert (ours.code, theirs.code, theirs.status) == ("unsafe_url", "download_failed", 400)
    paid = refusal(Code.DIFFERS, billed=True)
    assert (paid.status, paid.code) == (400, "differs")
    assert refusal(Code.MODERATED, billed=False).code == "content_policy_violation"
    assert of_not_made(NotMadeError("signal", "stopped"), billed=False).status == 503
    assert of_not_made(NotMadeError("signal", "stopped"), billed=True).code == "unknown_outcome"


def test_what_speaks_of_the_gateway_s_keys_and_files_is_not_told() -> None:
    for code in (Code.AUTH, Code.QUOTA, Code.REFERENCE, Code.INTERNAL, Code.UNKNOWN):
        assert "TUZI_KEY" not in refusal(code, "TUZI_KEY of /srv was refused", billed=False).message


def test_what_a_provider_said_is_told_without_the_advice_to_who_runs_the_gateway() -> None:
    error = refusal(Code.DIFFERS, "the picture is 48x48; output.accept: [ratio] takes it", billed=True)
    assert error.message.endswith("not as it was ordered. (the picture is 48x48)")


def test_a_refusal_has_the_form_of_openai() -> None:
    error = RefusalError(429, "rate_limit_exceeded", "Slow down.", param="n", kind="requests", retry_after=0.2)
    answer = refused(error)
    assert (answer.status, answer.headers["Retry-After"]) == (429, "1")
    told_error = ErrorObject.model_validate(json.loads(str(answer.text))["error"], strict=True)
    assert (told_error.code, told_error.param, told_error.type) == ("rate_limit_exceeded", "n", "requests")
    assert envelope(error) == json.loads(str(answer.text))


@given(key=st.binary(min_size=32, max_size=32), other=st.binary(min_size=24, max_size=24))
@settings(max_examples=40)
def test_a_name_leads_to_its_key_and_to_no_other(key: bytes, other: bytes) -> None:
    names, own = Names(SECRET), key.hex()
    name = names.name(own, "png")
    assert re.fullmatch(r"[0-9a-f]{16}-[a-z2-7]{32}\.png", name)  # 160 bits that nobody guesses
    assert (names.prefix(name), names.fits(name, own)) == (own[:16], True)
    assert not Names(b"other").fits(name, own)
    beside = own[:16] + other.hex()  # begins alike
    assert names.fits(name, beside) is (beside == own)
    last = name[-5]
    assert not names.fits(f"{name[:-5]}{'2' if last != '2' else '3'}.png", own)


@given(st.text())
@settings(max_examples=40)
def test_no_other_text_is_a_name(text: str) -> None:
    names, key = Names(SECRET), "0" * 64
    for other in (text, f"{key[:16]}-{text}.png", f"{names.name(key, 'png')}/{text}"):
        assert names.prefix(other) is None
        assert not names.fits(other, key)


def test_links_begin_where_the_client_found_us_or_where_we_were_told() -> None:
    assert base_of(None, "http", "127.0.0.1:8000") == "http://127.0.0.1:8000"
    assert base_of(None, "https", "[::1]:80") == "https://[::1]:80"
    assert link_of(base_of("https://pics.test/x/", "http", "evil"), "1-a.png") == "https://pics.test/x/images/1-a.png"
    for host in ("", "a b", "a/b", "a)b", "a\r\nx: y", "[", "a:b"):
        with pytest.raises(RefusalError, match="Host"):
            base_of(None, "http", host)


@given(st.text(), st.text())
def test_headers_are_ascii_whatever_they_tell(job: str, note: str) -> None:
    headers = told(jobs=[job, "b"], cost="0.04", currency="CNY", joined=True, notes={"size": note})
    assert set(headers) == {f"x-batchflux-{name}" for name in ("jobs", "cost", "currency", "joined", "size")}
    for value in headers.values():
        assert value.isascii()
        assert value.isprintable()
        assert value == value.strip()


def test_headers_leave_out_what_is_not_so() -> None:
    headers = told(jobs=["a"], cost=None, currency="CNY", joined=False, notes={})
    assert headers == {"x-batchflux-jobs": "a"}
