from __future__ import annotations

import pytest

from batchflux.providers.answers.sse import Event, events


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
