"""Takes signatures out of links: a signed URL is a key to the picture, and keys are not kept.

Known parameters: AWS SigV2/SigV4, Google Cloud Storage, Azure SAS, CloudFront, Aliyun OSS, Tencent COS; names that say
what they hold (`access_token`, `api_key`); and any name or value long and random enough to be a secret. A user and
password before the host go too.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlsplit

_SIGNING = (
    "x-amz-",
    "x-goog-",
    "x-oss-",
    "q-sign",
    "q-signature",
    "awsaccesskeyid",
    "ossaccesskeyid",
    "googleaccessid",
    "signature",
    "sig",
    "sign",
    "token",
    "auth",
    "policy",
    "key-pair-id",
    "expires",
    "key",
)
_TELLING = ("token", "secret", "signature", "password", "credential", "api_key", "api-key", "apikey", "auth")
_RANDOM = 20
_MORE = re.compile(r"[?#@]")
_URL = re.compile(r"https?://[^\s\"'<>]+", re.IGNORECASE)


def redacted(url: str) -> str:
    """Return the URL, without its query and fragment when they carry a signature or a secret.

    What is no URL at all comes back without all that follows a `?` or `#`.
    """
    if not _MORE.search(url):
        return url
    try:
        parts = urlsplit(url)
    except ValueError:
        return url.partition("?")[0].partition("#")[0]
    clean = parts
    if "@" in parts.netloc:
        clean = clean._replace(netloc=parts.netloc.rpartition("@")[2])
    if any(_secret(name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True)):
        clean = clean._replace(query="", fragment="")
    if len(parts.fragment) >= _RANDOM:
        clean = clean._replace(query="", fragment="")
    return url if clean is parts else clean.geturl()


def without_signatures(text: str) -> str:
    """Return a text whose URLs are redacted."""
    return _URL.sub(lambda match: redacted(match.group()), text)


def _secret(name: str, value: str) -> bool:
    lower = name.lower()
    telling = lower.startswith(_SIGNING) or any(word in lower for word in _TELLING)
    return telling or len(name) >= _RANDOM or len(value) >= _RANDOM
