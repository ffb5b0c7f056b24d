"""Runs through proxies: all goes through, what a proxy refuses is never paid, and its password shows nowhere."""

from __future__ import annotations

import ssl
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.proxying import PASSWORD, USER, proxying

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchflux.testing.bank import Bank
    from batchflux.testing.program import Program
    from tests.proxying import Proxy

JOBS = "  - {id: a, prompt: 'job a #url', output_format: png}\n  - {id: b, prompt: 'job b #b64', output_format: png}\n"
CLOSE = b"Content-Length: 0\r\nConnection: close\r\n\r\n"


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with proxying() as made:
        yield made


def test_calls_and_downloads_go_through_the_proxy_of_the_environment(
    program: Program, bank: Bank, proxy: Proxy
) -> None:
    proxy.wants = True
    program.manifest(bank.url, JOBS)
    named = f"http://{USER}:{PASSWORD}@127.0.0.1:{proxy.port}"
    planned = program("plan", "m.yaml", http_proxy=named)
    assert f"proxy     http://127.0.0.1:{proxy.port} (the environment variable http_proxy)" in planned.out
    ended = program.run(http_proxy=named)
    assert (ended.code, program.pictures()) == (0, {"a", "b"})
    assert len(proxy.asked) == 3, "two calls, and a download"
    assert all(asked.split()[1].startswith(f"{bank.url}/") for asked in proxy.asked)
    kept = b"".join(path.read_bytes() for path in program.out.rglob("*") if path.is_file())
    assert PASSWORD.encode() not in kept + (planned.said + ended.said).encode()


@pytest.mark.slow
def test_the_simulator_is_near_whatever_the_environment_says(program: Program, proxy: Proxy) -> None:
    program.write("m.yaml", "version: 1\nname: m\nprovider: simulator\njobs:\n  - prompt: a mug\n")
    assert program.run(HTTP_PROXY=f"http://127.0.0.1:{proxy.port}", ALL_PROXY="no proxy at all").code == 0
    assert proxy.asked == []


@pytest.mark.slow
@pytest.mark.parametrize("status", ["403 Forbidden", "407 Who", "502 Bad Gateway", "503 Busy", "504 Late"])
def test_a_tunnel_that_is_refused_is_never_paid_and_tried_again(program: Program, proxy: Proxy, status: str) -> None:
    """Nothing was sent, so with patience the run waits; here it has none."""
    proxy.answers = [f"HTTP/1.1 {status}\r\n".encode() + CLOSE] * 50
    program.manifest("https://relay.example", "  - prompt: a\n", limits=", patience: 1s")
    ended = program.run("--set", f"provider.proxy=http://127.0.0.1:{proxy.port}")
    assert ended.code == 3
    assert f"the proxy http://127.0.0.1:{proxy.port} " in ended.out
    assert f"(HTTP {status[:3]})" in ended.out
    assert set(proxy.asked) == {"CONNECT relay.example:443"}
    summary = program.summary()
    assert (float(summary["spent"]), summary["possibly_billed"]) == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("status", ["407 Who", "502 Bad Gateway", "503 Busy"])
def test_what_a_proxy_did_not_pass_on_is_sent_again(program: Program, bank: Bank, proxy: Proxy, status: str) -> None:
    proxy.answers = [f"HTTP/1.1 {status}\r\n".encode() + CLOSE]
    program.manifest(bank.url, "  - {id: a, prompt: 'job a #b64', output_format: png}\n")
    assert program.run(HTTP_PROXY=f"http://127.0.0.1:{proxy.port}").code == 0
    [row] = program.rows()
    assert (row["attempts"], row["possibly_billed"]) == ("1", "0")
    assert bank.billed["a"] == 1


@pytest.mark.slow
def test_a_proxy_that_is_not_there_is_named(program: Program, bank: Bank) -> None:
    program.manifest(bank.url, "  - prompt: a\n", limits=", patience: 1s")
    ended = program.run(HTTP_PROXY="http://127.0.0.1:9")
    assert ended.code == 3
    assert "the proxy http://127.0.0.1:9 was not reached (connection refused)" in ended.out


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["http", "https", "socks5", "socks5h"])
def test_https_goes_through_proxies_of_all_kinds(program: Program, bank: Bank, scheme: str) -> None:
    """The program's own loop, TLS in TLS among it; the proxy resolves the name, which no other does."""
    authority = trustme.CA()
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("relay.example", "localhost").configure_cert(made)
    authority.cert_pem.write_to_path(str(program.folder / "ca.pem"))
    with ExitStack() as stack:
        near = stack.enter_context(proxying(made, to=int(bank.url.rpartition(":")[2])))  # TLS in front of the bank
        tls, socks = made if scheme == "https" else None, scheme.startswith("socks")
        proxy = stack.enter_context(proxying(tls, wants=True, socks=socks))
        program.manifest(
            f"https://relay.example:{near.port}", "  - {id: a, prompt: 'job a #b64', output_format: png}\n"
        )
        named = f"{scheme}://{USER}:{PASSWORD}@localhost:{proxy.port}"
        ended = program.run(ALL_PROXY=named, SSL_CERT_FILE=str(program.folder / "ca.pem"))
    assert (ended.code, program.pictures()) == (0, {"a"}), ended.said
    assert [asked.split()[1] for asked in proxy.asked] == [f"relay.example:{near.port}"]


def test_what_is_no_proxy_is_said_before_anything(program: Program, bank: Bank) -> None:
    program.manifest(bank.url, "  - prompt: a\n")
    for ended in (program.run(HTTP_PROXY="gopher://x:1"), program.run("--set", "provider.proxy=http://h/path")):
        assert ended.code == 2
        assert "no address of a proxy; allowed is" in ended.err
    assert not program.out.exists()
