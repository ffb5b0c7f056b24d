"""Which proxy is asked for what, and what a link may lead to where a proxy resolves its name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from yarl import URL

from batchflux.errors import Code, JobError, UsageError
from batchflux.transport import Proxies
from batchflux.transport.connecting.proxies import Proxy
from tests.proxying import proxying

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def near() -> Iterator[Any]:
    with proxying() as made:
        yield made


def asked(environ: dict[str, str], url: str, named: str | None = None) -> str | None:
    proxy = Proxies.of(named, environ).for_url(URL(url))
    return None if proxy is None else str(proxy)


@pytest.mark.parametrize(
    ("environ", "url", "proxy"),
    [
        ({"HTTP_PROXY": "http://p:1"}, "http://x.example/", "http://p:1"),
        ({"HTTP_PROXY": "http://p:1"}, "https://x.example/", None),
        ({"https_proxy": "p:1/", "HTTPS_PROXY": "q:1"}, "https://x.example/", "http://p:1"),
        ({"https_proxy": "", "HTTPS_PROXY": "q:1", "ALL_PROXY": "r:1"}, "https://x.example/", None),
        ({"ALL_PROXY": "https://p"}, "http://x.example/", "https://p:443"),
        ({"all_proxy": "socks5h://p"}, "https://x.example/", "socks5h://p:1080"),
        ({"HTTPS_PROXY": "http://[::1]:3128"}, "https://x.example/", "http://[::1]:3128"),
        ({"HTTP_PROXY": "http://p:1", "REQUEST_METHOD": "GET"}, "http://x.example/", None),
        ({}, "https://x.example/", None),
    ],
)
def test_the_environment_says_which(environ: dict[str, str], url: str, proxy: str | None) -> None:
    assert asked(environ, url) == proxy


@pytest.mark.parametrize(
    ("entry", "excepted", "kept"),
    [
        ("*", "http://a.example/", None),
        ("example.com", "http://a.Example.com/", "http://notexample.com/"),
        (".example.com", "http://example.com/", "http://example.org/"),
        ("*.example.com", "http://a.example.com/", "http://example.com.org/"),
        ("a.example:8000", "http://a.example:8000/", "http://a.example/"),
        ("10.0.0.0/8", "http://10.1.2.3/", "http://11.1.2.3/"),
        ("10.1.2.3", "http://10.1.2.3:99/", "http://10.1.2.4/"),
        ("127.0.0.1:8000", "http://127.0.0.1:8000/", "http://127.0.0.1/"),
        ("fd00::/8", "http://[fd12::1]/", "http://[2001:db8::1]/"),
        ("[::1]:80", "http://[::1]/", "http://[::1]:81/"),
        ("x y,localhost", "http://localhost:8188/", "http://z/"),
    ],
)
def test_what_no_proxy_lists_is_asked_directly(entry: str, excepted: str, kept: str | None) -> None:
    environ = {"ALL_PROXY": "p:1", "no_proxy": entry}
    assert asked(environ, excepted) is None
    assert kept is None or asked(environ, kept) == "http://p:1"
    assert asked(environ, excepted, "http://own:2") == "http://own:2", "the manifest wins over all of the environment"
    assert asked(environ | {"no_proxy": ""}, excepted, "direct") is None


@pytest.mark.parametrize("text", ["gopher://p:1", "http://", "http://h:port", "http://h/path", "http://h:1?q", "a b"])
def test_what_is_no_proxy_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(UsageError, match="no address of a proxy") as caught:
        Proxies.of(None, {"HTTP_PROXY": text})
    assert text == "http://" or text not in str(caught.value)


def test_a_password_is_in_no_text_of_a_proxy() -> None:
    proxy = Proxy.of("http://me:s%40cret@p:1", "x")
    assert proxy.headers == {"Proxy-Authorization": "Basic bWU6c0BjcmV0"}
    assert "cret" not in f"{proxy} {proxy!r}"


@pytest.mark.parametrize(
    "link", ["http://127.0.0.1:8/p", "http://localhost/p", "http://store.internal./p", "http://nas/p"]
)
async def test_a_private_link_is_refused_where_a_proxy_resolves(connect: Any, near: Any, link: str) -> None:
    before = len(near.asked)
    transport = await connect("http://relay.example", proxies=Proxies.of(f"http://127.0.0.1:{near.port}", {}))
    with pytest.raises(JobError) as caught:
        await transport.fetch(link)
    assert (caught.value.code, len(near.asked)) == (Code.UNSAFE_URL, before)


async def test_the_providers_own_names_and_those_allowed_are_fetched_by_a_proxy(
    serve: Any, connect: Any, near: Any
) -> None:
    server = await serve(["read", b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\npicture"])
    proxies = Proxies.of(f"http://127.0.0.1:{near.port}", {})
    transport = await connect(
        f"http://relay.internal:{server.port}", proxies=proxies, allow_hosts=("store.internal", "127.0.0.1")
    )
    for host in ("relay.internal", "store.internal", "127.0.0.1", "x.example"):
        assert (await transport.fetch(f"http://{host}:{server.port}/p")).data == b"picture"
