"""What two texts of a job have in common when they ask for the same picture: what counts for a job's key, and what not.

- A URL counts without its signature: a reference that was signed anew is the same photo. Only what is a signature for
  certain is left out, for a parameter that names the photo (`?id=7`, `?token=7`) must count.
- A prompt counts without blanks and line ends at its ends, and with one kind of line end.
- URLs at a prompt's very front are references: the Flux-Kontext guide's own way to write them. Addresses in buckets are
  not: no API reads them, and their keys may have blanks in them.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from batchflux.manifest.reading.objects import is_object
from batchflux.manifest.reading.values import url as read_url

_FRONT_URL = re.compile(r"\s*(https?://\S+)(?:\s+|\Z)", re.IGNORECASE)

# Of the clouds that name all parts of a signature alike (S3, GCS, OSS, OBS, BOS, TOS, COS); `x-oss-process` resizes.
_CLOUD = re.compile(r"x-(?:amz|goog|oss|obs|bce|tos|cos)-(?!(?:[a-z]+-)*process$)")
# Marks that are a signature whatever they say, and what is part of it where one of them stands.
_SIGNED = tuple(
    (frozenset(marks.split()), frozenset(f"{marks} {beside}".split()))
    for marks, beside in {
        "q-signature": "q-sign-algorithm q-ak q-sign-time q-key-time q-header-list q-url-param-list",
        "sig": "se st sp sv sr ss srt spr sip si sdd skoid sktid skt ske sks skv saoid suoid scid sduoid skdutid",
        "signature x-signature": "expires expirationtimestamp x-expires x-date key-pair-id policy hash-algorithm"
        " security-token accesskeyid awsaccesskeyid ossaccesskeyid googleaccessid",
        "wssecret": "wstime",
        "txsecret": "txtime",
        "auth_key authorization access_token hdnts hdnea hdntl __token__ __cld_token__": "",
    }.items()
)
# What may as well name the photo is a signature where the time stands beside it at which it ends: any, or this one. No
# `md5`, `hash`, `s` or `st`: they name a photo also beside a time, and what is merged wrongly is a picture less.
_SIGNS = {**dict.fromkeys(("token", "sign", "hmac", "auth", "verify")), "hm": "ex", "oh": "oe"}
# And where the value itself says so: of Cloudflare, Fastly and UpYun.
_SIGNED_VALUES = {
    "verify": re.compile(r"1[0-9]{9}-[\w+/=-]{4,}"),
    "token": re.compile(r"1[0-9]{9}_[\w+/=-]{4,}"),
    "_upt": re.compile(r"[0-9a-f]{8}1[0-9]{9}", re.IGNORECASE),
}
# At these hosts a `token` lets in and names nothing.
_TOKEN_HOST = re.compile(
    r"https?://(?:firebasestorage\.googleapis|raw\.githubusercontent)\.com(?::443)?/", re.IGNORECASE
)
_CREDENTIAL = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{16,}|[A-Z0-9_]{20,}", re.IGNORECASE)
_ENDS = frozenset(
    {"expires", "expire", "expiry", "expiration", "exp", "e", "t", "ts", "time", "timestamp", "deadline", "ex", "oe"}
)
_BESIDE = frozenset({"is", "nonce", "rand"})
_TIME = re.compile(r"1[0-9]{9}(?:[0-9]{3})?|[0-9a-f]{8}|20[0-9]{2}-[0-9]{2}-[0-9]{2}[T ][0-9:.Z+-]+", re.IGNORECASE)
_WEB_TOKEN = re.compile(r"eyJ[\w-]+\.eyJ[\w-]+\.[\w-]*")


def unsigned(url: str) -> str:
    """Return the URL without its signature; as it is, when it has none, as addresses in buckets."""
    head, mark, query = url.partition("?")
    if not mark or is_object(url):
        return url
    query, hash_mark, fragment = query.partition("#")
    parts = [(part, *_pair(part)) for part in query.split("&")]
    signature = _signature({name: value for _, name, value in parts})
    lets_in = {"token"} if _TOKEN_HOST.match(head) else set[str]()
    kept = [
        part
        for part, name, value in parts
        if not (name in signature or _is_signed(name, value) or (name in lets_in and _CREDENTIAL.fullmatch(value)))
    ]
    if len(kept) == len(parts):
        return url
    return f"{head}{'?' if kept else ''}{'&'.join(kept)}{hash_mark}{fragment}"


def _pair(part: str) -> tuple[str, str]:
    name, _, value = part.partition("=")
    return unquote(name).lower().removeprefix("amp;"), unquote(value)  # `&amp;`: copied out of HTML


def _is_signed(name: str, value: str) -> bool:
    if _CLOUD.match(name) or _WEB_TOKEN.fullmatch(value):
        return True
    return name in _SIGNED_VALUES and _SIGNED_VALUES[name].fullmatch(value) is not None


def _signature(given: dict[str, str]) -> set[str]:
    """Return the names of the parameters that are a signature together."""
    found = {name for marks, names in _SIGNED if not marks.isdisjoint(given) for name in names}
    ends = {name for name in given.keys() & _ENDS if _TIME.fullmatch(given[name])}
    signs = {name for name in given.keys() & _SIGNS.keys() if (_SIGNS[name] in ends if _SIGNS[name] else ends)}
    return found | signs | ends | _BESIDE if signs else found


def same_prompt(prompt: str) -> str:
    """Return the part of a prompt that counts."""
    return prompt.strip().replace("\r\n", "\n")


def parted(prompt: str) -> tuple[list[str], str]:
    """Return the URLs at a prompt's very front, and the prompt behind them; what is no sound URL is text."""
    urls: list[str] = []
    at = 0
    while (match := _FRONT_URL.match(prompt, at)) is not None:
        try:
            urls.append(read_url(match[1]))
        except ValueError:
            break
        at = match.end()
    return urls, prompt[at:] if urls else prompt
