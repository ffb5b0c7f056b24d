"""Which links may be followed and which addresses dialled. The rule: public unicast, and the provider's own origin.

An answer can carry a link to anywhere, so a link must not reach what only this machine or its network can see. The
judgement falls on the address that is dialled, never on a name: names change between a check and a dial. An address
that embeds an IPv4 address is as public as that one is. The provider's own origin is trusted wherever it lives: the
user named it (a relay on the company's network, the simulator on loopback).
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


def parse(text: str) -> IPv4Address | IPv6Address | None:
    """Return the address that `text` is the standard form of, or None (a name, `127.1`, `0x7f.1`)."""
    try:
        return ip_address(text)
    except ValueError:
        return None


class Guard:
    """Says which address and port may be dialled; learns the provider's own from `trust`."""

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
    """Return `link` (relative to `base`) as a URL without credentials; JobError `unsafe_url` when it is none."""
    url = _web_url(link, base, encoded=_CLEAN.fullmatch(link) is not None)  # as signed, byte for byte, if it is legal
    if url is None:
        kind = link.partition(":")[0][:20] if ":" in link else "unknown"
        raise JobError(Code.UNSAFE_URL, f"the link is no http or https URL (scheme {kind!a}), so it was not followed")
    return url.with_user(None) if url.raw_user is not None or url.raw_password is not None else url


def origin_of(base: str) -> URL:
    """Return the URL that all calls begin with; UsageError when it cannot be one, or holds credentials."""
    url = _web_url(base, None, encoded=False)
    if url is None:
        raise UsageError("provider.base_url is no http or https URL with a host; mend it and run again")
    if url.raw_user is not None or url.raw_password is not None:
        raise UsageError("provider.base_url holds credentials; take them out and name the key in provider.keys")
    return url


def _web_url(text: str, base: URL | None, *, encoded: bool) -> URL | None:
    try:
        url = URL(text, encoded=encoded)
        url = url if base is None else base.join(url)
        usable = url.scheme in {"http", "https"} and bool(url.raw_host)
    except ValueError:
        return None
    return url if usable else None
