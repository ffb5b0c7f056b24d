"""What went wrong on the wire, in words and codes. The rule for a call: did its request leave?

Before the first byte left nothing can have been billed. From then on the provider may be working on a paid picture, so
a lost answer is `unknown`, unless the request is free. aiohttp's own texts are never passed on: they can hold secrets.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from batchflux.errors import Code, JobError
from batchflux.redaction import tidy
from batchflux.transport.connecting.ssrf import UnsafeAddressError

if TYPE_CHECKING:
    from yarl import URL

    from batchflux.transport.connecting.proxies import Proxy

_SHOWN = 300  # characters of an address
_PROXY_WORDS = {
    403: "forbids it",
    407: "wants another user and password",
    502: "did not reach it",
    503: "did not reach it",
    504: "did not reach it in time",
}
WIRE_ERRORS = (aiohttp.ClientError, HttpProcessingError, TimeoutError, OSError)

# The first that fits counts, so the narrower stand above the wider.
_WORDS: tuple[tuple[type[BaseException], str], ...] = (
    (aiohttp.ConnectionTimeoutError, "no connection in the time allowed"),
    (aiohttp.ServerTimeoutError, "nothing came for the time allowed"),
    (TimeoutError, "it took longer than allowed"),
    (aiohttp.ServerDisconnectedError, "the connection was closed"),
    (aiohttp.ClientPayloadError, "the answer was cut off or garbled"),
    (aiohttp.ClientResponseError, "what came is not HTTP"),
    (HttpProcessingError, "what came is not HTTP"),
    (aiohttp.InvalidURL, "it is not a valid URL"),
    (aiohttp.NonHttpUrlClientError, "it is not an http or https URL"),
)


class ProxyFailedError(aiohttp.ClientConnectionError):
    """A SOCKS proxy was not reached, or refused; nothing was sent to where the request was to go."""


def unanswered(
    error: Exception, url: URL, *, sent: bool, repeatable: bool, own: bool, proxy: Proxy | None = None
) -> JobError:
    """Return what a call that got no answer comes to; `own` says whether it went to the provider's own origin."""
    if sent and repeatable:
        return lost(error, url, proxy)
    what, place = through(error, proxy), shown(url)
    if sent:
        message = f"no answer from {place}: {what}; the request had left, so the picture may have been billed"
        return JobError(Code.UNKNOWN, message)
    bad_url = isinstance(error, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError) or is_misnamed(error)
    if own and bad_url:
        return JobError(Code.INVALID_REQUEST, f"{place} cannot be called: {what}; mend provider.base_url")
    if is_unsafe(error) or bad_url:
        return JobError(Code.UNSAFE_URL, f"{place} was not called: {what}", billed=False)
    return JobError(_code(error), f"{place} was not reached: {what}; nothing was sent")


def refused_by(proxy: Proxy | None, url: URL, status: int) -> JobError:
    """Return what a call comes to that a proxy answered itself, in place of passing it on."""
    what = f"the proxy {proxy} {_PROXY_WORDS[status]} (HTTP {status})"
    return JobError(Code.NETWORK, f"{shown(url)} was not reached: {what}; nothing was sent")


def lost(error: Exception, url: URL, proxy: Proxy | None = None) -> JobError:
    """Return what a lost answer to a free request comes to."""
    message = f"no answer from {shown(url)}: {through(error, proxy)}; it is free and can be asked for again"
    return JobError(_code(error), message)


def unfetched(error: Exception, url: URL, proxy: Proxy | None = None) -> JobError:
    """Return what a picture that could not be fetched comes to; `url` is where its link, or a redirect, led."""
    if is_unsafe(error):
        return unsafe(url)
    if isinstance(error, aiohttp.InvalidURL) or is_misnamed(error):
        return JobError(Code.UNSAFE_URL, f"{shown(url)} is not a valid URL, so it was not fetched")
    failure = JobError(Code.DOWNLOAD, f"{shown(url)} could not be fetched: {through(error, proxy)}")
    if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ConnectionTimeoutError):
        failure.cause = Code.SERVER
    elif isinstance(error, OSError | aiohttp.ClientConnectionError | aiohttp.ClientHttpProxyError):
        failure.cause = Code.NETWORK
    return failure


def unsafe(url: URL) -> JobError:
    """Return what a link that leads to where it may not comes to."""
    what = f"{shown(url)} leads to an address that is not public, so it was not fetched; the link is kept"
    remedy = f"if it is your provider's own, add {url.host_subcomponent}:{url.port} to provider.allow_hosts"
    return JobError(Code.UNSAFE_URL, f"{what}: {remedy} and run again")


def _code(error: Exception) -> Code:
    return Code.TIMEOUT if isinstance(error, TimeoutError) else Code.NETWORK


def is_unsafe(error: BaseException) -> bool:
    """Whether the guard refused every address that could have been dialled."""
    return isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, UnsafeAddressError)


def is_misnamed(error: BaseException) -> bool:
    """Whether a host's name can be none, so that no time makes it resolve."""
    return isinstance(error, aiohttp.ClientConnectorError) and error.os_error.errno == errno.EINVAL


def describe(error: BaseException) -> str:
    """Say in a few words, without secrets, what an error of the client means."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorError):
        return _unconnected(error)
    for kind, words in _WORDS:
        if isinstance(error, kind):
            return words
    return _said_by_the_system(error)


def _unconnected(error: aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorError) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        why = getattr(error.certificate_error, "verify_message", "") or "it is not valid"
        remedy = "if your network or provider has an authority of its own, name its file in SSL_CERT_FILE"
        named = os.environ.get("SSL_CERT_FILE")
        if named and not Path(named).is_file():
            remedy = f"SSL_CERT_FILE names {named}, which is no file"
        elif named and not (os.access(named, os.R_OK) and b"-----BEGIN " in Path(named).read_bytes()):
            remedy = f"SSL_CERT_FILE names {named}, in which no certificate (PEM) can be read"
        return f"its TLS certificate is not trusted ({why}): {remedy}"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        why = (getattr(error.os_error, "reason", None) or "it was broken off").replace("_", " ").lower()
        hint = "; is it http and not https?" if "wrong version" in why or "record layer" in why else ""
        return f"the TLS handshake failed ({why}{hint})"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"the name does not resolve (DNS: {(error.os_error.strerror or 'no such name').lower()})"
    return _said_by_the_system(error.os_error)


def _said_by_the_system(error: BaseException) -> str:
    if not isinstance(error, OSError) or not error.strerror:
        return "the connection failed"
    if error.errno and error.strerror.startswith("Connect call failed"):  # asyncio's words, not the system's
        return os.strerror(error.errno).lower()
    return error.strerror.lower()


def through(error: BaseException, proxy: Proxy | None) -> str:
    """Describe an error, and name the proxy that was asked."""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the proxy {proxy} {_PROXY_WORDS.get(error.status, 'does not connect to it')} (HTTP {error.status})"
    if isinstance(error, ProxyFailedError):
        return f"the proxy {proxy} does not connect to it ({tidy(str(error))})"
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return f"the proxy {proxy} was not reached ({_said_by_the_system(error.os_error)})"
    return describe(error) if proxy is None else f"{describe(error)}, through the proxy {proxy}"


def shown(url: URL) -> str:
    """Return scheme, host, port and path: no credentials, no query string, which may be a signature."""
    host = url.raw_host or ""
    netloc = f"[{host}]" if ":" in host else host
    port = "" if url.is_default_port() or url.port is None else f":{url.port}"
    return f"{url.scheme}://{netloc}{port}{url.raw_path}"[:_SHOWN]
