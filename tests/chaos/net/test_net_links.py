"""Links in answers that lead where nobody outside may send us: not one of them is dialled.

Proved from both ends: listeners on every address of this machine count who knocks, and the loop says which addresses
it was asked to connect to.
"""

from __future__ import annotations

import asyncio
import errno
import json
import random
import socket
from ipaddress import IPv4Address, ip_address
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from batchflux.errors import Code, JobError
from batchflux.transport import Transport, TransportOptions
from batchflux.transport.connecting import connections

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.chaos.net.conftest import Net, Program

NAME = "rebound.example"


def spellings(port: int) -> list[str]:
    """127.0.0.1 and its kin, in every way that some program somewhere reads as an address."""
    here = int(IPv4Address("127.0.0.1"))
    hosts = [
        *("127.0.0.1", "127.0.0.2", "127.255.255.254", "0.0.0.0", "localhost", "LOCALHOST", "localhost."),  # noqa: S104
        *("ip6-localhost", "a.localhost", "127.1", "127.0.1", str(here), hex(here), oct(here).replace("o", "")),
        *("0x7f.0.0.1", "0177.0.0.1", "0x7f.1", "127.0.0.1.", "127.000.000.001", "0127.0.0.1", "%31%32%37.0.0.1"),
        *("１２７.０.０.１", "127。0。0。1", "①②⑦.⓪.⓪.①", "ⓛocalhost", "127.0.0.1%00.example"),  # noqa: RUF001
        *("[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]"),
        *("[64:ff9b::7f00:1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[2001:0:7f00:1::]", "[::1%25lo]"),
        *("[2001:0:808:808:0:0:80ff:fffe]", "[fe80::1%25lo]", "[fe80::5efe:7f00:1]", socket.gethostname()),
    ]
    return [f"http://{host}:{port}/p.png" for host in hosts]


ELSEWHERE = [
    *("http://169.254.169.254/latest/meta-data/", "http://169.254.170.2/v2/credentials", "http://[fd00:ec2::254]/"),
    *("http://metadata.google.internal/", "http://100.100.100.200/", "http://168.63.129.16/", "http://192.0.0.192/"),
    *("http://10.0.0.1/", "http://172.16.0.1/", "http://192.168.0.1/", "http://100.64.0.1/", "http://198.18.0.1/"),
    *("http://224.0.0.1/", "http://239.255.255.250:1900/", "http://255.255.255.255/", "http://240.0.0.1/"),
    *("http://[fc00::1]/", "http://[fd12:3456::1]/", "http://[ff02::1]/", "http://[fec0::1]/", "http://[2001:db8::1]/"),
    *("http://[::ffff:10.0.0.1]/", "http://[64:ff9b::a00:1]/", "http://[2002:a00:1::1]/", "http://[::ffff:a9fe:a9fe]/"),
    *("http://0/", "http://0x0a000001/", "http://2852039166/", "http://0xa9fea9fe/", "http://0251.0376.0251.0376/"),
    *("file:///etc/passwd", "gopher://127.0.0.1/", "ftp://127.0.0.1/p.png", "http://user@127.0.0.1/"),
    *("http://cdn.example@127.0.0.1/", "http://127.0.0.1:80\\@cdn.example/", "http://user:pw@[::1]/p.png"),
]
# Names like any other: whether they lead inside is known once they resolve, and here they may not.
NAMES = ("metadata.google", "localhost.:", "ip6-", "a.localhost", "%31", "%00", socket.gethostname())


class Knocks:
    """A listener on one port of all addresses of this machine, which counts.

    The port is none that the system gives: clients of other tests, whose server had it before, knock at those.
    """

    def __init__(self) -> None:
        self.sockets = self._bound()
        self.port = self.sockets[0].getsockname()[1]
        for one in self.sockets:
            one.listen(128)
            one.setblocking(False)

    @staticmethod
    def _bound() -> list[socket.socket]:
        while True:
            made = [socket.socket(family) for family in (socket.AF_INET, socket.AF_INET6)]
            made[1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            port = random.SystemRandom().randrange(10_000, 32_000)
            try:
                for one in made:
                    one.bind(("", port))
            except OSError:  # it is somebody's
                for one in made:
                    one.close()
                continue
            return made

    def count(self) -> int:
        """How many connections wait to be accepted: the system completes them without us."""
        found = 0
        for one in self.sockets:
            while True:
                try:
                    one.accept()[0].close()
                except BlockingIOError:
                    break
                found += 1
        return found


@pytest.fixture
def knocks() -> Iterator[Knocks]:
    made = Knocks()
    yield made
    for one in made.sockets:
        one.close()


def test_the_listener_counts(knocks: Knocks) -> None:
    for address in ("127.0.0.1", "127.0.0.2", "::1", "::ffff:127.0.0.1"):
        socket.create_connection((address, knocks.port)).close()
    counted = 0
    while counted < 4:  # the system may be about to complete the last of them
        counted += knocks.count()


@pytest.mark.parametrize("style", ["standard", "chat"])
def test_no_answer_leads_the_program_anywhere_inside(net: Net, program: Program, knocks: Knocks, style: str) -> None:
    links = [*spellings(knocks.port), *ELSEWHERE]
    for number, link in enumerate(links):
        hop = json.dumps({"data": [{"url": link}]}).encode()
        net.origin.answers[f"to{number}"] = (
            net.framed(hop)
            if style == "standard"
            else net.chunked([net.frame(f"![image]({link})"), b"data: [DONE]\n\n"])
        )
        moved = f"HTTP/1.1 302 Found\r\nLocation: {link}\r\nContent-Length: 0\r\n\r\n".encode()
        net.gives(f"via{number}", moved)
    found: dict[str, dict[str, str]] = {}
    jobs = [f"#{kind}{number} cat" for number in range(len(links)) for kind in ("to", "via")]
    named = [job for job in jobs if any(name in links[int(job.split()[0].strip("#tovia"))] for name in NAMES)]
    for some, codes in (([job for job in jobs if job not in named], {1}), (named, {1, 3})):
        ended = program.run(net.url, some, style=style, attempts=1, patience="1s")
        assert ended.code in codes, ended.err
        found |= {row["prompt"]: row for row in program.rows()}
    assert knocks.count() == 0
    allowed = {
        link: {"unsafe_url"}
        | ({"download"} if any(name in link for name in NAMES) else set())
        | ({"bad_answer"} if "\\" in link else set())  # no two programs read it alike: not understood
        for link in links
    }
    wrong = []
    assert set(jobs) - set(found) <= set(named), "what does not resolve is left for another run"
    for prompt, row in found.items():
        link = links[int(prompt.split()[0].strip("#tovia"))]
        if row["status"] != "failed" or row["error_code"] not in allowed[link] or row["attempts"] != "1":
            wrong.append((link, prompt, row["status"], row["error_code"], row["error"]))
    assert not wrong, "\n".join(map(str, wrong))
    assert program.images() == []
    assert net.origin.posts() == dict.fromkeys(jobs, 1), "paid once, and not again for a link that is refused"


class Rebinding(AbstractResolver):
    """A name server that gives the next of `turns` each time it is asked."""

    def __init__(self, turns: list[list[str]]) -> None:
        self.turns = turns
        self.asked = 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        addresses = self.turns[min(self.asked, len(self.turns) - 1)]
        self.asked += 1
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        pass


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that the program connects to; those that are not this machine's answer nothing."""
    asked: list[str] = []
    loop = asyncio.SelectorEventLoop
    connect = loop.sock_connect

    async def watched(self: asyncio.SelectorEventLoop, sock: socket.socket, address: Any) -> None:
        asked.append(str(address[0]))
        if not ip_address(address[0]).is_loopback:
            raise OSError(errno.ENETUNREACH, "no packet leaves this machine")
        await connect(self, sock, address)

    monkeypatch.setattr(loop, "sock_connect", watched)
    return asked


def options(base_url: str, folder: Path) -> TransportOptions:
    return TransportOptions(base_url=base_url, timeout=5, connections=4, max_bytes=1 << 20, spool_dir=str(folder))


TURNS = {
    "private": [["10.0.0.1"], ["127.0.0.1"]],
    "rebinding": [["1.1.1.1"], ["127.0.0.1"], ["169.254.169.254"]],
    "mixed": [["1.1.1.1", "127.0.0.1", "::1"]],
    "private first": [["127.0.0.1", "1.1.1.1"]],
    "mapped": [["::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::1"]],
    "scoped": [["fe80::1%lo", "::1"]],
}


@pytest.mark.parametrize("name", TURNS)
async def test_a_name_is_judged_by_the_address_that_is_dialled(
    net: Net, tmp_path: Path, knocks: Knocks, dialled: list[str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "DNS_SECONDS", 0)  # each turn is as a minute later
    monkeypatch.setattr(connections, "DefaultResolver", lambda: Rebinding(TURNS[name]))
    async with Transport(options(net.url, tmp_path)) as transport:
        codes = set()
        for turn in range(4):
            with pytest.raises(JobError) as caught:
                await transport.fetch(f"http://{NAME}:{knocks.port}/p{turn}.png")
            codes.add(caught.value.code)
    assert codes <= {Code.UNSAFE_URL, Code.DOWNLOAD}
    assert set(dialled) == ({"1.1.1.1"} if "1.1.1.1" in str(TURNS[name]) else set())
    assert knocks.count() == 0


async def test_the_providers_address_under_another_name_and_port_is_still_inside(
    net: Net, tmp_path: Path, knocks: Knocks
) -> None:
    """The provider may live on a private address; that opens its one port and no other."""
    async with Transport(options(net.url, tmp_path)) as transport:
        assert (await transport.fetch(f"{net.url}/files/x")).data
        for port in (knocks.port, 22, 6379):
            with pytest.raises(JobError) as caught:
                await transport.fetch(f"http://127.0.0.1:{port}/")
            assert caught.value.code is Code.UNSAFE_URL
    assert knocks.count() == 0
