"""The only HTTP client: performs the HTTP steps that providers want done, and fetches pictures."""

from batchflux.transport.client import Transport
from batchflux.transport.connections import TransportOptions

__all__ = ["Transport", "TransportOptions"]
