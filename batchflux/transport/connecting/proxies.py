"""Which proxy a request goes by: the one that provider.proxy names, else by the environment's variables, as curl reads.

HTTP_PROXY and HTTPS_PROXY are by the scheme of what is asked for, ALL_PROXY is for what they leave open, and NO_PROXY
lists what is asked for directly: hosts with all below them, `host:port`, networks, or `*`. Names in lower case come
first. User and password of a proxy are secrets: they are kept apart from its address, which may be shown.
"""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass, field
from importlib.util import find_spec
from ipaddress import ip_network
from typing import TYPE_CHECKING

from yarl import URL

from batchflux.errors import UsageError
from batchflux.transport.connecting.ssrf import parse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DIRECT = "direct"  # what provider.proxy says where no proxy is wanted
_PORTS = {"http": 80, "https": 443, "socks4": 1080, "socks4a": 1080, "socks5": 1080, "socks5h": 1080}
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://")
_APART = re.compile(r"[,\s]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """One proxy: `url` is its address without credentials, `by` says where it was named."""

    url: URL
    by: str
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, text: str, by: str) -> Proxy:
        """Read `http://user:password@host:3128`, or `host:3128`, which is http; UsageError without the text."""
        try:
            url = URL(text.strip() if _SCHEME.match(text.strip()) else f"http://{text.strip()}")
            usual = _PORTS[url.scheme]
            bare = URL.build(scheme=url.scheme, host=url.raw_host or "", port=url.explicit_port or usual)
        except (KeyError, ValueError):
            bare = URL()
        if not bare.raw_host or url.raw_path not in {"", "/"} or url.raw_query_string or url.raw_fragment:
            allowed = "allowed is http, https, socks5 or socks4://[user:password@]host:port"
            raise UsageError(f"{by} holds no address of a proxy; {allowed}")
        if url.scheme.startswith("socks") and find_spec("aiohttp_socks") is None:
            raise UsageError(f"{by} names a {url.scheme} proxy; install the extra: pip install 'batchflux[socks]'")
        return cls(url=bare, by=by, user=url.user, password=url.password)

    def __str__(self) -> str:
        return f"{self.url.scheme}://{self.url.host_subcomponent}:{self.url.port}"

    @property
    def is_http(self) -> bool:
        """Whether it is asked in HTTP (by TLS or not), and not in SOCKS."""
        return self.url.scheme.startswith("http")

    @property
    def headers(self) -> dict[str, str]:
        """What the proxy is told of who asks (RFC 9110, section 11.7.2)."""
        if self.user is None and self.password is None:
            return {}
        known = f"{self.user or ''}:{self.password or ''}".encode()
        return {"Proxy-Authorization": f"Basic {b64encode(known).decode()}"}


class Proxies:
    """Which proxy is asked for what; made once for a run."""

    def __init__(self, by_scheme: Mapping[str, Proxy] | None = None, no_proxy: str = "") -> None:
        self._by_scheme = dict(by_scheme or {})
        self._direct = [entry.lower() for entry in _APART.split(no_proxy) if entry]

    @classmethod
    def of(cls, named: str | None, environ: Mapping[str, str]) -> Proxies:
        """Return what provider.proxy says, or the environment where it says nothing; UsageError for what is none."""
        if named == DIRECT:
            return cls()
        if named:
            return cls(dict.fromkeys(("http", "https"), Proxy.of(named, "provider.proxy")))
        found: dict[str, Proxy] = {}
        for scheme in ("http", "https"):
            name = _name_of(f"{scheme}_proxy", environ) or _name_of("all_proxy", environ)
            if name is not None and environ[name].strip():
                found[scheme] = Proxy.of(environ[name], f"the environment variable {name}")
        excepted = _name_of("no_proxy", environ)
        return cls(found, "" if excepted is None else environ[excepted])

    @property
    def secret(self) -> bool:
        """Whether one of them has a user or a password."""
        return any(proxy.headers for proxy in self._by_scheme.values())

    def for_url(self, url: URL) -> Proxy | None:
        """Return the proxy that is asked for a URL, None where it is asked for directly."""
        proxy = self._by_scheme.get(url.scheme)
        return None if proxy is None or any(self._excepting(url)) else proxy

    def _excepting(self, url: URL) -> Iterator[bool]:
        host, port = (url.raw_host or "").lower().rstrip("."), str(url.port)
        address = parse(host)
        for entry in self._direct:
            if entry == "*":
                yield True
                continue
            try:
                network = ip_network(entry.strip("[]"), strict=False)
            except ValueError:
                name, _, only = entry.rpartition(":") if re.search(r":\d+$", entry) else (entry, "", "")
                name = name.strip("[]").removeprefix("*").strip(".")
                yield bool(name) and only in {"", port} and (host == name or host.endswith(f".{name}"))
            else:
                yield address is not None and address in network


def _name_of(name: str, environ: Mapping[str, str]) -> str | None:
    """Return which variable of a name counts. Of a server's CGI script HTTP_PROXY is what a stranger sent (httpoxy)."""
    if name in environ:
        return name
    upper = name.upper()
    return upper if upper in environ and not (name == "http_proxy" and "REQUEST_METHOD" in environ) else None
