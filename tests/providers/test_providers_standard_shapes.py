from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.errors import Code, JobError
from batchflux.models import Inline, Link
from batchflux.providers.answers.reading import AnswerReader

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.models import Job

OUT = "https://cdn.example/out/a.png?X-Sig=abc&e=1"
MADE = b"\x89PNG\r\n\x1a\nmade\xfb\xff\xfe" * 3
B64 = base64.b64encode(MADE).decode()
BIG = "9" * 5000


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"data": [{"url": OUT}], "created": 1}, Link(url=OUT)),
        ({"data": [{"b64_json": B64}], "created": 1}, Inline(data=MADE)),
        ({"data": [{"b64_json": f"data:image/png;base64,{B64}"}]}, Inline(data=MADE)),
        ({"data": [{"url": f"data:image/png;base64,{B64}"}]}, Inline(data=MADE)),
        ({"data": [{"url": "", "b64_json": B64}]}, Inline(data=MADE)),
        ({"data": [{"url": None, "b64_json": B64}]}, Inline(data=MADE)),
        ({"data": [{"url": "n/a", "b64_json": B64}]}, Inline(data=MADE)),
        ({"data": [{"url": OUT, "b64_json": ""}]}, Link(url=OUT)),
        ({"data": [{"b64_json": B64.rstrip("=").replace("+", "-").replace("/", "_")}]}, Inline(data=MADE)),
        ({"data": [{"b64_json": "\n".join(B64)}]}, Inline(data=MADE)),
        ({"data": [{"url": f"  {OUT}\n", "revised_prompt": "x"}], "usage": {}, "error": None}, Link(url=OUT)),
        ({"data": [{"url": OUT.replace("&", "&amp;")}]}, Link(url=OUT)),
        ({"data": [{"url": OUT}, {"url": "https://cdn.example/2.png"}]}, Link(url=OUT)),
        ({"data": {"url": OUT}, "code": 200, "success": True}, Link(url=OUT)),
        ({"data": [OUT]}, Link(url=OUT)),
        ({"images": [{"url": OUT}]}, Link(url=OUT)),
        ([{"url": OUT}], Link(url=OUT)),
        ({"data": [{"url": "ftp://S3CRET@cdn.example/a.png?sig=S3CRET"}]}, Code.UNSAFE_URL),
        ({"data": [{"url": "file:///etc/passwd"}]}, Code.UNSAFE_URL),
        ({"data": [{"url": " FILE:\\/\\/\\/etc/passwd"}]}, Code.UNSAFE_URL),
        ({"data": [{"url": "ftp://x.example/a.png"}, {"url": OUT}]}, Link(url=OUT)),
        ({"data": [{"url": "cdn.example:443/a.png"}]}, Code.BAD_ANSWER),
        ({"data": [{"url": "/files/a.png"}]}, Code.BAD_ANSWER),
        ({"data": [{"url": "https://"}]}, Code.BAD_ANSWER),
        ({"data": [{"url": "https://a b/c"}]}, Code.BAD_ANSWER),
        ({"data": [{"url": "https://user@host/c.png"}]}, Link(url="https://user@host/c.png")),
        ({"data": [{"url": "javascript:alert(1)"}]}, Code.UNSAFE_URL),
        ({"data": [{"url": "https://x.example/" + "a" * 9000}]}, Code.BAD_ANSWER),
        ({"data": [{"b64_json": "not base64!"}]}, Code.NO_IMAGE),
        ({"data": [{"url": 7}]}, Code.NO_IMAGE),
        ({"data": []}, Code.NO_IMAGE),
        ({"data": [{}]}, Code.NO_IMAGE),
        ({"data": None}, Code.NO_IMAGE),
        ({"data": [None, 1, [[]]]}, Code.NO_IMAGE),
        ({}, Code.BAD_ANSWER),
        ([], Code.NO_IMAGE),
        (7, Code.BAD_ANSWER),
        (None, Code.BAD_ANSWER),
        ("text", Code.BAD_ANSWER),
        ({"created": 1}, Code.BAD_ANSWER),
    ],
)
def test_a_json_answer(answer: Callable[..., Any], make_job: Callable[..., Job], body: Any, expected: Any) -> None:
    for around in ("{}", "\ufeff{}", " \r\n{}\n\n", "\ufeff\n{}"):
        raw = around.replace("{}", json.dumps(body)).encode()
        for packets in ([raw], [raw[i : i + 1] for i in range(len(raw))]):
            got = answer(make_job(style="standard"), packets)
            if isinstance(expected, Code):
                assert isinstance(got, JobError)
                assert (got.code, got.billed) == (expected, True)
                assert "S3CRET" not in got.message
            else:
                assert got == expected


@pytest.mark.parametrize("spelling", ["{}", " {} ", "&amp;", "\\/"])
def test_the_reference_as_the_result(
    answer: Callable[..., Any], make_job: Callable[..., Job], reference_url: str, spelling: str
) -> None:
    url = spelling.format(reference_url) if "{}" in spelling else reference_url
    raw = json.dumps({"data": [{"url": url.replace("&", "&amp;") if spelling == "&amp;" else url}]})
    if spelling == "\\/":
        raw = raw.replace("/", "\\/")
    got = answer(make_job(style="standard"), raw.encode())
    assert (got.code, got.billed) == (Code.ECHOED_INPUT, True)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (f'{{"created": {BIG}, "data": [{{"url": "{OUT}"}}]}}'.encode(), Link(url=OUT)),
        (f'{{"data": [], "data": [{{"url": "{OUT}"}}]}}'.encode(), Link(url=OUT)),
        (
            f'{{"note": "\ud800", "x": NaN, "data": [{{"url": "{OUT}"}}]}}'.encode("utf-8", "surrogatepass"),
            Link(url=OUT),
        ),
        (b'{"note": "\xff\xfe", "data": [{"url": "' + OUT.encode() + b'"}]}', Link(url=OUT)),
        (b'{"data": [{"url": "https://x.example/\\ud800"}]}', Code.BAD_ANSWER),
        (b'{"data":' * 100_000, Code.BAD_ANSWER),
        (b'{"data":' + b"[" * 900 + b"]" * 900 + b"}", Code.NO_IMAGE),
    ],
)
def test_json_from_strangers(
    answer: Callable[..., Any], make_job: Callable[..., Job], body: bytes, expected: Any
) -> None:
    got = answer(make_job(style="standard"), body)
    assert (got.code if isinstance(got, JobError) else got) == expected


@pytest.mark.parametrize(
    "piece",
    [
        b'{"data": "' + b"x" * 90,
        b"data: " + b"x" * 94,
        b'data: {"choices":[{"delta":{"content":"xxxxxxxxxxxxxxxxxxxx"}}]}\n\n',
    ],
)
def test_an_answer_is_held_up_to_a_bound(make_job: Callable[..., Job], piece: bytes) -> None:
    reader = AnswerReader(make_job(style="standard"), 200, {}, largest=1000)
    fed = 0
    while not reader.feed(piece):
        fed += 1
        assert fed < 100
    assert reader.feed(piece)
    with pytest.raises(JobError, match="long") as caught:
        reader.finish(complete=False)
    assert (caught.value.code, caught.value.billed) == (Code.BAD_ANSWER, True)
