"""What clients are told when there is no picture: ONE table, from why it failed to what they should do.

Clients ask again by themselves after 408, 409, 429 and 5xx (OpenAI's SDK, twice). So a call that was billed, or may
have been, is never answered with one of these: it would be bought again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from batchflux.engine.outages import FAILURES
from batchflux.engine.shutdown import BUDGET, CANARY, DEADLINE, SIGNAL, STORAGE
from batchflux.errors import Code
from batchflux.gateway.orders import RefusalError
from batchflux.runner.stream import RENEWED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchflux.runner.stream import NotMadeError

_SERVER_ERROR = "server_error"
_OPERATOR = "Who runs this gateway has to see to it."
WITHDRAWN = "withdrawn"  # as NotMadeError has it
_SOON, _LATER = 10.0, 30.0  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """How one cause is answered: `status`, `code` and `kind` (OpenAI's `type`), and the sentence `says`.

    `quotes`: what the provider said follows; not where that speaks of keys, hosts and files that are not the client's.
    `after`: seconds until it is worth asking again, None: asking again does not help. `why` the row is as it is.
    """

    status: int
    code: str
    says: str
    why: str
    kind: str = "invalid_request_error"
    quotes: bool = False
    after: float | None = None


def _away(code: str, says: str, why: str, *, quotes: bool = False, after: float | None = None) -> Row:
    """Return the row of a cause that is not the client's, and costs nothing: whoever has another server may ask it."""
    return Row(status=503, code=code, says=says, why=why, kind=_SERVER_ERROR, quotes=quotes, after=after)


UNKNOWN = Row(
    status=400,
    code="unknown_outcome",
    says="It is not known what became of this call, and it may have been billed; a new call buys another picture.",
    why="SDKs resend 408, 409, 429 and 5xx by themselves, and would pay twice",
    kind=_SERVER_ERROR,
)
_PAID = "paid for, so nothing may resend it"
_UNSAFE = Row(
    status=400,
    code="download_failed",
    says="The picture was made and paid for, but its link leads into a private network, and was not followed. "
    f"{_OPERATOR}",
    why=_PAID,
    kind=_SERVER_ERROR,
)
ROWS: Mapping[str, Row] = MappingProxyType(
    {
        Code.RATE_LIMITED: _away(
            "provider_rate_limited", "The provider takes no more calls now.", "not the client's own rate", after=_SOON
        ),
        Code.SERVER: _away(
            "provider_failed", "The provider failed.", "it says that nothing was made", quotes=True, after=_SOON
        ),
        Code.NETWORK: _away("provider_unreachable", "The provider cannot be reached.", "no request left", after=_LATER),
        Code.TIMEOUT: _away("provider_unreachable", "The provider cannot be reached.", "no request left", after=_LATER),
        Code.BAD_ANSWER: Row(
            status=400,
            code="bad_answer",
            says="The provider's answer was not understood; it may have been billed.",
            why="it may be billed, so nothing may resend it",
            kind=_SERVER_ERROR,
        ),
        Code.NO_IMAGE: Row(
            status=400,
            code="no_image",
            says="The provider answered without a picture; it may have been billed.",
            why="it may be billed, and its words may say what to ask for instead",
            quotes=True,
        ),
        Code.DOWNLOAD: Row(
            status=400,
            code="download_failed",
            says="The picture was made and paid for, but could not be fetched from the provider; "
            "a retry of this same call tries to, free.",
            why=_PAID,
            kind=_SERVER_ERROR,
        ),
        Code.BAD_IMAGE: Row(
            status=400,
            code="bad_image",
            says="The provider sent what is no whole picture.",
            why=_PAID,
            kind=_SERVER_ERROR,
        ),
        Code.DIFFERS: Row(
            status=400,
            code="differs",
            says="The provider made a picture, but not as it was ordered.",
            why=_PAID,
            quotes=True,
        ),
        Code.ECHOED_INPUT: Row(
            status=400, code="echoed_input", says="The provider sent the reference back, unchanged.", why=_PAID
        ),
        Code.MODERATED: Row(
            status=400,
            code="content_policy_violation",
            says="The provider's moderation refused this.",
            why="OpenAI's own code for it, which shells know",
            quotes=True,
        ),
        Code.INVALID_REQUEST: Row(
            status=400,
            code="invalid_request",
            says="The provider does not take this request as it is.",
            why="the same request would be refused again",
            quotes=True,
        ),
        Code.AUTH: _away(
            "provider_key_refused",
            f"The provider refused the gateway's key. {_OPERATOR}",
            "a 401 would blame the client's key, and shells would ask for another",
        ),
        Code.QUOTA: _away(
            "provider_out_of_credit",
            f"The gateway's account at the provider is used up. {_OPERATOR}",
            "insufficient_quota would be the client's own budget",
        ),
        Code.REFERENCE: Row(
            status=400,
            code="invalid_image",
            says="A picture that came with this request cannot be used.",
            why="the same picture would be refused again",
        ),
        Code.UNSAFE_URL: Row(
            status=400,
            code="unsafe_url",
            says="A link leads into a private network, and was not followed.",
            why="the same link would be refused again",
        ),
        Code.INTERNAL: Row(
            status=400,
            code="internal_error",
            says=f"A fault of the gateway itself; it may have been billed. {_OPERATOR}",
            why="it may have happened after the picture was paid for",
            kind=_SERVER_ERROR,
        ),
        Code.UNKNOWN: UNKNOWN,
        BUDGET: Row(
            status=429,
            code="insufficient_quota",
            says=f"The budget of this key, or of the whole gateway, has no room for it. {_OPERATOR}",
            why="what OpenAI says when a budget is used up; nothing was bought",
            kind="insufficient_quota",
        ),
        DEADLINE: _away("gateway_stopped", "The gateway's time is over.", "nothing was bought"),
        SIGNAL: _away("gateway_stopping", "The gateway is being stopped.", "nothing was bought", after=_SOON),
        FAILURES: _away(
            "provider_failing",
            "The provider failed too often in a row, so nothing more is bought from it for a while.",
            "nothing was bought, and an endless run tries it anew",
            after=_LATER,
        ),
        CANARY: _away(
            "provider_failing",
            f"No picture of this provider could be kept yet, so nothing more is bought from it. {_OPERATOR}",
            "nothing was bought",
        ),
        STORAGE: _away("storage_full", f"The gateway cannot keep pictures now. {_OPERATOR}", "nothing was bought"),
        "bucket": _away("storage_full", f"The gateway cannot keep pictures now. {_OPERATOR}", "nothing was bought"),
        "manifest": _away("manifest_changed", f"The gateway's manifest has a fault. {_OPERATOR}", "nothing was bought"),
        WITHDRAWN: _away("withdrawn", "Nothing was sent for this call.", "nothing was bought", after=_SOON),
        RENEWED: _away(
            "provider_failing",
            "The provider is being tried anew.",
            "nothing was bought, and it may work soon",
            after=_SOON,
        ),
        "bug": _away("internal_error", f"A fault of the gateway itself. {_OPERATOR}", "nothing was bought"),
    }
)
"""What each code of a job, and each reason that ends a run, is answered with; what is in neither is a bug."""


def refusal(cause: str, words: str = "", *, billed: bool, after: float | None = None) -> RefusalError:
    """Return what a client is told: `cause` is a code or the reason of a StopRun, `words` are the provider's.

    `billed`: something was, or may have been. `after` is how many seconds it asked us to wait, where it did.
    """
    row = _UNSAFE if billed and cause == Code.UNSAFE_URL else ROWS[cause]
    if billed and resent(row.status):
        row = UNKNOWN
    first = words.partition("; ")[0]  # what follows is advice to who runs it
    message = f"{row.says} ({first})" if first and row.quotes else row.says
    wait = None if row.after is None else after or row.after
    return RefusalError(row.status, row.code, message, kind=row.kind, retry_after=wait)


def of_not_made(error: NotMadeError, *, billed: bool) -> RefusalError:
    """Return what a client is told whose job was left as it is; `billed` says whether something was before."""
    return refusal(error.reason, billed=billed)


def resent(status: int) -> bool:
    """Whether clients ask again by themselves after an answer of this status."""
    return status in {408, 409, 429} or status >= 500  # noqa: PLR2004  HTTP


def envelope(error: RefusalError) -> dict[str, Any]:
    """Return a refusal in the form of OpenAI's errors."""
    told = {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}
    return {"error": told}


def headers_of(error: RefusalError) -> dict[str, str]:
    """Return a refusal's headers: when to ask again; or, where clients would by themselves, that it does not help."""
    if error.retry_after is not None:
        return {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
    return {"x-should-retry": "false"} if resent(error.status) else {}
