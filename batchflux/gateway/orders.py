"""What a client orders, whatever it speaks, and what it is refused with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Shape = Literal["images", "chat"]
Data = bytes  # which a field is called, too
MOST_PICTURES = 10  # of one order, as OpenAI's API has it


class RefusalError(Exception):
    """A request that is not carried out: answered with `status`, and in OpenAI's shape `code`, `param` and a sentence.

    `kind` is that shape's `type`. `retry_after` is in seconds; None: it would not help to ask again.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        kind: str = "invalid_request_error",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.param, self.kind, self.retry_after = param, kind, retry_after


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture that came with a request: an http(s) address, or bytes as they came; one of all is set.

    `path` is a file of the output folder: a picture of ours, to which a link led.
    """

    url: str | None = None
    path: str | None = None
    data: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be made: `count` pictures of one prompt.

    `model` is as it was asked for (a model, a provider of the manifest, or `provider/model`), empty for the manifest's
    own. `fields` are job fields by their names (seed, aspect_ratio, quality, ...) as text.
    """

    prompt: str
    model: str = ""
    images: tuple[Picture, ...] = ()
    mask: Picture | None = None
    count: int = 1
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How the client takes its answer.

    `inline`: pictures as base64, else as links; `stream`: as server-sent events. `notes` are told in headers, by their
    names (`size`: which ratio it became, ...).
    """

    shape: Shape = "images"
    inline: bool = False
    stream: bool = False
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """One picture that was made: `path` is its file, `name` what its link ends in, sizes in pixels and bytes.

    Sizes in pixels are 0 where they are not known.

    `cost` reads as a decimal number of the manifest's currency; None where nothing is told or paid. `elsewhere` reads
    it where its file may have gone into a bucket; StorageError: it is not there. `dropped` are fields left out of it.
    `further` are the other pictures that the same answer had; they cost nothing.
    """

    job: str
    name: str
    path: str
    media_type: str
    width: int = 0
    height: int = 0
    bytes: int
    cost: str | None = None
    seed: int | None = None
    revised_prompt: str | None = None
    dropped: Sequence[str] = ()
    further: Sequence[Shot] = ()
    elsewhere: Callable[[], Data] | None = field(default=None, repr=False, compare=False)
