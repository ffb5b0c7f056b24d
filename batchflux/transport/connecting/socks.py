"""The connector for SOCKS proxies, by aiohttp-socks: the extra `socks`. The proxy resolves all names."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

from aiohttp import ClientConnectorCertificateError
from aiohttp_socks import ProxyConnectionError, ProxyConnector, ProxyError, ProxyTimeoutError, ProxyType

from batchflux.transport.connecting.lenient import LenientConnector
from batchflux.transport.wire_errors import ProxyFailedError

if TYPE_CHECKING:
    from aiohttp import ClientRequest, ClientTimeout
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

    from batchflux.transport.connecting.proxies import Proxy


class SocksConnector(LenientConnector, ProxyConnector):
    """A connector that opens connections by a SOCKS proxy."""

    async def connect(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: ClientTimeout,  # noqa: ASYNC109  the signature is aiohttp's
    ) -> Connection:
        """Return a connection for one request; ProxyFailedError."""
        try:
            return await super().connect(req, traces, timeout)
        except (ProxyConnectionError, ProxyTimeoutError, ProxyError) as error:
            raise ProxyFailedError(str(error)) from error
        except ssl.SSLCertVerificationError as error:  # of what lies behind the proxy
            raise ClientConnectorCertificateError(req.connection_key, error) from error


def socks_connector(proxy: Proxy, **options: Any) -> SocksConnector:
    """Return a connector by this proxy."""
    return SocksConnector(
        host=proxy.url.raw_host or "",
        port=proxy.url.port or 0,
        proxy_type=ProxyType.SOCKS4 if proxy.url.scheme.startswith("socks4") else ProxyType.SOCKS5,
        username=proxy.user,
        password=proxy.password,
        rdns=True,
        **options,
    )
