"""The only HTTP client: performs the HTTP steps that providers want done, and fetches pictures."""

from batchflux.transport.client import Transport
from batchflux.transport.connections import TransportOptions
from batchflux.transport.downloads import check_downloads
from batchflux.transport.proxies import Proxies

__all__ = ["Proxies", "Transport", "TransportOptions", "check_downloads"]
