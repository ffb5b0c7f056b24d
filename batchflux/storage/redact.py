"""Takes signatures out of links: a signed URL is a key to the picture, and keys are not kept.

Known parameters: AWS SigV2/SigV4, Google Cloud Storage, Azure SAS, CloudFront, Aliyun OSS, Tencent COS; and any value
long and random enough to be a secret.
"""

from __future__ import annotations

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
    "secret",
)
_RANDOM = 20


def redacted(url: str) -> str:
    """Return the URL, without its query and fragment when they carry a signature or a secret."""
    parts = urlsplit(url)
    if not parts.query and not parts.fragment:
        return url
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    signed = any(name.lower().startswith(_SIGNING) or len(value) >= _RANDOM for name, value in pairs)
    if signed or (parts.query and not pairs) or len(parts.fragment) >= _RANDOM:
        return parts._replace(query="", fragment="").geturl()
    return url
