"""Where secrets come from; they leave through `redaction` alone."""

from batchflux.secrets.lookup import Lookup, Secrets, wrong_key

__all__ = ["Lookup", "Secrets", "wrong_key"]
