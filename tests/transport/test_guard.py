"""Which addresses may be dialled: every private range, in every form that an address can hide in."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchflux.transport.connecting.ssrf import Guard, is_public, parse

PRIVATE_V4 = [
    "0.0.0.0",  # noqa: S104  an address to refuse
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.100.100.200",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.0.1",
    "169.254.169.254",
    "169.254.170.2",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.7",
    "203.0.113.9",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
]
PUBLIC_V4 = [
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.1",
    "168.63.129.15",
    "169.253.255.255",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.1",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
]
PRIVATE_V6 = [
    "::",
    "::1",
    "::2",
    "::8.8.8.8",
    "100::1",
    "2001:2::1",
    "2001:10::1",
    "2001:db8::1",
    "3fff::1",
    "4000::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fdff::1",
    "fe80::1",
    "fe80::1%eth0",
    "2606:4700::1%eth0",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
    "64:ff9b:1:7f00:0:100::",
    "64:ff9b:1:7f00:0:100:808:808",
    "64:ff9b:2::808:808",
]
PUBLIC_V6 = ["2606:4700:4700::1111", "2001:4860:4860::8888", "2a00:1450::1", "2003::1", "2620:fe::fe"]


def mapped(address: IPv4Address) -> IPv6Address:
    return IPv6Address((0xFFFF << 32) | int(address))


def nat64(address: IPv4Address) -> IPv6Address:
    return IPv6Address(int(IPv6Address("64:ff9b::")) | int(address))


def nat64_local(address: IPv4Address) -> IPv6Address:
    return IPv6Address(int(IPv6Address("64:ff9b:1::")) | int(address))


def six_to_four(address: IPv4Address) -> IPv6Address:
    return IPv6Address((0x2002 << 112) | (int(address) << 80) | 1)


def teredo_client(address: IPv4Address) -> IPv6Address:
    server = int(IPv4Address("8.8.8.8"))
    return IPv6Address((0x20010000 << 96) | (server << 64) | (~int(address) & 0xFFFFFFFF))


def teredo_server(address: IPv4Address) -> IPv6Address:
    client = ~int(IPv4Address("8.8.8.8")) & 0xFFFFFFFF
    return IPv6Address((0x20010000 << 96) | (int(address) << 64) | client)


def isatap(address: IPv4Address) -> IPv6Address:
    return IPv6Address((0x26064700 << 96) | (0x02005EFE << 32) | int(address))


EMBEDDINGS = [mapped, nat64, nat64_local, six_to_four, teredo_client, teredo_server, isatap]


@pytest.mark.parametrize("text", PRIVATE_V4)
def test_private_v4_is_refused_in_every_form(text: str) -> None:
    address = IPv4Address(text)
    assert not is_public(address)
    assert [embed.__name__ for embed in EMBEDDINGS if is_public(embed(address))] == []


@pytest.mark.parametrize("text", PUBLIC_V4)
def test_public_v4_is_allowed_in_every_form(text: str) -> None:
    address = IPv4Address(text)
    assert is_public(address)
    assert [embed.__name__ for embed in EMBEDDINGS if not is_public(embed(address))] == []


@pytest.mark.parametrize("text", PRIVATE_V6)
def test_private_v6_is_refused(text: str) -> None:
    assert not is_public(IPv6Address(text))


@pytest.mark.parametrize("text", PUBLIC_V6)
def test_public_v6_is_allowed(text: str) -> None:
    assert is_public(IPv6Address(text))


@settings(max_examples=50)
@given(st.ip_addresses(v=4))
def test_an_embedded_address_is_judged_as_itself(address: IPv4Address) -> None:
    assert {is_public(embed(address)) for embed in EMBEDDINGS} == {is_public(address)}


@settings(max_examples=50)
@given(st.ip_addresses(v=4))
def test_what_python_knows_as_private_is_never_public(address: IPv4Address) -> None:
    if address.is_private or address.is_multicast or address.is_reserved or address.is_link_local:
        assert not is_public(address)


@settings(max_examples=50)
@given(st.ip_addresses(v=6))
@example(IPv6Address("::ffff:10.0.0.1"))
@example(IPv6Address("2002:a00:1::"))
def test_public_v6_lies_in_global_unicast_or_embeds_a_public_v4(address: IPv6Address) -> None:
    if is_public(address) and address not in IPv6Network("2000::/3"):
        assert is_public(IPv4Address(int(address) & 0xFFFFFFFF))
        assert any(address in IPv6Network(net) for net in ("::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/96"))


@pytest.mark.parametrize(
    "text", ["localhost", "127.1", "0x7f.0.0.1", "2130706433", "0177.0.0.1", "", "8.8.8.8.", "[::1]"]
)
def test_what_is_no_plain_address_is_never_dialled(text: str) -> None:
    assert parse(text) is None
    guard = Guard()
    guard.trust(text, 80)
    assert not guard.allow(text, 80)


def test_the_own_origin_is_its_address_and_its_port() -> None:
    guard = Guard()
    assert not guard.allow("127.0.0.1", 8000)
    guard.trust("127.0.0.1", 8000)
    guard.trust("::1", 8000)
    guard.trust("8.8.8.8", 1)
    assert guard.allow("127.0.0.1", 8000)
    assert guard.allow("0:0:0:0:0:0:0:1", 8000)
    assert not guard.allow("127.0.0.1", 8001)
    assert not guard.allow("127.0.0.2", 8000)
    assert not guard.allow("::ffff:127.0.0.1", 8000)
    assert guard.allow("8.8.8.8", 2)
