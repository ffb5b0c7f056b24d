"""The only HTTP client: one step of a provider's flow, or one download, at a time."""

from batchflux.transport.client import Transport
from batchflux.transport.connections import TransportOptions

__all__ = ["Transport", "TransportOptions"]
