"""What object stores say when they refuse, as what it means, what to do, and whether it passes by itself.

Read are the texts of obstore's errors: the status and the code of an answer, or the cause of there being none.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from batchflux.redaction import tidy

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>\s*([A-Za-z.]{1,60})\s*</Code>|\"reason\": ?\"([A-Za-z]{1,60})\"")
_MESSAGE = re.compile(r"<Message>(.{1,400}?)</Message>", re.DOTALL)
_ASKED = re.compile(r"Error performing [A-Z]+ \S+ in |(?:, )?https?://\S+")
_TRACE = "Debug source"
_LEAST_OF_SERVERS = 500
NO_BUCKET = frozenset({"NoSuchBucket", "ContainerNotFound"})
NO_CONDITIONS = frozenset({"NotImplemented"})


class Trouble(NamedTuple):
    """What is wrong, what to do about it, whether it passes by itself, and whether only this place has it."""

    cause: str
    remedy: str
    passes: bool = False
    here: bool = False


_BUSY = Trouble("the store is too busy", "run again later, or with a lower limits.concurrency", passes=True)
_FULL = Trouble("the store is full", "free space there or raise its quota, then run again")
_DENIED = Trouble("access is denied", "give the key the right to read, write and list there, then run again", here=True)
_UNKNOWN_KEY = Trouble("the access key is not known there", "check the variable that holds it, then run again")
_EXPIRED = Trouble("the credentials have expired", "get new ones, then run again")
_NO_BUCKET = Trouble("there is no such bucket", "create it, or correct its address", here=True)
_REGION = Trouble("the bucket is in another region", "name its region in `stores`, or in AWS_REGION", here=True)
_STYLE = Trouble(
    "buckets stand before the endpoint there", "say `style: virtual` in `stores`, or name it oss://", here=True
)
_DOMAIN = Trouble(
    "Aliyun serves this bucket on a domain of its own alone",
    "map one to the bucket, and say `endpoint: https://that.domain` and `style: domain` in `stores`",
    here=True,
)
_CHANGED = Trouble("the bytes arrived changed", "check the network, then run again", passes=True)
_CLOCK = Trouble("this machine's clock is wrong", "set it, then run again")
_NOT_THERE = Trouble("the store cannot do that", "use one that can, as `batchflux docs stores` says")
_NAME = Trouble("the store takes no such key", "name it otherwise", here=True)
_CODES = {
    **dict.fromkeys(("SlowDown", "SlowDownRead", "SlowDownWrite", "Throttling", "TooManyRequests"), _BUSY),
    **dict.fromkeys(("ServerBusy", "RequestTimeout", "OperationTimedOut", "InternalError", "rateLimitExceeded"), _BUSY),
    **dict.fromkeys(("ServiceUnavailable", "OperationAborted", "ConditionalRequestConflict"), _BUSY),
    **dict.fromkeys(("XMinioStorageFull", "QuotaExceeded", "InsufficientStorage", "storage_cap_exceeded"), _FULL),
    **dict.fromkeys(("XMinioAdminBucketQuotaExceeded", "StorageQuotaExceeded"), _FULL),
    **dict.fromkeys(("AccessDenied", "AuthorizationFailure", "AuthenticationFailed", "forbidden"), _DENIED),
    **dict.fromkeys(("InvalidAccessKeyId", "InvalidToken", "InvalidSecurityToken"), _UNKNOWN_KEY),
    "SignatureDoesNotMatch": Trouble("the secret does not fit the access key", "check both variables, then run again"),
    **dict.fromkeys(("ExpiredToken", "SecurityTokenExpired", "TokenRefreshRequired"), _EXPIRED),
    **dict.fromkeys(NO_BUCKET, _NO_BUCKET),
    **dict.fromkeys(("AuthorizationHeaderMalformed", "PermanentRedirect", "InvalidRegion"), _REGION),
    "SecondLevelDomainForbidden": _STYLE,
    "PublicEndpointForbidden": _DOMAIN,
    "UserDisable": Trouble("the account is disabled, perhaps for a bill that is due", "see to it, then run again"),
    **dict.fromkeys(("BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch"), _CHANGED),
    "RequestTimeTooSkewed": _CLOCK,
    "NotImplemented": _NOT_THERE,
    **dict.fromkeys(("KeyTooLongError", "InvalidObjectName", "InvalidURI"), _NAME),
    "EntityTooLarge": Trouble("the object is too large for the store", "make it smaller"),
    "InvalidObjectState": Trouble("the object is archived", "restore it there, then run again", here=True),
}
_STATUSES = {
    **dict.fromkeys((301, 302, 307, 308), _REGION),
    401: _DENIED,
    403: _DENIED,
    404: _NO_BUCKET,
    408: _BUSY,
    412: Trouble("it was changed meanwhile", "run again"),
    425: _BUSY,
    429: _BUSY,
    501: _NOT_THERE,
    507: _FULL,
}
_CREDENTIALS = Trouble(
    "there are no credentials",
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (profiles are not read), or what `batchflux docs stores` names",
)
_WORDS = (  # of what there was no answer to, the first that is found
    (("token request", "169.254.169.254", "/latest/api/token", "credential provider"), _CREDENTIALS),
    (("ertificate", "UnknownIssuer"), Trouble("its certificate is not trusted", "check the endpoint in `stores`")),
    (("redirect",), _REGION),
    (("dns error",), Trouble("its host was not found", "check the endpoint and the network", passes=True)),
    (("ConnectionRefused",), Trouble("nothing answers there", "check the endpoint and the network", passes=True)),
    (("TimedOut", "kind: Timeout"), Trouble("it did not answer in time", "check the network", passes=True)),
    (("HTTP error", "Http("), Trouble("the connection was cut", "check the network, then run again", passes=True)),
)


def code_of(error: BaseException) -> str | None:
    """Return the code that a store gave with a refusal."""
    found = _CODE.search(str(error))
    return None if found is None else found[1] or found[2]


def speechless(error: BaseException) -> bool:
    """Whether a store refused without a word."""
    return code_of(error) is None and _STATUS.search(str(error)) is not None


def trouble_of(error: BaseException) -> Trouble:
    """Return what an error of obstore means; its cause names what the store said, without addresses and secrets."""
    text = str(error)
    status, code = _STATUS.search(text), code_of(error)
    number = int(status[1]) if status else None
    found = _CODES.get(code or "") or _by_words(text) or _STATUSES.get(number or 0)
    if found is None and number is not None and number >= _LEAST_OF_SERVERS:
        found = _BUSY
    said = " ".join(str(part) for part in (number, code) if part is not None)
    if found is None:
        words = _MESSAGE.search(text)
        told = tidy(words[1] if words else _ASKED.sub("", text.partition(_TRACE)[0]), limit=160)
        return Trouble(f"the store said: {said or type(error).__name__}: {told}", "see what it means, then run again")
    if found is _REGION and (expected := re.search(r"expecting '([a-z0-9-]+)'", text)):
        found = found._replace(cause=f"{found.cause}, {expected[1]}")
    return found._replace(cause=f"{found.cause} ({said})") if said else found


def _by_words(text: str) -> Trouble | None:
    return next((trouble for words, trouble in _WORDS if any(word in text for word in words)), None)
