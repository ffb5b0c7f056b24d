"""The only HTTP client: performs the HTTP steps that providers want done, and fetches pictures."""

from batchflux.transport.call_times import CallTimes
from batchflux.transport.client import Transport
from batchflux.transport.connecting.connections import TransportOptions
from batchflux.transport.connecting.proxies import Proxies
from batchflux.transport.downloads import check_downloads
from batchflux.transport.slots import DownloadSlots

__all__ = ["CallTimes", "DownloadSlots", "Proxies", "Transport", "TransportOptions", "check_downloads"]
