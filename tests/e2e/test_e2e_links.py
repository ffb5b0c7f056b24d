"""Links that lead where nobody goes by default, and hosts that refuse: what was paid for is kept, and had later."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from batchflux.testing.bank import picture_of
from batchflux.testing.serving import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batchflux.testing.bank import Bank
    from batchflux.testing.program import Program

ODD = (
    "http://[]@",
    "http://]&[@",
    "https://[é:]/",
    "http://a%。b/",
    "http://[::1%25。]/x",
    "http://xn--a/",
)


class Pictures:
    """A relay's host of pictures, in its own network; it wants `wants` in the User-Agent."""

    def __init__(self) -> None:
        self.url = ""
        self.wants = ""
        self.fetched: Counter[str] = Counter()

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/{name}.png", self.file)
        return app

    async def file(self, request: web.Request) -> web.Response:
        if self.wants not in request.headers["User-Agent"]:
            return web.Response(status=403)
        name = request.match_info["name"]
        self.fetched[name] += 1
        return web.Response(body=picture_of(name), content_type="image/png")


@pytest.fixture
def pictures() -> Iterator[Pictures]:
    host = Pictures()
    with serving(host.app()) as host.url:
        yield host


def rows(program: Program) -> dict[str, tuple[str, str, str, str]]:
    wanted = ("status", "error_code", "error", "result_url")
    return {row["id"]: tuple(row[name] for name in wanted) for row in program.rows()}  # type: ignore[misc]  # four


def test_odd_links_fail_their_own_jobs_only(program: Program, bank: Bank, manifest: Callable[..., str]) -> None:
    bank.links = {f"o{number}": link for number, link in enumerate(ODD)}
    names = (*bank.links, "good")
    jobs = "".join(f"  - {{id: {each}, prompt: job {each}, output_format: png}}\n" for each in names)
    name = manifest(jobs, limits=", canary: 0")
    for _ in range(2):
        ended = program("run", name)
        assert ended.code == 1, ended.said
        found = rows(program)
        assert found.pop("good")[0] == "done"
        assert {row[:2] for row in found.values()} <= {("failed", "unsafe_url"), ("failed", "download")}, found
    assert bank.billed.total() == len(names)
    assert program("status", str(program.out)).code == 0


def test_a_link_into_the_relays_network_is_kept_until_it_is_allowed(
    program: Program, bank: Bank, pictures: Pictures, manifest: Callable[..., str]
) -> None:
    bank.links = {"a": f"{pictures.url}/a.png", "b": "http://169.254.169.254/b.png"}
    jobs = "  - {id: a, prompt: job a, output_format: png}\n  - {id: b, prompt: job b, output_format: png}\n"
    ended = program("run", manifest(jobs))
    assert ended.code == 1, ended.said
    before = rows(program)
    for each, link in bank.links.items():
        status, code, error, url = before[each]
        assert (status, code, url) == ("failed", "unsafe_url", link)
        assert f"add {link.split('/')[2]}" in error
        assert "provider.allow_hosts" in error
    assert pictures.fetched.total() == 0
    host = pictures.url.removeprefix("http://")
    ended = program("run", manifest(jobs, provider=f", allow_hosts: [{host}, relay.internal]"))
    assert ended.code == 1, ended.said
    after = rows(program)
    assert (after["a"][0], after["b"]) == ("done", before["b"])
    assert (pictures.fetched["a"], bank.billed.total()) == (1, 2)


class Member:
    """One address of a fleet: its links lead to itself, absolute ones or none but a path."""

    def __init__(self, name: str, *, absolute: bool) -> None:
        self.url, self.name, self.absolute = "", name, absolute
        self.made: list[str] = []

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/images/generations", self.make)
        app.router.add_get("/files/{name}.png", self.file)
        return app

    async def make(self, request: web.Request) -> web.Response:
        self.made.append(f"{self.name}{len(self.made)}")
        path = f"/files/{self.made[-1]}.png"
        return web.json_response({"data": [{"url": self.url + path if self.absolute else path}]})

    async def file(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        return web.Response(body=picture_of(name), content_type="image/png", status=200 if name in self.made else 404)


@pytest.mark.parametrize("absolute", [True, False])
def test_pictures_of_a_fleet_are_fetched_from_each_of_its_addresses(program: Program, *, absolute: bool) -> None:
    first, second = members = [Member(name, absolute=absolute) for name in "ab"]
    with serving(first.app()) as first.url, serving(second.app()) as second.url:
        jobs = "".join(f"  - {{prompt: job {each}}}\n" for each in range(12))
        provider = f"{{name: fleet, api: flux-relay, base_url: [{first.url}, {second.url}], price: 0}}"
        (program.folder / "m.yaml").write_text(f"version: 1\nprovider: {provider}\njobs:\n{jobs}")
        ended = program("run", "m.yaml", "--out", str(program.out))
    assert ended.code == 0, ended.said
    assert all(one.made for one in members)
    assert sum(len(one.made) for one in members) == 12


def test_a_refused_picture_is_fetched_with_the_headers_that_its_host_wants(
    program: Program, bank: Bank, pictures: Pictures, manifest: Callable[..., str]
) -> None:
    pictures.wants = "Mozilla"
    bank.links = {"a": f"{pictures.url}/a.png?sig=1"}
    jobs = "  - {id: a, prompt: job a, output_format: png}\n"
    host = pictures.url.removeprefix("http://")
    ended = program("run", manifest(jobs, limits=", attempts: 1", provider=f", allow_hosts: '{host}'"))
    assert ended.code == 1, ended.said
    _, code, error, _ = rows(program)["a"]
    assert (code, "refused the picture (HTTP 403)" in error) == ("download", True)
    more = f", allow_hosts: '{host}', download_headers: {{User-Agent: Mozilla/5.0, Authorization: 'Bearer ${{T}}'}}"
    ended = program("run", manifest(jobs, provider=more), T="cdn-token")
    assert ended.code == 0, ended.said
    assert (rows(program)["a"][0], bank.billed["a"]) == ("done", 1)


@pytest.mark.parametrize("more", ["allow_hosts: ['http://h']", "download_headers: {Host: h}"])
@pytest.mark.parametrize("command", ["plan", "run"])
def test_what_cannot_be_allowed_or_sent_is_said_before_anything(
    program: Program, bank: Bank, manifest: Callable[..., str], command: str, more: str
) -> None:
    ended = program(command, manifest("  - {id: a, prompt: job a}\n", provider=f", {more}"))
    assert (ended.code, bank.billed.total(), program.out.exists()) == (2, 0, False)
    assert f"provider.{more.partition(':')[0]}" in ended.err
