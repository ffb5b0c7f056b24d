"""References as attackers write them: none leads to a file of this machine, into its network, or to a full disk."""

from __future__ import annotations

import base64
from itertools import product

import pytest
from aiohttp import FormData
from hypothesis import given
from hypothesis import strategies as st

from batchflux.gateway.addresses import leads_inside
from tests.gateway.hostile.conftest import CHAT, EDITS, IMAGES, House, picture

SECRET = picture("blue")


def leaked(house: House, data: bytes = SECRET) -> bool:
    """Whether a file's bytes reached the provider."""
    return base64.b64encode(data).decode()[:200] in str([seen.body for seen in house.bank.seen])


@pytest.fixture
def secret(house: House) -> str:
    """A picture of this machine, two folders above the manifest's."""
    (house.base / "private.png").write_bytes(SECRET)
    house.base = house.base / "a/b"
    house.base.mkdir(parents=True)
    return "private.png"


LOCAL = [
    "HTTP://x/../../../../{}",
    "hTTps://x/y/../../../../../{}",
    "http:/../../{}",
    "http:{}",
    "file:///{}",
    "FILE:///{}",
    "../../{}",
    "/{}",
    "~/{}",
    "s3://bucket/{}",
    "gs://bucket/{}",
    "oss://bucket/{}",
    "data:image/png;base64,@{}",
    "data:text/plain,{}",
    "ftp://127.0.0.1/{}",
    "javascript:{}",
    "//127.0.0.1/{}",
    "\\\\127.0.0.1\\{}",
    "http://x/\x00{}",
    "http://user:pass@x/{}",
    " file:///{}",
]


@pytest.mark.slow
async def test_no_address_reads_a_file_of_this_machine(house: House, secret: str) -> None:
    async with house.caller() as caller:
        for link in (address.format(secret) for address in LOCAL):
            part = {"type": "image_url", "image_url": {"url": link}}
            for path, body in (
                (EDITS, {"prompt": "job a", "image": link}),
                (IMAGES, {"prompt": "job a", "image": [{"url": link}]}),
                (IMAGES, {"prompt": f"{link} job a"}),
                (CHAT, {"messages": [{"role": "user", "content": f"![x]({link}) job a"}]}),
                (CHAT, {"messages": [{"role": "user", "content": [part, {"type": "text", "text": "job a"}]}]}),
            ):
                status, said, _ = await caller.ask(path, body)
                assert status in {200, 400}, said
            assert not leaked(house), link


@pytest.mark.slow
async def test_a_form_reads_no_file_either(house: House, secret: str) -> None:
    async with house.caller() as caller:
        for name, filename in product(("image", "mask", "image[]"), (None, f"../../{secret}")):
            form = FormData()
            form.add_field("prompt", "job a")
            form.add_field("image", picture(), filename="a.png")
            if filename is None:
                form.add_field(name, f"HTTP://x/../../../../{secret}")
            else:
                form.add_field(name, picture("green"), filename=filename)
            status, said, _ = await caller.ask(EDITS, data=form)
            assert status in {200, 400}, said
            assert not leaked(house)


PRIVATE = [
    "http://127.0.0.1:{port}/x.png",
    "http://localhost:{port}/x.png",
    "http://[::1]:{port}/x.png",
    "http://[::ffff:127.0.0.1]:{port}/x.png",
    "http://[::ffff:7f00:1]:{port}/x.png",
    "http://[64:ff9b::7f00:1]:{port}/x.png",
    "http://2130706433:{port}/x.png",
    "http://0x7f.1:{port}/x.png",
    "http://0177.0.0.1:{port}/x.png",
    "http://127.1:{port}/x.png",
    "http://0:{port}/x.png",
    "http://0.0.0.0:{port}/x.png",
    "http://169.254.169.254/latest/meta-data/",
    "http://[fe80::1]/x.png",
    "http://10.0.0.1/x.png",
    "http://192.168.0.1/x.png",
    "http://localhost.:{port}/x.png",
    "http://00000177.1:{port}/x.png",
    "http://\uff11\uff12\uff17.0.0.1:{port}/x.png",
    "http://127.0.0.1\\.example.com:{port}/x.png",
    "http://[2002:7f00:1::]:{port}/x.png",
    "http://nas:{port}/x.png",
    "http://router.lan:{port}/x.png",
    "http://metadata.google.internal:{port}/x.png",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_of_our_network_however_it_is_spelled(address: str) -> None:
    url = address.format(port=8080)
    assert leads_inside(url, ())
    assert leads_inside(url.replace("http", "HTTPS"), ())


@pytest.mark.parametrize(
    "address", ["https://example.com/a.png", "http://8.8.8.8:81/x", "https://münchen.de/x?u=http://10.0.0.1"]
)
def test_an_address_of_the_public_network(address: str) -> None:
    assert not leads_inside(address, ())


def test_what_the_manifest_allows_is_passed_on() -> None:
    assert not leads_inside("http://nas.lan/x.png", ("nas.lan",))
    assert not leads_inside("http://10.0.0.7/x.png", ("10.0.0.0/24",))
    assert leads_inside("http://10.0.1.7/x.png", ("10.0.0.0/24", "nas.lan"))


@given(st.text(max_size=40))
def test_whatever_a_host_is_it_is_judged(host: str) -> None:
    assert leads_inside(f"http://{host}/", ()) in {True, False}


async def test_a_link_into_our_network_is_not_passed_on(house: House) -> None:
    """The provider is not sent one, not even where it stands in our network itself: it would fetch it for anybody."""
    async with house.caller() as caller:
        port = caller.url.rpartition(":")[2]
        for link in (
            f"http://127.0.0.1:{port}/metrics",
            f"http://localhost.:{port}/images/x",
            "HTTP://169.254.169.254/",
        ):
            for path, body in (
                (EDITS, {"prompt": "job a", "image": link}),
                (IMAGES, {"prompt": f"{link} job a"}),
                (IMAGES, {"prompt": "job a", "image": "https://example.com/a.png", "mask": link}),
                (CHAT, {"messages": [{"role": "user", "content": f"![x]({link}) job a"}]}),
            ):
                status, said, _ = await caller.ask(path, body)
                assert (status, said["error"]["code"]) == (400, "unsafe_url"), said
        assert await caller.buy("https://example.com/a.png job b") == (200, None)
    house.provider = ", allow_hosts: [10.0.0.7]"
    async with house.caller() as caller:
        assert await caller.buy("http://10.0.0.7/a.png job c") == (200, None)
    assert [seen.body["prompt"] for seen in house.bank.seen] == [
        "https://example.com/a.png job b",
        "http://10.0.0.7/a.png job c",
    ]
