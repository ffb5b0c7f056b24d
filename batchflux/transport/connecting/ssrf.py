"""Which addresses may be dialled. The rule: public unicast, the provider's own origin, and what the user allowed.

An answer can carry a link to anywhere, so a link must not reach what only this machine or its network can see. The
judgement falls on the address that is dialled, never on a name: names change between a check and a dial. An address
that embeds an IPv4 address is as public as that one is. The provider's own origin is trusted wherever it lives: the
user named it (a relay on the company's network, the simulator on loopback); so is what `provider.allow_hosts` names.
"""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING

from batchflux.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from yarl import URL

# What `is_global` takes for public, in one version of Python or another. Multicast is all of 224.0.0.0/4.
_CLOSED_V4 = (
    IPv4Network("168.63.129.16/32"),  # Azure's wire server: metadata behind an address that looks public
    IPv4Network("192.0.0.0/24"),  # protocol assignments, with Oracle's metadata address 192.0.0.192
    IPv4Network("192.88.99.0/24"),  # the retired 6to4 relays
    IPv4Network("224.0.0.0/4"),
)
_UNICAST_V6 = IPv6Network("2000::/3")  # all that is assigned as global unicast; what lies outside is never public
_DOCUMENTATION_V6 = IPv6Network("3fff::/20")
_MAPPED = IPv6Network("::ffff:0:0/96")
_NAT64 = IPv6Network("64:ff9b::/96")
_NAT64_LOCAL = IPv6Network("64:ff9b:1::/48")
_NAT64_LOCAL_PLAIN = IPv6Network("64:ff9b:1::/96")  # the one part where every reading of RFC 6052 is harmless
_SIX_TO_FOUR = IPv6Network("2002::/16")
_TEREDO = IPv6Network("2001::/32")
_ISATAP = 0x00005EFE  # the upper half of an interface id that ends in an IPv4 address (RFC 5214)
_UNIVERSAL_BIT = 0x02000000
_LOW = 0xFFFFFFFF
_LARGEST_PORT = 0xFFFF
# Names of networks that are not the public one (RFC 6761, 6762, 8375, ICANN's .internal), or in no domain at all.
_PRIVATE_NAME = re.compile(r"[^.]+|.*\.(?:localhost|local|localdomain|internal|intranet|corp|home|lan|home\.arpa)")
_HOST_AND_PORT = re.compile(r"(\[[^\[\]]+\]|[^\[\]:/\s]+)(?::(\d{1,5}))?")


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether `address` is unicast and reachable over the public internet, by every reading of it."""
    if isinstance(address, IPv4Address):
        return address.is_global and not any(address in network for network in _CLOSED_V4)
    if address.scope_id is not None or (address in _NAT64_LOCAL and address not in _NAT64_LOCAL_PLAIN):
        return False
    embedded = tuple(_embedded(address))
    if not all(map(is_public, embedded)):
        return False
    if embedded and (address not in _UNICAST_V6 or address in _SIX_TO_FOUR or address in _TEREDO):
        return True  # it leads to the IPv4 addresses inside, which have been judged, and nowhere else
    return address in _UNICAST_V6 and address.is_global and address not in _DOCUMENTATION_V6


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


@lru_cache(maxsize=1024)
def parse(text: str) -> IPv4Address | IPv6Address | None:
    """Return the address that `text` is the standard form of, or None (a name, `127.1`, `0x7f.1`)."""
    try:
        return ip_address(text)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """One entry of provider.allow_hosts: a network (a single address is one) or a `name`; `port` None is any port."""

    network: IPv4Network | IPv6Network | None
    name: str
    port: int | None

    @classmethod
    def of(cls, text: str) -> Allowed:
        """Read `127.0.0.1:8000`, `10.0.0.0/24`, `[::1]:8000` or `relay.internal`; UsageError for anything else."""
        try:
            return cls(network=ip_network(text, strict=False), name="", port=None)
        except ValueError:
            found = _HOST_AND_PORT.fullmatch(text)
        host, port = (found[1].lower(), int(found[2] or 0)) if found else ("", 0)
        address = parse(host.strip("[]"))
        if not host or (address is None and "[" in host) or port > _LARGEST_PORT:
            forms = "a host, host:port or network, as relay.internal, 127.0.0.1:8000 or 10.0.0.0/24"
            raise UsageError(f"provider.allow_hosts: found {text!a}; allowed is {forms}")
        network = None if address is None else ip_network(address)
        return cls(network=network, name="" if network else host.rstrip("."), port=port or None)


class Guard:
    """Says which address and port may be dialled: public ones, `allowed` ones, and what it learns from `trust`."""

    def __init__(self, allowed: Iterable[Allowed] = ()) -> None:
        self._own: set[tuple[IPv4Address | IPv6Address, int]] = set()
        self._named: set[tuple[str, int]] = set()
        self._allowed = tuple(allowed)

    def trust(self, address: str, port: int) -> None:
        """Count `address`, or a name, and `port` as the provider's own. Public addresses need no trust."""
        parsed = parse(address)
        if parsed is None:
            self._named.add((address.lower().rstrip("."), port))
        if parsed is not None and not is_public(parsed):
            self._own.add((parsed, port))

    def allow(self, address: str, port: int) -> bool:
        """Whether a connection to `address` and `port` may be opened; what is not an address may not."""
        parsed = parse(address)
        return parsed is not None and (
            is_public(parsed) or (parsed, port) in self._own or any(self._allowing(parsed, port))
        )

    def allow_literal(self, url: URL, *, resolved: bool = True) -> bool:
        """Whether a URL may be asked for as far as it can be told before its name is resolved.

        Not `resolved` by us, but by a proxy, which sees a network of its own, it may have no name of a private one.
        """
        host, port = (url.raw_host or "").lower().rstrip("."), url.port or 0
        if parse(host) is not None:
            return self.allow(host, port)
        return resolved or not _PRIVATE_NAME.fullmatch(host) or (host, port) in self._named or self.names(host, port)

    def names(self, host: str, port: int) -> bool:
        """Whether the user allowed a host by this name, wherever it lives."""
        return any(each.name == host.lower().rstrip(".") and each.port in {None, port} for each in self._allowed)

    def _allowing(self, address: IPv4Address | IPv6Address, port: int) -> Iterable[bool]:
        for each in self._allowed:
            if each.network is not None and each.network.version == address.version:
                yield address in each.network and each.port in {None, port}


class UnsafeAddressError(OSError):
    """The guard refused an address. One text for all: happy eyeballs keeps the type only of equal errors."""

    def __init__(self) -> None:
        super().__init__(errno.EACCES, "the address is not public")
