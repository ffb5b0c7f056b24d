"""Fetching pictures: what is dialled, what travels along, what comes back, and what is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import re
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import uvloop
from aiohttp import ClientPayloadError, ClientSession
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from yarl import URL

from batchflux.errors import Code, JobError, StorageError, UsageError
from batchflux.testing.bank import picture_of
from batchflux.transport import DownloadSlots, Transport, TransportOptions, check_downloads
from batchflux.transport.body import Body
from batchflux.transport.connecting.connections import Until
from batchflux.transport.links import to_url
from batchflux.transport.wire_errors import shown
from tests.serving import ScriptedServer
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
MIB = 1 << 20
FIRST = b"100000\r\n" + b"x" * MIB + b"\r\n"


def ok(body: bytes, extra: bytes = b"") -> bytes:
    return HEAD + extra + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


def redirect(target: str, status: int = 302) -> bytes:
    return f"HTTP/1.1 {status} X\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode()


def left(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def contents(path: str) -> bytes:
    return Path(path).read_bytes()


async def fails(transport: Transport, url: str) -> JobError:
    with pytest.raises(JobError) as caught:
        await transport.fetch(url)
    assert "SIGNATURE" not in caught.value.message
    assert "\n" not in caught.value.message
    return caught.value


async def test_a_small_picture_comes_in_memory_without_credentials(serve: Any, connect: Any, tmp_path: Path) -> None:
    server = await serve(["read", ok(b"picture", b"Set-Cookie: a=1\r\n")])
    transport = await connect(server.url)
    link = server.url.replace("//", "//user:pass@") + "/a%2fb/%7Ex.png?sig=a%2Bb&c=d#part"
    fetched = await transport.fetch(link)
    assert (fetched.data, fetched.path, fetched.size) == (b"picture", None, 7)
    assert fetched.seconds >= 0
    await transport.fetch(link)
    for head, body in server.requests:
        assert head.startswith(b"GET /a%2fb/%7Ex.png?sig=a%2Bb&c=d HTTP/1.1\r\n")
        assert b"Accept-Encoding: identity\r\n" in head
        assert not any(name in head.lower() for name in (b"authorization", b"cookie", b"referer"))
        assert body == b""
    assert left(tmp_path) == []


@pytest.mark.parametrize("stray", [b"x", b"\r\n", HEAD, ok(b"other")], ids=["x", "line", "head", "answer"])
async def test_what_follows_a_picture_is_never_the_next_picture(serve: Any, connect: Any, stray: bytes) -> None:
    server = await serve(["read", ok(b"first"), "pause", stray, "hang"], ["read", ok(b"second")])
    transport = await connect(server.url)
    assert (await transport.fetch(server.url)).data == b"first"
    await server.gone.wait()
    assert (await transport.fetch(server.url)).data == b"second"
    assert server.connections == 2


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_picture_in_pieces_is_whole_on_either_loop(
    factory: Callable[[], asyncio.AbstractEventLoop], tmp_path: Path
) -> None:
    async def main() -> bytes | None:
        server = ScriptedServer(
            [
                [
                    "read",
                    *(
                        step
                        for piece in (b"HTTP/1.1 2", b"00 OK\r\nContent-Length: 4\r", b"\n\r\nab", b"cd")
                        for step in (piece, "pause")
                    ),
                ]
            ]
        )
        await server.start()
        options = TransportOptions(
            base_url=server.url, timeout=9, connections=1, max_bytes=MIB, spool_dir=str(tmp_path), idle_timeout=5
        )
        async with Transport(options) as transport:
            fetched = await transport.fetch(server.url)
        await server.stop()
        return fetched.data

    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(main()) == b"abcd"


async def test_a_link_with_illegal_characters_is_made_legal(serve: Any, connect: Any) -> None:
    server = await serve(["read", ok(b"x")])
    await (await connect(server.url)).fetch(server.url + "/größe one.png?a=b c")
    assert server.requests[0][0].startswith(b"GET /gr%C3%B6%C3%9Fe%20one.png?a=b+c HTTP/1.1\r\n")


async def test_a_large_picture_comes_as_a_file(serve: Any, connect: Any, tmp_path: Path) -> None:
    body = bytes(range(256)) * 12_000
    server = await serve(["read", ok(body)])
    fetched = await (await connect(server.url)).fetch(server.url)
    assert (fetched.data, fetched.size) == (None, len(body))
    assert fetched.path is not None
    assert fetched.path.startswith(f"{tmp_path}/.tmp-")
    assert contents(fetched.path) == body


@pytest.mark.parametrize("size", [0, MIB - 1, MIB, MIB + 1, 2 * MIB + 1])
async def test_around_the_bound_of_memory_all_bytes_come(serve: Any, connect: Any, size: int) -> None:
    body = b"ab" * (size // 2) + b"c" * (size % 2)
    server = await serve(["read", ok(body)])
    fetched = await (await connect(server.url)).fetch(server.url)
    assert (fetched.path is None) is (size <= MIB)
    assert fetched.size == size
    assert (fetched.data if fetched.path is None else contents(fetched.path)) == body


@pytest.mark.parametrize("others", [0, 300])
async def test_many_downloads_hold_no_more_in_memory_than_few(serve: Any, connect: Any, others: int) -> None:
    slots, body = DownloadSlots(1000, 1000), b"x" * (MIB // 2)
    server = await serve(["read", ok(body)])
    transport = await connect(server.url, slots=slots)
    async with AsyncExitStack() as stack:
        for _ in range(others):
            await stack.enter_async_context(slots)
        fetched = await transport.fetch(server.url)
    assert (fetched.path is None) is (others == 0)
    assert fetched.size == len(body)


FAULTS: dict[str, tuple[list[Any], str]] = {
    "closed": (["read"], "the connection was closed"),
    "reset": (["read", "reset"], "reset"),
    "short": (["read", HEAD + b"Content-Length: 99\r\n\r\nx"], "cut off"),
    "short chunks": (["read", CHUNKED + b"5\r\nhello\r\n"], "cut off"),
    "large, short": (["read", CHUNKED + FIRST + FIRST], "cut off"),
    "large, reset": (["read", CHUNKED + FIRST + FIRST, "reset"], "cut off"),
    "no http": (["read", b"hello\r\n\r\n"], "not HTTP"),
    "stalled": (["read", "hang"], "nothing came"),
    "large, stalled": (["read", CHUNKED + FIRST + FIRST, "hang"], "nothing came"),
    "says too big": (["read", HEAD + b"Content-Length: 99999999\r\n\r\n", "hang"], "larger than the 4 MiB allowed"),
    "is too big": (["read", CHUNKED, *[FIRST] * 9], "raise output.max_bytes"),
    "bomb": (["read", ok(gzip.compress(b"\0" * 50 * MIB), b"Content-Encoding: gzip\r\n")], "larger than"),
    "empty redirect": (["read", b"HTTP/1.1 302 X\r\nContent-Length: 0\r\n\r\n"], "answered 302"),
    "refused": (["read", b"HTTP/1.1 402 X\r\nContent-Length: 0\r\n\r\n"], "answered 402"),
}


@pytest.mark.parametrize(("script", "words"), FAULTS.values(), ids=FAULTS)
async def test_a_failed_download_says_why_and_leaves_nothing(
    serve: Any, connect: Any, tmp_path: Path, script: list[Any], words: str
) -> None:
    server = await serve(script)
    transport = await connect(server.url, idle_timeout=0.2 if "nothing" in words else 60)
    error = await fails(transport, server.url + "/a.png?sig=SIGNATURE")
    assert (error.code, error.dead, error.retry_after) == (Code.DOWNLOAD, False, None)
    assert error.message.startswith(f"{server.url}/a.png ")
    assert words in error.message
    assert left(tmp_path) == []


@pytest.mark.parametrize("side", [8, 300])
@pytest.mark.parametrize("more", [b"", b"more"], ids=["whole", "followed"])
async def test_a_whole_picture_whose_connection_broke_off_behind_it_is_taken(
    serve: Any, connect: Any, tmp_path: Path, more: bytes, side: int
) -> None:
    picture = picture_of("mug", side)
    server = await serve(["read", HEAD + b"Content-Length: 999999\r\n\r\n" + picture + more])
    transport = await connect(server.url, spool_over=1000)
    if more:
        assert "cut off" in (await fails(transport, server.url)).message
        assert left(tmp_path) == []
    else:
        fetched = await transport.fetch(server.url)
        assert (fetched.data or contents(fetched.path)) == picture


async def test_what_came_before_a_connection_broke_is_read_to_its_last_byte(serve: Any) -> None:
    """Also by who was busy when it came and when it broke."""
    server = await serve(["read", HEAD + b"Content-Length: 99\r\n\r\n" + b"x" * 10])
    async with ClientSession() as session, session.get(server.url) as response:
        await until(lambda: response.content.exception() is not None)
        body, ever = Body(response), Until(asyncio.get_running_loop().time() + 60)
        assert await body.next(ever) == b"x" * 10
        with pytest.raises(ClientPayloadError):
            await body.next(ever)


async def test_the_whole_download_is_bounded(serve: Any, connect: Any, tmp_path: Path) -> None:
    server = await serve(["read", CHUNKED + FIRST + FIRST, "hang"])
    error = await fails(await connect(server.url, download_timeout=0.2), server.url)
    assert (error.code, error.message) == (
        Code.DOWNLOAD,
        f"{server.url}/ could not be fetched: it took longer than allowed",
    )
    assert left(tmp_path) == []


@pytest.mark.parametrize(("status", "dead"), [(404, True), (410, True), (402, False), (500, False)])
async def test_a_picture_that_is_gone_is_dead(serve: Any, connect: Any, status: int, dead: bool) -> None:  # noqa: FBT001  a table's column
    server = await serve(["read", f"HTTP/1.1 {status} X\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n".encode()])
    error = await fails(await connect(server.url), server.url)
    assert (error.code, error.dead, error.retry_after) == (Code.DOWNLOAD, dead, None)


@pytest.mark.parametrize("status", [401, 403, 451])
async def test_a_refused_picture_is_not_gone(serve: Any, connect: Any, status: int) -> None:
    refusal = f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode()
    server = await serve(["read", refusal], ["read", ok(b"picture")])
    transport = await connect(
        server.url, download_headers={"user-agent": "Mozilla/5.0", "Referer": "https://r.example/"}
    )
    error = await fails(transport, server.url + "/a.png?sig=SIGNATURE")
    assert (error.code, error.dead) == (Code.DOWNLOAD, False)
    assert f"refused the picture (HTTP {status})" in error.message
    assert "provider.download_headers" in error.message
    assert (await transport.fetch(server.url)).data == b"picture"
    for head, _ in server.requests:
        assert head.count(b"\r\nUser-Agent: ") + head.count(b"\r\nuser-agent: Mozilla/5.0\r\n") == 1
        assert b"\r\nReferer: https://r.example/\r\n" in head


async def test_over_a_redirect_to_another_host_only_harmless_headers_travel(serve: Any, connect: Any) -> None:
    there = await serve(["read", ok(b"x")])
    here = await serve(["read", redirect("/again")], ["read", redirect(f"{there.url}/x")])
    secret = {"Authorization": "Bearer t", "Cookie": "c=1", "X-Api-Key": "k", "X-Session": "s"}
    headers = {"User-Agent": "Mozilla/5.0", "Referer": "https://r.example/", **secret}
    transport = await connect(here.url, download_headers=headers, allow_hosts=(f"127.0.0.1:{there.port}",))
    assert (await transport.fetch(here.url)).data == b"x"
    assert [b"Bearer t" in head for head, _ in (*here.requests, *there.requests)] == [True, True, False]
    head = there.requests[0][0].lower()
    assert b"user-agent: mozilla/5.0\r\n" in head
    assert b"referer: https://r.example/\r\n" in head
    assert not any(name.lower().encode() + b":" in head for name in secret)


@pytest.mark.parametrize(
    "headers", [{"Host": "h"}, {"content-length": "1"}, {"A B": "c"}, {"": "c"}, {"A": "b\r\nC: d"}, {"A": "\0"}]
)
async def test_headers_that_cannot_be_sent_are_refused_before_anything(connect: Any, headers: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"provider\.download_headers"):
        await connect("http://h", download_headers=headers)


ALLOWING = [
    "127.0.0.1:{port}",
    "127.0.0.1",
    "127.0.0.0/8",
    "localhost:{port}",
    "LOCALHOST",
    "[::1]:{port} 127.0.0.1:{port}",
]


@pytest.mark.parametrize("entries", ALLOWING)
async def test_a_private_host_that_the_user_allowed_is_fetched(serve: Any, connect: Any, entries: str) -> None:
    inside = await serve(["read", ok(b"x")])
    host = "localhost" if "localhost" in entries.lower() else "127.0.0.1"
    transport = await connect("http://nowhere.invalid", allow_hosts=tuple(entries.format(port=inside.port).split()))
    assert (await transport.fetch(f"http://{host}:{inside.port}/x.png")).data == b"x"
    redirecting = await serve(["read", redirect(f"http://{host}:{inside.port}/x.png")])
    transport = await connect(redirecting.url, allow_hosts=tuple(entries.format(port=inside.port).split()))
    assert (await transport.fetch(redirecting.url)).data == b"x"


@pytest.mark.parametrize("entry", ["127.0.0.1:9", "127.0.0.2", "10.0.0.0/8", "localhost:9", "relay.internal", "::1"])
async def test_what_the_user_allowed_allows_nothing_else(serve: Any, connect: Any, entry: str) -> None:
    inside = await serve(["read", ok(b"secret")])
    transport = await connect("http://nowhere.invalid", allow_hosts=(entry,))
    for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]"):
        error = await fails(transport, f"http://{host}:{inside.port}/a.png?sig=SIGNATURE")
        assert error.code is Code.UNSAFE_URL
        assert f"add {host}:{inside.port} to provider.allow_hosts" in error.message
    assert inside.connections == 0


async def test_the_host_that_a_redirect_led_to_is_the_one_named(serve: Any, connect: Any) -> None:
    server = await serve(["read", redirect("http://10.1.2.3:8000/x?sig=SIGNATURE")])
    error = await fails(await connect(server.url), server.url)
    assert error.code is Code.UNSAFE_URL
    assert error.message.startswith("http://10.1.2.3:8000/x leads to an address that is not public")


@pytest.mark.parametrize("entry", ["", "a b", "http://h", "h:0x1", "h:99999", "[h]:1", "h/24", "10.0.0.0/33", "a:1:2"])
def test_an_entry_that_names_no_host_is_a_usage_error(entry: str) -> None:
    with pytest.raises(UsageError, match=r"provider\.allow_hosts: found .*; allowed is"):
        check_downloads([entry], {})


@pytest.mark.parametrize("status", [429, 503])
async def test_a_busy_server_is_given_the_time_it_asks_for(serve: Any, connect: Any, status: int) -> None:
    server = await serve(["read", f"HTTP/1.1 {status} X\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n".encode()])
    assert (await fails(await connect(server.url), server.url)).retry_after == 5


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_ten_redirects_are_followed(serve: Any, connect: Any, status: int) -> None:
    hops = [redirect(target, status) for target in ("/b?x=%2f", "c", "../d", *map(str, range(7)))]
    server = await serve(*[["read", hop] for hop in hops], ["read", ok(b"x")])
    assert (await (await connect(server.url)).fetch(server.url + "/a/a")).data == b"x"
    paths = [head.split(b" ")[1] for head, _ in server.requests]
    assert paths == [b"/a/a", b"/b?x=%2f", b"/c", b"/d", *(b"/%d" % number for number in range(7))]


async def test_an_eleventh_redirect_is_not_followed(serve: Any, connect: Any) -> None:
    server = await serve(["read", redirect("/again?sig=SIGNATURE")])
    error = await fails(await connect(server.url), server.url)
    assert (error.code, len(server.requests)) == (Code.DOWNLOAD, 11)
    assert "more than 10 redirects" in error.message


async def test_a_redirect_takes_no_credentials_along(serve: Any, connect: Any) -> None:
    server = await serve(["read", redirect("http://user:pass@127.0.0.1:PORT/")], ["read", ok(b"x")])
    server._scripts[0][1] = server._scripts[0][1].replace(b"PORT", str(server.port).encode())
    await (await connect(server.url)).fetch(server.url)
    assert b"authorization" not in server.requests[1][0].lower()


UNSAFE = [
    "http://127.0.0.1:{port}/",
    "http://localhost:{port}/",
    "http://[::1]:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://0.0.0.0:{port}/",
    "http://[::]:{port}/",
    "http://127.1:{port}/",
    "http://2130706433:{port}/",
    "http://0x7f.0.0.1:{port}/",
    "http://169.254.169.254/latest/meta-data/",
    "http://[fd00:ec2::254]/",
    "http://[fe80::1%25lo]:{port}/",
    "http://[64:ff9b::7f00:1]/",
    "http://168.63.129.16/",
    "http://100.100.100.200/",
    "https://10.0.0.1/",
    "file:///etc/passwd",
    "ftp://127.0.0.1:{port}/",
    "data:image/png;base64,AAAA",
    "http://[::1",
    "http://h:99999/",
    f"http://{'x' * 64}.example/",
    "http://a..example/",
]
NO_ADDRESS = ["http://", "http:///x", "//127.0.0.1/", "/relative", "", "\0"]


@pytest.mark.parametrize("link", [*UNSAFE, *NO_ADDRESS])
async def test_a_link_to_what_is_not_public_is_never_dialled(serve: Any, connect: Any, link: str) -> None:
    provider, inside = await serve(["hang"]), await serve(["read", ok(b"secret")])
    error = await fails(await connect(provider.url), link.format(port=inside.port))
    assert error.code is Code.UNSAFE_URL
    assert inside.connections == 0


@pytest.mark.parametrize("link", UNSAFE)
async def test_a_redirect_to_what_is_not_public_is_never_dialled(serve: Any, connect: Any, link: str) -> None:
    inside = await serve(["read", ok(b"secret")])
    provider = await serve(["read", redirect(link.format(port=inside.port))])
    error = await fails(await connect(provider.url), provider.url)
    assert error.code is Code.UNSAFE_URL
    assert inside.connections == 0


async def test_the_providers_own_origin_is_trusted_by_name_too(serve: Any, connect: Any) -> None:
    server, inside = await serve(["read", ok(b"x")]), await serve(["read", ok(b"secret")])
    transport = await connect(f"http://localhost:{server.port}")
    assert (await transport.fetch(f"http://localhost:{server.port}/")).data == b"x"
    assert (await fails(transport, f"http://localhost:{inside.port}/")).code is Code.UNSAFE_URL


async def test_the_providers_own_address_is_trusted_before_the_first_call(serve: Any, connect: Any) -> None:
    server = await serve(["read", ok(b"x")])
    assert (await (await connect(f"http://localhost:{server.port}")).fetch(server.url)).data == b"x"
    error = await fails(await connect("http://nowhere.invalid"), server.url)
    assert error.code is Code.UNSAFE_URL


async def test_a_name_with_a_fixed_address_is_trusted_there_only(serve: Any, connect: Any) -> None:
    server, inside = await serve(["read", ok(b"x")]), await serve(["read", ok(b"secret")])
    transport = await connect("http://simulator.localhost", resolve={"simulator.localhost": ("127.0.0.1", server.port)})
    assert (await transport.fetch("http://simulator.localhost/x.png")).data == b"x"
    assert (await transport.fetch(f"{server.url}/x.png")).data == b"x"
    assert (await fails(transport, inside.url)).code is Code.UNSAFE_URL


ODD = [
    "[]@",
    "]&[@",
    "[é:]/",
    "a%。b/",
    "%。/",
    "[::1%25。]/",
    "xn--a/",
    "a b/",
    "[v1.x]/",
    "a..b/",
    "h:0/",
    "@/",
    "é/\x7f",
    "h\udcff/",
]
ODD_TEXT = st.text(st.one_of(st.sampled_from("[]@%:/\\&?#.。é\0\udc80\x7f 10x"), st.characters()), max_size=12)
ANY_LINK = st.builds("{}{}{}".format, st.sampled_from(["http://", "https://", "//", "", "HTTP:/"]), ODD_TEXT, ODD_TEXT)


async def test_an_odd_link_is_its_own_jobs_fault(connect: Any) -> None:
    transport = await connect("http://nowhere.invalid")

    @settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
    @given(ANY_LINK)
    def parsed(link: str) -> None:
        for base in (None, URL("http://127.0.0.1:9/a/b")):
            with contextlib.suppress(JobError):
                url = to_url(link, base)
                assert re.fullmatch("[!-~]+", str(url))
                assert shown(url).startswith(("http://", "https://"))

    parsed()
    for link in ODD:
        assert (await fails(transport, f"http://{link}")).code in {Code.UNSAFE_URL, Code.DOWNLOAD}


@pytest.mark.parametrize("link", ["http://127.1/a.png", "https://u:p@h_\u00e4\x7f/x", "HTTP://h:0x/a"])
def test_a_link_with_an_odd_host_is_told_from_one_of_another_scheme(link: str) -> None:
    with pytest.raises(
        JobError, match=r"the link has a host \(or port\) that is none, '[^/@]+', or a character"
    ) as caught:
        to_url(link)
    assert "u:p" not in str(caught.value)
    with pytest.raises(JobError, match="no http or https URL \\(scheme 'ftp'\\)"):
        to_url("ftp://h.example/a.png")


@pytest.mark.parametrize("odd", ODD)
async def test_an_odd_redirect_is_its_own_jobs_fault(serve: Any, connect: Any, odd: str) -> None:
    head = f"HTTP/1.1 302 X\r\nLocation: http://{odd}\r\nContent-Length: 0\r\n\r\n"
    server = await serve(["read", head.encode(errors="surrogateescape")])
    assert (await fails(await connect(server.url), server.url)).code in {Code.UNSAFE_URL, Code.DOWNLOAD}


async def test_a_cancelled_download_leaves_nothing(serve: Any, connect: Any, tmp_path: Path) -> None:
    server = await serve(["read", CHUNKED + FIRST + FIRST, "hang"])
    transport = await connect(server.url)
    for turns in range(0, 60, 3):
        task = asyncio.create_task(transport.fetch(server.url))
        for _ in range(turns):
            await asyncio.sleep(0.001)
            if left(tmp_path):
                break
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert left(tmp_path) == []


async def test_a_spool_folder_that_cannot_be_written_stops_the_run(serve: Any, connect: Any, tmp_path: Path) -> None:
    server = await serve(["read", CHUNKED + FIRST + FIRST + b"0\r\n\r\n"])
    transport = await connect(server.url, spool_dir=str(tmp_path / "missing"))
    with pytest.raises(StorageError, match=r"cannot keep a download in .*missing"):
        await transport.fetch(server.url)
