"""Which links may be followed and which addresses dialled. The rule: public unicast, and the provider's own origin.

An answer can carry a link to anywhere, so a link must not reach what only this machine or its network can see. The
judgement falls on the address that is dialled, never on a name: names can resolve to anything, and change between a
check and a dial. `ipaddress.is_global` alone is not enough: it is true for multicast, for the translation prefixes
that embed a private IPv4 address (NAT64, 6to4) and for Azure's metadata address. An address that embeds an IPv4
address is as public as that one is.

The provider's own origin is trusted wherever it lives: the user named it (a relay on the company's network, the
simulator on loopback).
"""

from __future__ import annotations

import errno
import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING

from yarl import URL

from batchflux.errors import Code, JobError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

_CLEAN = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+")
_CLOSED_V4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",
        "100.64.0.0/10",  # carriers' NAT, with Alibaba's metadata address 100.100.100.200
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's wire server: metadata behind an address that looks public
        "169.254.0.0/16",  # link-local, with the metadata address of most clouds
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments, with Oracle's metadata address 192.0.0.192
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # the retired 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
_UNICAST_V6 = IPv6Network("2000::/3")  # all that is assigned as global unicast; what lies outside is never public
_CLOSED_V6 = tuple(IPv6Network(text) for text in ("2001:db8::/32", "3fff::/20"))  # documentation
_MAPPED = IPv6Network("::ffff:0:0/96")
_NAT64 = IPv6Network("64:ff9b::/96")
_NAT64_LOCAL = IPv6Network("64:ff9b:1::/48")
_NAT64_LOCAL_PLAIN = IPv6Network("64:ff9b:1::/96")  # the one part where every reading of RFC 6052 is harmless
_SIX_TO_FOUR = IPv6Network("2002::/16")
_TEREDO = IPv6Network("2001::/32")
_ISATAP = 0x00005EFE  # the upper half of an interface id that ends in an IPv4 address (RFC 5214)
_UNIVERSAL_BIT = 0x02000000
_LOW = 0xFFFFFFFF


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether `address` is unicast and reachable over the public internet, by every reading of it."""
    if isinstance(address, IPv4Address):
        return address.is_global and not any(address in network for network in _CLOSED_V4)
    if address.scope_id is not None or (address in _NAT64_LOCAL and address not in _NAT64_LOCAL_PLAIN):
        return False
    embedded = tuple(_embedded(address))
    if not all(map(is_public, embedded)):
        return False
    if embedded and address not in _UNICAST_V6:
        return True  # a mapped or translated address leads to its IPv4 address and nowhere else
    if embedded and (address in _SIX_TO_FOUR or address in _TEREDO):
        return True  # is_global is false for Teredo; the addresses inside have been judged
    return address in _UNICAST_V6 and address.is_global and not any(address in network for network in _CLOSED_V6)


def _embedded(address: IPv6Address) -> Iterable[IPv4Address]:
    """Yield the IPv4 addresses that packets to `address` may be translated or tunnelled to."""
    bits = int(address)
    if address in _MAPPED or address in _NAT64 or address in _NAT64_LOCAL:
        yield IPv4Address(bits & _LOW)
    elif address in _SIX_TO_FOUR:
        yield IPv4Address(bits >> 80 & _LOW)
    elif address in _TEREDO:
        yield IPv4Address(bits >> 64 & _LOW)
        yield IPv4Address(~bits & _LOW)
    if (bits >> 32 & _LOW) & ~_UNIVERSAL_BIT == _ISATAP:
        yield IPv4Address(bits & _LOW)


def parse(text: str) -> IPv4Address | IPv6Address | None:
    """Return the address that `text` is the standard form of, or None (a name, `127.1`, `0x7f.1`)."""
    try:
        return ip_address(text)
    except ValueError:
        return None


class Guard:
    """Says which address and port may be dialled; learns the provider's own from `trust`."""

    __slots__ = ("_own",)

    def __init__(self) -> None:
        self._own: set[tuple[IPv4Address | IPv6Address, int]] = set()

    def trust(self, address: str, port: int) -> None:
        """Count `address` and `port` as the provider's own. Public addresses need no trust and are not kept."""
        parsed = parse(address)
        if parsed is not None and not is_public(parsed):
            self._own.add((parsed, port))

    def allow(self, address: str, port: int) -> bool:
        """Whether a connection to `address` and `port` may be opened; what is not an address may not."""
        parsed = parse(address)
        return parsed is not None and ((parsed, port) in self._own or is_public(parsed))


class UnsafeAddressError(OSError):
    """The guard refused an address. One text for all: happy eyeballs keeps the type only of equal errors."""

    def __init__(self) -> None:
        super().__init__(errno.EACCES, "the address is not public")


def to_url(link: str, base: URL | None = None) -> URL:
    """Return `link` (relative to `base`, if given) as a URL without credentials.

    A link of legal characters is taken byte for byte: servers sign links as they wrote them.

    Raises:
        JobError: `unsafe_url` when it is no http or https URL with a host.
    """
    try:
        url = URL(link, encoded=_CLEAN.fullmatch(link) is not None)
        if base is not None:
            url = base.join(url)
        usable = url.scheme in {"http", "https"} and bool(url.raw_host)
    except ValueError:
        usable = False
    if not usable:
        kind = link.partition(":")[0][:20] if ":" in link else "unknown"
        message = f"the link is no http or https URL (scheme {kind!a}), so it was not followed"
        raise JobError(Code.UNSAFE_URL, message)
    return url.with_user(None) if url.raw_user is not None or url.raw_password is not None else url


def origin_of(base: str) -> URL:
    """Return the URL that all calls begin with.

    Raises:
        UsageError: it is no http or https URL with a host, or holds credentials.
    """
    try:
        url = URL(base)
        usable = url.scheme in {"http", "https"} and bool(url.raw_host)
    except ValueError:
        usable = False
    if not usable:
        raise UsageError("provider.base_url is no http or https URL with a host; mend it and run again")
    if url.raw_user is not None or url.raw_password is not None:
        raise UsageError("provider.base_url holds credentials; take them out and name the key in provider.keys")
    return url
