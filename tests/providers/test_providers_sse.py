from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.models import Inline
from batchflux.providers.answers.sse import Event, events, joined

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.models import Job


def unnamed(*data: str) -> list[Event]:
    return [Event(data=one) for one in data]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: a\n\ndata: b\n\n", unnamed("a", "b")),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", unnamed("a", "b")),
        (b"data: a\r\rdata: b\r\r", unnamed("a", "b")),
        (b"data: a\r\n\ndata: b\n\r\n", unnamed("a", "b")),
        (b"\xef\xbb\xbfdata: a\n\n", []),
        (b": heartbeat\n\n:\n\ndata: a\n\n", unnamed("a")),
        (b"data: one\ndata: two\n\n", unnamed("one\ntwo")),
        (b"data\ndata\n\n", unnamed("\n")),
        (b"data:a\n\n", unnamed("a")),
        (b"data:  a\n\n", unnamed(" a")),
        (b"event: error\ndata: x\n\ndata: y\n\n", [Event(name="error", data="x"), *unnamed("y")]),
        (b"event: error\n\ndata: y\n\n", unnamed("y")),
        (b"id: 7\nretry: 10\nfoo: bar\nfoo\ndata: y\n\n", unnamed("y")),
        (b"data: a\n\ndata: b\r", [*unnamed("a"), Event(data="b", closed=False)]),
        (b"data: last\n", [Event(data="last", closed=False)]),
        (b"data: last", [Event(data="last", closed=False)]),
        ("data: 进度 ❌\n\n".encode(), unnamed("进度 ❌")),
        (b"data: \xff\xe8\xbf\n\n", unnamed("\ufffd\ufffd")),
        (b"data: a\x0bb\x0cc\x1cd\n\n", unnamed("a\x0bb\x0cc\x1cd")),
        ("data: a\u2028b\x85c\n\n".encode(), unnamed("a\u2028b\x85c")),
        (b"", []),
        (b"\n\n\n", []),
    ],
)
def test_the_algorithm(stream: bytes, expected: list[Event]) -> None:
    assert list(events(stream.decode("utf-8", "replace"))) == expected


RUN = base64.b64encode(bytes(range(60))).decode()
OTHER = RUN[::-1].replace("=", "a")
ENVELOPES = (
    'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n',
    'data: {"choices":[{"index":0,"delta":{"content":"%s"},"finish_reason":null}]}\n\n',
    'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":"%s"}}]}\n\n',
    'data: {"choices":[{"index":0,"delta":{"image":"%s"}}]}\n\n',
    'event: x\ndata:{"type":"response.output_text.delta","delta": "%s"}\r\n\r\n',
    "data: %s\n\n",
    ": %s\n\n",
)
TOLD = st.lists(
    st.sampled_from([RUN, OTHER, "here: ", "\\\\", '\\"', '"', "\\n", "![image](data:image/png;base64,"]), max_size=4
)


def values(stream: bytes) -> tuple[str, list[Any]]:
    """Return the text that a stream tells in pieces, and all else, in their order."""
    text, others = "", list[Any]()
    for event in events(stream.decode()):
        try:
            document = json.loads(event.data)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            others.append(event)
            continue
        told = document.get("choices", [document])[0]
        told = told.get("delta", told)
        told = told if isinstance(told, dict) else document
        text += told.pop("content", "") + told.pop("delta", "")
        others += [document] if "image" in told else []
    return text, others


@given(
    frames=st.lists(st.tuples(st.sampled_from((*ENVELOPES[:1] * 4, *ENVELOPES)), TOLD.map("".join)), max_size=8),
    share=st.floats(0, 1),
)
def test_joined_frames_tell_what_they_told_apart(frames: list[tuple[str, str]], share: float) -> None:
    stream = "".join(envelope % text for envelope, text in frames).encode()
    for whole in (stream, stream[: int(share * len(stream))]):
        assert values(joined(whole)) == values(whole)


def test_frames_that_are_alike_are_joined_and_their_last_only_when_it_is_whole() -> None:
    stream = "".join(
        ENVELOPES[0] % text for text in (f"![image](data:image/png;base64,{RUN}", OTHER, RUN, ")")
    ).encode()
    assert len(list(events(joined(stream + b"data: [DONE]\n\n").decode()))) == 2
    assert len(list(events(joined(stream[:-60]).decode()))) == 2
    assert len(list(events(joined(stream[:-150]).decode()))) == 2


def test_frames_that_tell_all_so_far_stay_apart(answer: Callable[..., Any], make_job: Callable[..., Job]) -> None:
    made = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 400
    text = f"![image](data:image/png;base64,{base64.b64encode(made).decode()})"
    stream = "".join(ENVELOPES[0] % text[:end] for end in (*range(200, len(text), 20_000), len(text)))
    assert answer(make_job(), stream.encode()) == Inline(data=made)
