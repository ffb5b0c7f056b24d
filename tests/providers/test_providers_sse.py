from __future__ import annotations

from collections import deque
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.providers.answers.sse import Event, EventTooLongError, SSEParser


def events_of(packets: list[bytes]) -> list[Event]:
    parser = SSEParser()
    found = [event for packet in packets for event in parser.feed(packet)]
    return found + parser.close()


def unnamed(*data: str) -> list[Event]:
    return [Event(name="message", data=one) for one in data]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: a\n\ndata: b\n\n", unnamed("a", "b")),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", unnamed("a", "b")),
        (b"data: a\r\rdata: b\r\r", unnamed("a", "b")),
        (b"data: a\r\n\ndata: b\n\r\n", unnamed("a", "b")),
        (b"\xef\xbb\xbfdata: a\n\n", unnamed("a")),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", []),
        (b": heartbeat\n\n:\n\ndata: a\n\n", unnamed("a")),
        (b"data: one\ndata: two\n\n", unnamed("one\ntwo")),
        (b"data\ndata\n\n", unnamed("\n")),
        (b"data:a\n\n", unnamed("a")),
        (b"data:  a\n\n", unnamed(" a")),
        (b"event: error\ndata: x\n\ndata: y\n\n", [Event(name="error", data="x"), *unnamed("y")]),
        (b"event: error\n\ndata: y\n\n", unnamed("y")),
        (b"id: 7\nretry: 10\nfoo: bar\nfoo\ndata: y\n\n", unnamed("y")),
        (b"data: last\n", unnamed("last")),
        (b"data: last", unnamed("last")),
        ("data: 进度 ❌\n\n".encode(), unnamed("进度 ❌")),
        (b"data: \xff\xe8\xbf\n\n", unnamed("\ufffd\ufffd")),
        (b"data: a\x0bb\x0cc\x1cd\n\n", unnamed("a\x0bb\x0cc\x1cd")),
        ("data: a\u2028b\x85c\n\n".encode(), unnamed("a\u2028b\x85c")),
        (b"", []),
        (b"\n\n\n", []),
    ],
)
def test_the_algorithm_at_every_packet_boundary(stream: bytes, expected: list[Event]) -> None:
    assert events_of([stream]) == expected
    assert events_of([stream[i : i + 1] for i in range(len(stream))]) == expected
    for cut in range(len(stream) + 1):
        assert events_of([stream[:cut], b"", stream[cut:]]) == expected


LINES = st.lists(
    st.sampled_from([b"data: x", b"data", b"data:\xe8\xbf\x9b", b"event: error", b":c", b"", b"\xef\xbb\xbf", b"\xff"]),
    max_size=12,
)
ENDS = st.lists(st.sampled_from([b"\n", b"\r", b"\r\n", b"\n\n", b"\r\n\r\n", b""]), min_size=12, max_size=12)


@given(lines=LINES, ends=ENDS, cuts=st.lists(st.integers(0, 200), max_size=10))
def test_any_split_gives_the_same_events(lines: list[bytes], ends: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(line + end for line, end in zip(lines, ends, strict=False))
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    packets = [stream[a:b] for a, b in pairwise(edges)]
    assert events_of(packets) == events_of([stream])


@pytest.mark.parametrize("packet", [b"x" * 100, b"data: " + b"x" * 94 + b"\n", b"data: x\ndata: " + b"y" * 93])
def test_an_event_is_bounded_in_one_line_and_in_many(packet: bytes) -> None:
    parser = SSEParser(longest=1000)
    with pytest.raises(EventTooLongError, match="1000 bytes"):
        deque((parser.feed(packet) for _ in range(11)), maxlen=0)


def test_many_events_and_comments_are_not_one_long_event() -> None:
    parser = SSEParser(longest=1000)
    for _ in range(1000):
        assert parser.feed(b": comment\ndata: " + b"x" * 100 + b"\n\n")
    for _ in range(1000):
        assert parser.feed(b": a comment within an event\n") == []


def test_a_line_of_20_mb_in_small_packets_is_linear() -> None:
    # 20 MB in 20,000 packets: joining again at every packet would move 200 GB and hit the test's timeout.
    parser = SSEParser()
    parser.feed(b"data: ")
    for _ in range(20_000):
        assert parser.feed(b"x" * 1000) == []
    (event,) = parser.feed(b"\n\n")
    assert len(event.data) == 20_000_000
