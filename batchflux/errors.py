"""Every way batchflux fails, in one tree.

    BatchfluxError                  has an exit code; its text is one sentence for the user
    ├── ManifestError       exit 2  the manifest cannot be run; carries all its Faults
    ├── UsageError          exit 2  a command was called with something that cannot work
    ├── StopRun             exit 3  the run ends before its end; running again continues it
    │   └── StorageError    exit 3  the output folder cannot take more (full disk, read-only, removed)
    ├── FolderBusy          exit 4  another process runs this folder
    └── JobError                    one job's step failed; `code` says why, RULES what follows

A message names the cause, the place and the remedy. Secrets never enter a message: see redaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from decimal import Decimal

EXIT_CODES = {
    "0": "every job done",
    "1": "finished, some jobs failed or unknown",
    "2": "usage or manifest fault, nothing spent",
    "3": "stopped before the end (budget, deadline, failing provider, canary), run again to continue",
    "4": "another process is running this folder",
    "130/143": "stopped by a signal after draining",
    "70": "ended by a bug of ours, run again to continue",
}
SHOWN_FAULTS = 20
_SHOWN = 60  # characters of a stranger's text in a message
_LONGEST_FAULT = 1500  # characters; of a longer text the middle is left out


def quoted(text: str) -> str:
    """The text in quotes, cut to a readable length, on one line."""
    cut = text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
    visible = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in cut)
    return f'"{visible}"'


class Code(StrEnum):
    """Why a step of a job failed: the `error_code` of results.csv."""

    RATE_LIMITED = "rate_limited"
    SERVER = "server"
    NETWORK = "network"
    TIMEOUT = "timeout"
    BAD_ANSWER = "bad_answer"
    NO_IMAGE = "no_image"
    DOWNLOAD = "download"
    BAD_IMAGE = "bad_image"
    DIFFERS = "differs"
    ECHOED_INPUT = "echoed_input"
    MODERATED = "moderated"
    INVALID_REQUEST = "invalid_request"
    AUTH = "auth"
    QUOTA = "quota"
    REFERENCE = "reference"
    UNSAFE_URL = "unsafe_url"
    INTERNAL = "internal"
    UNKNOWN = "unknown"


CAUSES: Mapping[Code, str] = MappingProxyType(
    {
        Code.RATE_LIMITED: "429, or the same inside a 200",
        Code.SERVER: "an answer 5xx, an HTML error page, a task that failed at the provider's side",
        Code.NETWORK: "not reached before the request left: refused, not resolved, TLS",
        Code.TIMEOUT: "no connection in time, before the request left",
        Code.BAD_ANSWER: "an answer that was not understood; kept in answers/",
        Code.NO_IMAGE: "an answer without a picture; kept in answers/",
        Code.DOWNLOAD: "the picture's link is dead, refused or slow",
        Code.BAD_IMAGE: "bytes that are not a whole picture",
        Code.DIFFERS: "a whole picture, not as ordered; kept in rejected/",
        Code.ECHOED_INPUT: "the answer is a reference, unchanged",
        Code.MODERATED: "the provider's moderation refused the prompt, a reference or the picture",
        Code.INVALID_REQUEST: "the provider does not take the request as it is",
        Code.AUTH: "the key was refused",
        Code.QUOTA: "the account is out of balance, or over its quota",
        Code.REFERENCE: "a local reference is missing, broken or unreadable",
        Code.UNSAFE_URL: "a link into a private network, which allow_hosts does not name; never fetched",
        Code.INTERNAL: "a fault of batchflux itself; traceback in run.log",
        Code.UNKNOWN: "the request left and no answer will come: reset, cut off, timed out, a gateway gave up, a crash",
    }
)
"""What each code says to a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What one error code means.

    `retry` says what follows a failed API step: `backoff` sends it again after a pause, `once` at most once a job,
    `resend` at most once a job and invocation (and only if the user lets it), `limits` as soon as the limits or another
    key allow. `billed` is what the attempt counts as, unless the error says otherwise; `maybe` is possibly billed.
    `attempt`: whether it is one of the job's attempts. `fault` names who is at fault: failures of a `job` say nothing
    about the provider, those of a `key` take the key out of the pool, `away` means that the provider is not there: then
    engine/outages.py says whether it is an attempt. `fetch_again`: whether a download that fails so is tried again;
    `keeps_link`: whether what the job has on record (a link, bytes) may still be its picture. `untold`: whether it says
    nothing of whether the provider makes usable pictures, so that the canary gives its place back. `free`: whether what
    failed so reached nobody, or is a link that may be followed later, so that to try again costs nothing.
    """

    retry: Literal["backoff", "once", "resend", "limits", "never"] = "never"
    billed: Literal["no", "maybe", "yes"] = "no"
    attempt: bool = True
    fault: Literal["job", "provider", "away", "key", "link", "us"] = "provider"
    fetch_again: bool = False
    keeps_link: bool = True
    untold: bool = False
    free: bool = False


RULES: Mapping[Code, Rule] = MappingProxyType(
    {
        Code.RATE_LIMITED: Rule(retry="limits", attempt=False, untold=True),
        Code.SERVER: Rule(retry="backoff", fault="away", untold=True),
        Code.NETWORK: Rule(retry="backoff", fault="away", untold=True, free=True),
        Code.TIMEOUT: Rule(retry="backoff", fault="away", untold=True, free=True),
        Code.BAD_ANSWER: Rule(retry="once", billed="maybe"),
        Code.NO_IMAGE: Rule(retry="once", billed="maybe"),
        Code.DOWNLOAD: Rule(fault="link", fetch_again=True, free=True),
        Code.BAD_IMAGE: Rule(fault="link", fetch_again=True),
        Code.DIFFERS: Rule(billed="yes", keeps_link=False),
        Code.ECHOED_INPUT: Rule(billed="yes", fault="job", keeps_link=False),
        Code.MODERATED: Rule(fault="job", untold=True),
        Code.INVALID_REQUEST: Rule(untold=True),
        Code.AUTH: Rule(retry="limits", attempt=False, fault="key", untold=True),
        Code.QUOTA: Rule(retry="limits", attempt=False, fault="key", untold=True),
        Code.REFERENCE: Rule(fault="job", untold=True),
        Code.UNSAFE_URL: Rule(fault="job", free=True),
        Code.INTERNAL: Rule(billed="maybe", fault="us"),
        Code.UNKNOWN: Rule(retry="resend", billed="maybe", fault="away"),
    }
)
"""What each code means. Whoever asks about a code reads it here, and nowhere else."""


class BatchfluxError(Exception):
    """Base of all errors that batchflux raises on purpose."""

    exit_code = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing wrong with a manifest or a table it names: what was found and what is allowed.

    `line` is 1-based, None for the file as a whole; `where` is the key's path (`jobs[2].aspect_ratio`) or empty.
    """

    file: str
    line: int | None
    where: str
    message: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        text = f"{place}: {self.where}: {self.message}" if self.where else f"{place}: {self.message}"
        # Names of files and columns are a stranger's text: as long as they like, and commands to a terminal.
        text = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
        longest = text[: _LONGEST_FAULT // 2] + "..." + text[-_LONGEST_FAULT // 4 :]
        return text if len(text) <= _LONGEST_FAULT else longest


class ManifestError(BatchfluxError):
    """The manifest has faults; nothing was spent."""

    exit_code = 2

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        shown = [str(fault) for fault in self.faults[:SHOWN_FAULTS]]
        if len(self.faults) > SHOWN_FAULTS:
            shown.append(f"... and {len(self.faults) - SHOWN_FAULTS} more faults")
        super().__init__("\n".join(shown))


class UsageError(BatchfluxError):
    """A command was called with something that cannot work."""

    exit_code = 2


class StopRun(BatchfluxError):  # noqa: N818  it is the run's end, not a mistake
    """The run stops before its end: budget, deadline, failing provider. Resumable.

    `to_raise` is the key under `limits` without a raise of which another run would stop at once, too.
    """

    exit_code = 3

    def __init__(self, reason: str, message: str, *, to_raise: str | None = None) -> None:
        self.reason, self.to_raise = reason, to_raise
        super().__init__(message)


class StorageError(StopRun):
    """The output folder cannot take what must be kept."""

    def __init__(self, message: str) -> None:
        super().__init__("storage", message)


class FolderBusy(BatchfluxError):  # noqa: N818  reads as a state
    """Another process is running this output folder."""

    exit_code = 4


class JobError(BatchfluxError):
    """A step of one job failed.

    `message` is one line for the `error` column, without secrets; `retry_after` the seconds that the server asked us to
    wait. `billed`: whether the provider may have billed the attempt although it gave no picture; left out, as RULES
    says. `dead`, for `download`: the link itself is gone (404, 410), not merely slow. `final`: the answer itself
    explains why there is no picture, so the same request would give the same again. `answer` is set by the reader of an
    answer to the whole body that it did not understand. `cause` is set, for `download`, to what the failure would be
    called in an API step where the host is at fault: `network`, it was not reached; `server`, 5xx or too slow. `itself`
    is set, for `server`, where the API itself answered so, and not a gateway in its place. `tokens` are those that an
    answer counts although it has no picture, `amount` what it says in USD that it cost, as in `models.Cost`; None where
    it does not say. `receipt` is how the provider's books name the request, where an answer told.
    """

    answer: bytes | None = None
    tokens: Mapping[str, int] | None = None
    amount: Decimal | None = None
    receipt: str | None = None
    cause: Code | None = None
    itself: bool = False

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        retry_after: float | None = None,
        billed: bool | None = None,
        dead: bool = False,
        final: bool = False,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after = retry_after
        self.billed = RULES[code].billed != "no" if billed is None else billed
        self.dead = dead
        self.final = final

    @property
    def tells_cost(self) -> bool:
        """Whether the answer told what it cost."""
        return bool(self.tokens) or self.amount is not None

    def __reduce__(self) -> tuple[object, ...]:
        make = partial(JobError, retry_after=self.retry_after, billed=self.billed, dead=self.dead, final=self.final)
        names = ("answer", "cause", "itself", "tokens", "amount", "receipt")
        return make, (self.code, self.message), {name: getattr(self, name) for name in names}


class ReadError(Exception):
    """A text cannot be read further: on which line, and why."""

    def __init__(self, line: int | None, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message
