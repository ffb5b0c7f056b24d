"""What an API is that calls a URL of ours once a task has ended; pure: no I/O, and the time comes with the call.

A Provider names its WebhookApi in `webhooks`. Its `submit` puts `Job.webhook_url` (and `webhook_secret`, where the API
takes one) into the request; the engine fills both in where the job has none of its own. A call that is verified means
that its task is asked for now, and nothing else: what it says of links, states and costs is not read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from batchflux.models import HttpRequest


class WrongSignatureError(Exception):
    """A call was not signed by whom it should be, or too long ago; what it says is nobody's word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call as it came: names of headers in lower case, the body as it was sent, `at` in epoch seconds."""

    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    at: float


class WebhookApi(ABC):
    """How one API calls."""

    def missing(self) -> str | None:
        """Return what is needed here to verify its calls and is not there, with the remedy; asked at plan time."""
        return None

    def keys(self) -> HttpRequest | None:
        """Return the free step whose reader returns SigningKeys, by which calls are verified; asked at most hourly.

        None: calls are signed with `Job.webhook_secret`, or not at all; then only who knows the URL can make them.
        """
        return None

    @abstractmethod
    def verify(self, call: Call, keys: Collection[str]) -> None:
        """Raise WrongSignatureError unless the call is the API's own.

        `keys` are its SigningKeys, or the one `webhook_secret` that was sent with each job.
        """

    @abstractmethod
    def tasks(self, call: Call) -> tuple[str, ...]:
        """Return what may be the task that a verified call speaks of, as `Provider.task_of` names it; nothing: none."""
