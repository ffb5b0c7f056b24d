"""The data that passes between stages: plain, frozen, picklable; changed only by `dataclasses.replace`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, Protocol

from batchflux.charges.books import Balance, Statement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from batchflux.errors import Code, JobError

BASE, SECONDS = ":base", ":seconds"
"""What the transport adds to the headers that a Reader is given: the provider's address, which relative links lead on
from, and how many seconds passed until the answer began."""

Style = str  # a call style of an API: standard, chat, ...
Format = Literal["jpeg", "png", "webp"]
Verify = Literal["decode", "structure"]
Encoding = Literal["data_url", "base64"]
DIFFERENCES = ("format", "ratio", "colour", "trailing", "animated")
"""What a whole picture may differ in from what was ordered; see `Stored.differs`."""


class Status(StrEnum):
    """How a job stands. The first three are rows of results.csv; `pending` never is."""

    DONE = "done"
    FAILED = "failed"
    UNKNOWN = "unknown"
    PENDING = "pending"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """One reference image of a job: a URL, or a local file with the hex digest of its bytes.

    One of `url` and `path` (absolute) is set; both of a file that was put at `url`. `source` is what the user
    wrote, `media_type` what a file's first bytes say (`image/png`, ...), or what its copy will be, `size` how many
    bytes it has, where known. Of a file that cannot be read, `sha256` is None and `fault` says why in one sentence.
    `settings` is what the manifest says under `references` of local files, as JSON. `steps` are what is done to the
    photo before it is sent; `copy` is what is sent in its place, once it is known.
    """

    source: str
    url: str | None = None
    path: str | None = None
    sha256: str | None = None
    media_type: str | None = None
    fault: str | None = None
    size: int | None = field(default=None, compare=False)
    settings: str = ""
    steps: tuple[str, ...] = ()
    copy: Reference | None = None

    @property
    def address(self) -> str | None:
        """Its URL, where that is an address in a bucket (s3://...): a signed link, or the bytes, are sent for it."""
        return self.url if self.url and "://" in self.url and self.url[:4].lower() != "http" else None

    @property
    def digests(self) -> Iterator[str]:
        """The digests of the bytes by which an answer would be this photo, unchanged: its own and its copy's."""
        return (one.sha256 for one in (self, self.copy) if one is not None and one.sha256 is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How a provider makes a job: by its name in the manifest, with what of a job is its own there."""

    provider: str
    style: Style
    model: str
    options: tuple[tuple[str, Any], ...] = ()
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One image to make.

    `key` is the content hash (64 hex digits) that the ledger knows the job by. Fields that the user did not ask for are
    None, and not sent. `file_name` is relative to the output folder (`images/x.jpg`), `position` counts from 0.
    `provider` is the manifest's name of it, `fallbacks` are the ways by which others make the job, in order.
    `dropped` names the fields that `params: drop` took out of the request. `tags` and `options` are pairs in the order
    written. `redo_of` is the key of the job that a person asked to have tried again; None for the manifest's own.
    `alias` is the key by today's rules of a job that the ledger knows by an older one. `key_provider` is the provider's
    name where the job itself says it: then it is part of the key.
    """

    id: str
    key: str
    prompt: str
    style: Style
    model: str
    provider: str
    file_name: str
    position: int
    images: tuple[Reference, ...] = ()
    seed: int | None = None
    aspect_ratio: str | None = None
    output_format: Format | None = None
    safety_tolerance: int | None = None
    prompt_upsampling: bool | None = None
    variant: int = 1
    webhook_url: str | None = None
    webhook_secret: str | None = field(default=None, repr=False)
    tags: tuple[tuple[str, str], ...] = ()
    negative_prompt: str | None = None
    mask: Reference | None = None
    resolution: str | None = None
    quality: str | None = None
    background: str | None = None
    options: tuple[tuple[str, Any], ...] = ()
    dropped: tuple[str, ...] = ()
    fallbacks: tuple[Way, ...] = ()
    redo_of: str | None = None
    alias: str | None = None
    key_provider: str | None = None

    @property
    def fault(self) -> str | None:
        """Why a reference cannot be sent, or None."""
        return next((image.fault for image in self.references if image.fault is not None), None)

    @property
    def references(self) -> tuple[Reference, ...]:
        """All pictures that the job is made from: its images, then its mask, unless that is dropped."""
        return self.images if self.mask is None or "mask" in self.dropped else (*self.images, self.mask)

    def by(self, way: Way) -> Job:
        """Return the same job, of the same key, as another provider makes it."""
        made = replace(self, provider=way.provider, style=way.style, model=way.model, options=way.options)
        return replace(made, dropped=way.dropped, fallbacks=())

    def with_references(self, references: Sequence[Reference]) -> Job:
        """Return the job with what became of its `references`, in their order."""
        if references == self.references:
            return self
        own = len(self.images)
        return replace(self, images=tuple(references[:own]), mask=next(iter(references[own:]), self.mask))


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A picture as a URL that has to be fetched."""

    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Inline:
    """A picture whose bytes came with the answer; their hex digest where it was taken already."""

    data: bytes = field(repr=False)
    sha256: str | None = field(default=None, repr=False, compare=False)


Asset = Link | Inline


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalImage:
    """Stands in a request's content for a local file; the transport puts its bytes in as it sends.

    A file whose bytes no longer have this `sha256` is a `reference` error. In JSON it travels as `encoding` says, in
    Multipart and Bytes as the raw file.
    """

    path: str
    sha256: str
    media_type: str
    encoding: Encoding = "data_url"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFile:
    """Stands in a form, or as a whole content, for a file of our own, of any size; the transport streams it."""

    path: str
    size: int
    media_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Json:
    """A request's content as JSON; LocalImage leaves are replaced as it is sent."""

    value: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Multipart:
    """A request's content as a form: pairs of a field's name and a text or a file, in order; a name may come twice."""

    parts: tuple[tuple[str, str | LocalImage | LocalFile], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bytes:
    """A request's content as the bytes of one file."""

    image: LocalImage | LocalFile


Content = Json | Multipart | Bytes


class Reader(Protocol):
    """Takes the body of one answer as it arrives, and makes of it what the provider understands."""

    def feed(self, data: bytes) -> bool:
        """Take the next bytes, cut anywhere; return True once the answer is whole, so that reading may stop."""
        ...

    def finish(self, *, complete: bool) -> Reply:
        """Return the reply, or raise JobError with the code of what came instead; called exactly once.

        `complete` is False when the connection broke before the end.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What an answer says that it cost: `amount` in `currency` (ISO 4217, upper case), or how many `units` or `tokens`.

    A unit is what the model's price is of; `megapixels` are those of the picture and of its references, rounded up.
    Kinds of tokens are text_in, image_in, text_out and image_out, and in or out where the answer does not say of what;
    the manifest has the prices.
    """

    amount: Decimal | None = None
    currency: str = "USD"
    units: Decimal | None = None
    megapixels: int | None = None
    tokens: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """The API accepted a task: `handle` is all that later polls need, durable text without secrets."""

    handle: str
    cost: Cost | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """The task has not ended; `retry_after` is how many seconds to wait, when the API says so."""

    retry_after: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The picture is there. `cost` replaces the price that was reserved; `seed` is the one the API used.

    `more` are further pictures that the answer lists beside it. `handle` is of its task, if a submit's answer had both.
    `receipt` is how the provider's books name the request.
    """

    asset: Link | Inline
    cost: Cost | None = None
    seed: int | None = None
    revised_prompt: str | None = None
    more: tuple[Link | Inline, ...] = ()
    receipt: str | None = None
    handle: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The task ended without a picture, for good: polling it again would say the same."""

    error: JobError


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """The API does not know the task: not yet, or not any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """The handles of the tasks that a lost request may have given; `whole`: also of those that have not ended."""

    handles: tuple[str, ...]
    whole: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploaded:
    """A reference lies at `url` until epoch second `expires` (None: for good)."""

    url: str
    expires: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """A batch has ended: `files` are the ids of those that hold its answers. What is in none was not made, and is free.

    Where it is `completed`, only if all are there that it says it `made` (None: it does not). `error` says why nothing
    was made, where its file was refused.
    """

    state: Literal["completed", "failed", "expired", "cancelled"]
    files: tuple[str, ...] = ()
    made: int | None = None
    error: JobError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKeys:
    """By which an API signs its webhooks: public keys, or secrets that it shares with the account."""

    keys: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Then:
    """A free step was answered, and `request`, as free, has to follow it: where a task's picture lies, for example.

    Of `submit`: the request was refused for its form, which cost nothing, and `request` is the same in another.
    """

    request: HttpRequest


_OfBooks = Balance | Statement["HttpRequest"]
Reply = Submitted | Pending | Finished | Ended | Missing | Listed | Uploaded | Closed | SigningKeys | Then | _OfBooks


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """One HTTP step that a provider wants done.

    `url` is absolute, or a path below the provider's base URL. `reader` makes the Reader of the body from the answer's
    status and headers (names in lower case, BASE and SECONDS among them). `repeatable`: the step is free and may be
    done again (a poll, an upload); another leaves at most once, and its lost answer is `unknown`. Credentials are added
    by the transport, and only for hosts that the provider names. A request that is `keyless` goes where its `url` says
    without them: an answer gave the address, with credentials of its own in `headers`, or in the address.
    """

    method: Literal["GET", "POST", "PUT"]
    url: str
    reader: Callable[[int, Mapping[str, str]], Reader]
    content: Content | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    repeatable: bool = False
    keyless: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchanged:
    """What one HTTP step gave: the reply, its seconds, and how long the API asks to pause (None: it does not)."""

    reply: Reply
    seconds: float
    pause: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A downloaded picture: `data` when small, otherwise `path` of a temporary file that the taker removes."""

    data: bytes | None
    path: str | None
    size: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A verified picture in its place; `file_name` relative to the output folder, sizes in pixels and bytes.

    `differs` names those of DIFFERENCES in which it is not as ordered; `remarks` says so in words. A picture that is
    `refused`, with an error's code and message, is kept in `rejected/`, and its job fails with them.
    """

    file_name: str
    width: int
    height: int
    bytes: int
    sha256: str
    differs: tuple[str, ...] = ()
    remarks: str | None = None
    refused: tuple[Code, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one job ended: what results.csv says beyond the job itself. Times in epoch seconds, `cost` in currency."""

    status: Status
    attempts: int = 0
    possibly_billed: int = 0
    cost: Decimal = Decimal(0)
    stored: Stored | None = None
    error_code: str | None = None
    error: str | None = None
    started_at: float | None = None
    finished_at: float | None = None
    api_seconds: float | None = None
    download_seconds: float | None = None
    result_url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """An attempt that is about to leave; `price` is the most that it may cost, in nanounits, `at` in epoch seconds."""

    provider: str
    key_name: str
    model: str
    price: int
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A picture that an attempt gave: a link, or its spooled name; `cost` is in nanounits, `more` the job's others."""

    asset: Link | str
    cost: int | None = None
    api_seconds: float | None = None
    seed_used: int | None = None
    revised_prompt: str | None = None
    receipt: str | None = None
    handle: str | None = None
    more: tuple[Link, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """A picture in its place, and how many seconds its download took (None: it came with the answer)."""

    stored: Stored
    seconds: float | None = None
