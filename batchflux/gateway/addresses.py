"""Which addresses in clients' requests are not passed on: those that lead into our network, or may.

A provider is sent a reference's address, and fetches it. One that stands in our network would fetch from there, for
whoever asks; so clients, who are not the user, may name public hosts alone, and what `provider.allow_hosts` names.
A name is taken for what it says: what it resolves to is for who fetches it.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from batchflux.photos.find import is_allowed, is_private
from batchflux.transport.connecting.ssrf import parse

if TYPE_CHECKING:
    from collections.abc import Collection

_PLAIN = re.compile(r"[\w.-]+|[0-9a-f:.]+")
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+")  # a host that ends so is an IPv4 address to some: 127.1, 0x7f.1


def leads_inside(url: str, allowed: Collection[str]) -> bool:
    """Whether an http(s) address leads into our network by any reading of its host, and `allowed` does not name it."""
    plain = unicodedata.normalize("NFKC", url)
    try:
        host, named = urlsplit(plain).hostname or "", is_allowed(url, allowed)
    except ValueError:  # no host, or no port, that can be read
        return True
    last = host.rstrip(".").rpartition(".")[2]
    odd = _PLAIN.fullmatch(host) is None or (_NUMBER.fullmatch(last) is not None and parse(host) is None)
    return (odd or is_private(plain)) and not named
