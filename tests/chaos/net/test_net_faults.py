"""Everything else that a network does: it is slow, silent, not there, not HTTP, without end, or answers twice.

Each fault has its code, and its place on one side of the line: free (nothing left), or possibly billed (it left).
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import shutil
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.errors import Code, JobError
from batchflux.transport import Transport, TransportOptions
from tests.ports import kept_port

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chaos.net.conftest import Net, Origin, Program

Verdict = tuple[str, str, str, str, str]  # status, error_code, attempts, possibly_billed, cost
DONE: Verdict = ("done", "", "1", "0", "0.14")
UNKNOWN: Verdict = ("unknown", "unknown", "2", "2", "0")  # sent again once
NOT_UNDERSTOOD: Verdict = ("failed", "bad_answer", "2", "2", "0")  # as often as attempts allow
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
BIG = 200 << 20


def verdicts(program: Program) -> list[Verdict]:
    return [
        (row["status"], row["error_code"], row["attempts"], row["possibly_billed"], row["cost"])
        for row in program.rows()
    ]


def answer_of(net: Net, name: str) -> bytes:
    return json.dumps({"data": [{"url": f"{net.url}/files/{name}"}], "created": 1}).encode()


def framings(net: Net) -> dict[str, tuple[bytes, Verdict]]:
    """What an answer's frame can be, as `name: (bytes, verdict)`; the connection stays open behind it."""
    known = answer_of(net, "right")
    net.origin.files["right"] = net.picture()
    chunk = b"%x\r\n%b\r\n" % (len(known), known)
    in_chunks = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    packed = gzip.compress(known)
    size = b"Content-Length: %d\r\n" % len(known)
    return {
        "toolong": (HEAD + b"Content-Length: 9000\r\n\r\n" + known, DONE),
        "tooshort": (HEAD + b"Content-Length: 20\r\n\r\n" + known, NOT_UNDERSTOOD),  # what follows is nobody's
        "nolength": (HEAD + b"\r\n" + known, DONE),
        "twice": (HEAD + size + b"Content-Length: 5\r\n\r\n" + known, UNKNOWN),
        "negative": (HEAD + b"Content-Length: -5\r\n\r\n" + known, DONE),  # no number says nothing
        "words": (HEAD + b"Content-Length: many\r\n\r\n" + known, DONE),
        "huge": (HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n" + known, UNKNOWN),
        "both": (HEAD + size + b"Transfer-Encoding: chunked\r\n\r\n" + chunk + b"0\r\n\r\n", DONE),  # chunks win
        "chunks": (in_chunks + chunk + b"0\r\n\r\n", DONE),
        "nolast": (in_chunks + chunk, DONE),
        "badsize": (in_chunks + b"zz\r\n" + known, UNKNOWN),
        "badlater": (in_chunks + chunk + b"zz\r\nrest", DONE),  # it had come whole
        "hugechunk": (in_chunks + b"fffffffffffffffffffff\r\n" + known, UNKNOWN),
        "gzip": (HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed, DONE),
        "nogzip": (HEAD + b"Content-Encoding: gzip\r\n" + size + b"\r\n" + known, DONE),
        "nohttp": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n" + known, UNKNOWN),
        "nostatus": (b"HTTP/1.1 abc\r\n\r\n" + known, UNKNOWN),
        "empty": (HEAD + b"Content-Length: 0\r\n\r\n", NOT_UNDERSTOOD),
        "nul": (HEAD + b"X-Thing: a\0b\r\n" + size + b"\r\n" + known, DONE),
        "noheaders": (HEAD[:20], UNKNOWN),
        "continues": (b"HTTP/1.1 100 Continue\r\n\r\n" * 5000 + HEAD + size + b"\r\n" + known, DONE),
    }


def test_a_frame_that_is_wrong_is_read_as_far_as_it_can_be_trusted(net: Net, program: Program) -> None:
    cases = framings(net)
    net.origin.answers |= {name: raw for name, (raw, _) in cases.items()}
    ended = program.run(net.url, [f"#{name} cat" for name in cases], timeout="2s", attempts=2)
    assert ended.code == 1, ended.err
    found = dict(zip(cases, verdicts(program), strict=True))
    assert found == {name: verdict for name, (_, verdict) in cases.items()}
    for path in program.images():
        assert path.read_bytes() == net.picture()


def test_a_slow_provider(net: Net, program: Program) -> None:
    cases = ["@late:300 cat", "@drip:1 cat", "~late:300 cat", "~drip:1 cat"]
    ended = program.run(net.url, cases)
    assert ended.code == 0, ended.err
    assert verdicts(program) == [DONE] * len(cases)
    assert set(net.origin.fetched.values()) == {1}


def test_a_silent_provider(net: Net, program: Program) -> None:
    cases: dict[str, Verdict] = {
        "@drip:1000 cat": UNKNOWN,  # a byte a second
        "@half:0 cat": UNKNOWN,
        "@half:50 cat": UNKNOWN,
        "@half:100 cat": UNKNOWN,
        "@late:9000 cat": UNKNOWN,
        "@half:0*1 cat": ("done", "", "2", "1", "0.14"),
    }
    ended = program.run(net.url, list(cases), timeout="1.5s")
    assert ended.code == 1, ended.err
    assert dict(zip(cases, verdicts(program), strict=True)) == cases
    assert set(net.origin.fetched.values()) == {1}


async def fetching(net: Net, folder: Path, name: str, **options: Any) -> JobError:
    settings: dict[str, Any] = {"timeout": 5, "connections": 4, "max_bytes": 1 << 20, **options}
    known = TransportOptions(base_url=net.url, spool_dir=str(folder), **settings)
    async with Transport(known) as transport:
        with pytest.raises(JobError) as caught:
            await transport.fetch(f"{net.url}/files/{name}")
    assert os.listdir(folder) == [], "nothing half-fetched is left"  # noqa: PTH208  brief, in a coroutine
    return caught.value


@pytest.mark.parametrize("fault", ["~drip:1000", "~half:0", "~half:50", "~half:140", "~late:5000"])
async def test_a_download_that_hardly_comes_is_given_up(net: Net, tmp_path: Path, fault: str) -> None:
    for bound in ({"download_timeout": 0.5}, {"idle_timeout": 0.5}):
        if bound == {"idle_timeout": 0.5} and fault == "~drip:1000":
            bound["idle_timeout"] = 0.2
        error = await fetching(net, tmp_path, f"x{fault}", **bound)
        assert (error.code, error.dead) == (Code.DOWNLOAD, False)


@pytest.mark.parametrize(
    ("base_url", "words"),
    [
        ("http://127.0.0.1:{port}", "connection refused"),
        ("http://nowhere.invalid", "the name does not resolve"),
    ],
)
def test_who_was_not_reached_was_not_paid(net: Net, program: Program, base_url: str, words: str) -> None:
    with kept_port() as port:
        ended = program.run(base_url.format(port=port), ["cat", "dog"], attempts=2, patience="1s")
    met = program.held(ended, 2)
    assert met
    for error in met:
        assert words in error
        assert "nothing was sent" in error
    assert program.run(net.url, ["cat", "dog"], attempts=2).code == 0
    assert verdicts(program) == [DONE] * 2, "nobody lost an attempt"


def test_a_full_queue_at_the_providers_door_is_free(net: Net, program: Program) -> None:
    # A listener that accepts nobody and whose queue is full: no connection comes to be.
    with socket.socket() as door, socket.socket() as first, socket.socket() as second:
        door.bind(("127.0.0.1", 0))
        door.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(door.getsockname())
        time.sleep(0.1)
        port = door.getsockname()[1]
        ended = program.run(f"http://127.0.0.1:{port}", ["cat"], attempts=1, timeout="1s", patience="1s")
    assert all("nothing was sent" in error for error in program.held(ended, 1))
    assert program.run(net.url, ["cat"], attempts=1).code == 0
    assert verdicts(program) == [DONE]


async def spoken_twice(origin: Origin, prompt: str, writer: asyncio.StreamWriter) -> None:
    """Answer, then answer again with a picture that nobody ordered: at once, or while the connection lies idle.

    It does for a third of a second, for that is the rate.
    """
    wrong = origin.standard("unordered")
    writer.write(origin.standard(prompt) + (wrong if "at once" in prompt else b""))
    await writer.drain()
    if "later" in prompt:
        await asyncio.sleep(0.02)
        writer.write(wrong)


@pytest.mark.parametrize("when", ["at once", "later"])
def test_an_answer_too_many_is_never_taken_for_the_next_jobs(net: Net, program: Program, when: str) -> None:
    unordered = net.origin.name_for("unordered")
    net.origin.files[unordered] = net.picture((9, 200, 9))
    net.origin.answers["two"] = spoken_twice
    jobs = [f"#two {when} {number}" if number % 2 else f"cat {number}" for number in range(6)]
    assert program.run(net.url, jobs, concurrency=1, rate="3/s").code == 0
    assert net.origin.fetched[unordered] == 0
    assert {path.read_bytes() for path in program.images()} <= {net.picture()}
    assert set(net.origin.posts().values()) == {1}


async def long_headers(_origin: Origin, prompt: str, writer: asyncio.StreamWriter) -> None:
    """100 MB of headers: in one line, or in many."""
    writer.write(HEAD)
    line = b"a" * (1 << 20) if "oneline" in prompt else (b"X-Thing: " + b"b" * 200 + b"\r\n") * 5000
    for _ in range(100):
        writer.write(line)
        await writer.drain()


def endless(piece: bytes, head: bytes = b"") -> Any:
    async def say(_origin: Origin, _prompt: str, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + head + b"\r\n")
        for _ in range(BIG // len(piece)):
            writer.write(piece)
            await writer.drain()

    return say


def bombs() -> dict[str, tuple[Any, Verdict]]:
    """Answers that have no end, or none that anyone has room for; `BIG` bytes stand for without end."""
    zeros = gzip.compress(bytes(BIG), 1)
    packed = b"Content-Encoding: gzip\r\nContent-Length: %d\r\n" % len(zeros)
    content = b'data: {"choices": [{"delta": {"content": "%b"}}]}\n\n' % (b"a" * 65_000)
    return {
        "oneline": (long_headers, UNKNOWN),
        "manylines": (long_headers, UNKNOWN),
        "json": (endless(b'{"data": [' + b" " * 65_000), NOT_UNDERSTOOD),
        "content": (endless(content), NOT_UNDERSTOOD),
        "event": (endless(b"data: " + b"a" * 65_000), NOT_UNDERSTOOD),
        "blanks": (endless(b" " * 65_536), NOT_UNDERSTOOD),
        "comments": (endless(b": heartbeat\n\n" * 5000), NOT_UNDERSTOOD),
        "gzipbomb": (HEAD + packed + b"\r\n" + zeros, NOT_UNDERSTOOD),
    }


@pytest.mark.slow
def test_answers_without_end_are_given_up_in_bounded_memory(net: Net, program: Program) -> None:
    program.apart, cases = True, bombs()
    net.origin.answers |= {name: answer for name, (answer, _) in cases.items()}
    quiet = program.run(net.url, ["cat"])
    shutil.rmtree(program.folder / "out")
    ended = program.run(net.url, [f"#{name} cat" for name in cases], "--set", "output.max_bytes=4MB", attempts=2)
    assert ended.code == 1, ended.err
    assert dict(zip(cases, verdicts(program), strict=True)) == {name: verdict for name, (_, verdict) in cases.items()}
    assert ended.peak < quiet.peak + 160, "eight answers at once, each of at most 6.6 MB, held up to three times"


def test_downloads_without_end_are_given_up_in_bounded_memory(net: Net, program: Program) -> None:
    program.apart = True
    cases = {name: answer for name, (answer, _) in bombs().items() if name not in {"content", "event", "comments"}}
    for name, answer in cases.items():
        net.gives(name, answer)
    quiet = program.run(net.url, ["cat"])
    shutil.rmtree(program.folder / "out")
    ended = program.run(net.url, [f"#{name} cat" for name in cases], "--set", "output.max_bytes=4MB", attempts=2)
    assert ended.code == 1, ended.err
    assert verdicts(program) == [("failed", "download", "1", "0", "0.14")] * len(cases)
    assert program.images() == []
    assert ended.peak < quiet.peak + 60
    assert not list((program.folder / "out/m/.spool").iterdir())


def test_an_api_that_redirects_is_not_followed_and_costs_nothing(net: Net, program: Program) -> None:
    for status in (301, 302, 303, 307, 308):
        head = f"HTTP/1.1 {status} Moved\r\nLocation: {net.url}/elsewhere\r\nContent-Length: 0\r\n\r\n"
        net.origin.answers[f"moved{status}"] = head.encode()
    assert program.run(net.url, [f"#{name} cat" for name in net.origin.answers], attempts=2).code == 1
    assert verdicts(program) == [("failed", "bad_answer", "1", "0", "0")] * 5
    assert {asked.path for asked in net.origin.asked} == {"/v1/images/generations"}


def test_a_link_that_leads_in_a_circle_is_followed_ten_times(net: Net, program: Program) -> None:
    net.gives("circle", b"HTTP/1.1 302 Found\r\nLocation: circle\r\nContent-Length: 0\r\n\r\n")
    assert program.run(net.url, ["#circle cat"], attempts=1).code == 1
    assert verdicts(program) == [("failed", "download", "1", "0", "0.14")]
    assert net.origin.fetched["circle"] == 11
