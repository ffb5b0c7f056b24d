"""OpenAI's images: one long call, whose answer holds the picture as base64; and servers that speak the same.

OpenAI's own models take references as data URLs or links in JSON. Relays and the servers that people run themselves
(vLLM-Omni, SGLang, LiteLLM, LocalAI) mostly know the older form only, so for models that are not OpenAI's files travel
in a form; a server that refuses JSON without having read it is asked once more in a form. A call can not be asked for
again by any id, and an answer that is lost stays lost: with `options: {stream: true, partial_images: 1}` the connection
stays busy, which proxies that cut idle ones after a minute let live.
Facts: https://developers.openai.com/api/reference/resources/images, and
https://docs.vllm.ai/projects/vllm-omni/en/latest/serving/image_edit_api, read in November 2026.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from batchflux.capabilities import Capabilities
from batchflux.errors import Code, JobError
from batchflux.models import Cost, HttpRequest, Json, Multipart, Then
from batchflux.providers.answers.failures import left_open
from batchflux.providers.answers.reading import AnswerReader, recoded
from batchflux.providers.answers.untrusted import UnreadableError, told_counts
from batchflux.providers.base import Provider, carried, file_of, in_json, size_of
from batchflux.providers.openai_batches import TERMS, OpenAiBatches

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batchflux.models import Finished, Job, Reply

_OWN = re.compile(r"(?:.*/)?(?:chatgpt-image|gpt-image-)")  # what is not OpenAI's own is left to its server to check
_THREE_SIZES = re.compile(r"(?:.*/)?(?:chatgpt-image|gpt-image-1(?!\d))")  # later ones make any, up to a ratio of 3:1
_SIZES = {"1:1": "1024x1024", "3:2": "1536x1024", "2:3": "1024x1536"}
_FIELDS = frozenset({"aspect_ratio", "output_format", "quality", "background"})
_ALLOWED = {"quality": ("auto", "low", "medium", "high"), "background": ("auto", "transparent", "opaque")}
_UNREAD = re.compile(r"multipart|form-?data", re.IGNORECASE)  # said of a request whose form was not understood
_LACKING = re.compile(
    r"field required|content[-_ ]?type|boundary|\b(?:image|prompt|model)\b.{0,40}\b(?:required|missing)"
    r"|\b(?:required|missing)\b.{0,40}\b(?:image|prompt|model)\b",
    re.IGNORECASE | re.DOTALL,
)
_BLOCKED = re.compile(
    r"(?:resource|account|organi[sz]ation) .{0,40}(?:blocked|suspended|disabled)|unsupported_country", re.IGNORECASE
)
_MADE = re.compile(r'"moderation_stage"\s*:\s*"output"')
_BEGUN = re.compile(r"\bimage_(?:generation|edit)\.partial_image\b")
_MAY_TELL = frozenset({Code.MODERATED, Code.NO_IMAGE})
_BAD, _UNPROCESSABLE, _MEDIA, _FORBIDDEN, _FAILED = 400, 422, 415, 403, 500  # HTTP


_GENERATIONS, _EDITS = "/v1/images/generations", "/v1/images/edits"


class Options(BaseModel):
    """What only OpenAI's images know; `n` stays 1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: str | None = Field(None, pattern=r"^(?:auto|[1-9]\d{1,4}x[1-9]\d{1,4})$")
    moderation: Literal["auto", "low"] | None = None
    output_compression: int | None = Field(None, ge=0, le=100)
    input_fidelity: Literal["high", "low"] | None = None
    stream: bool | None = None
    partial_images: int | None = Field(None, ge=0, le=3)
    safety_identifier: str | None = None
    user: str | None = None
    edits: Literal["json", "multipart"] | None = None


class OpenOptions(Options):
    """The same, and whatever else a server of one's own knows."""

    model_config = ConfigDict(extra="allow", frozen=True)

    n: Literal[1] | None = None


class Answers(AnswerReader):
    """Reads OpenAI's answers; `instead` is the same request in a form, for a server that refuses the JSON of this.

    Where it cannot travel so, `remedy` says what would.
    """

    def __init__(
        self,
        job: Job,
        status: int,
        headers: Mapping[str, str],
        *,
        instead: HttpRequest | None = None,
        remedy: str = "",
    ) -> None:
        super().__init__(job, status, headers)
        self._instead, self._remedy = instead, remedy

    def finish(self, *, complete: bool) -> Reply:
        """Return the picture, or the same request in another form; JobError with the code of what came instead."""
        try:
            return self.picture(complete=complete)
        except JobError as error:
            if not self._unread(error):
                raise
            if self._instead is not None:
                return Then(request=self._instead)
            error.message += self._remedy
            raise

    def picture(self, *, complete: bool) -> Finished:
        """Return the picture, and how many tokens it took."""
        finished = super().picture(complete=complete)
        return replace(finished, cost=self._told())

    def explained(self, error: JobError) -> JobError:
        """Return what OpenAI means: a blocked account is no prompt's fault, and a picture that was made may be paid.

        One that had begun to come may be, too: each partial picture is billed, and nothing says that a stream that
        fails after some is free.
        """
        begun = self._success and _BEGUN.search(self._text) is not None
        if self._status == _FORBIDDEN and _BLOCKED.search(self._text):
            error = recoded(error, Code.AUTH)
        elif error.code is Code.SERVER and begun:
            error = left_open(error, surely=True)
        elif error.code is Code.MODERATED and (begun or _MADE.search(self._text)):
            error = recoded(error, Code.MODERATED, billed=True)
        if error.billed and error.code in _MAY_TELL and (cost := self._told(pictured=False)) is not None:
            error.tokens = cost.tokens
        return super().explained(error)

    def _told(self, *, pictured: bool = True) -> Cost | None:
        usage = next((one["usage"] for one in self.documents() if isinstance(one, dict) and one.get("usage")), None)
        return _cost(usage, pictured=pictured)

    def _unread(self, error: JobError) -> bool:
        """Whether a request was refused because its JSON was not understood, and nothing can have been made of it."""
        if error.code not in (Code.INVALID_REQUEST, Code.SERVER):
            return False
        if self._status in (_BAD, _UNPROCESSABLE, _FAILED) and _UNREAD.search(self._text):
            return True
        lacking = self._status in (_BAD, _UNPROCESSABLE) and _LACKING.search(self._text) is not None
        return self._status == _MEDIA or lacking


class OpenAi(Provider):
    """`POST /v1/images/generations`, and `/v1/images/edits` where there are references."""

    api = style = "openai"
    answers = Answers
    batches = OpenAiBatches(lambda job: OpenAi().in_batch(job))

    def capabilities(self, model: str) -> Capabilities:
        """Return what OpenAI's models make; of others, that they may know a seed and any size."""
        own = _OWN.match(model) is not None
        sizes = {"aspect_ratio": tuple(_SIZES)} if _THREE_SIZES.match(model) else {}
        return Capabilities(
            api=self.api,
            model="gpt-image-1.5",
            style=self.style,
            fields=_FIELDS | {"mask"} | (frozenset() if own else {"seed", "negative_prompt"}),
            formats=frozenset({"jpeg", "png", "webp"}),
            local_images=True,
            most_images=16 if own else None,
            allowed=_ALLOWED | sizes if own else {},
            files="data URL, or form",
            tells_cost=True,
            options=Options if own else OpenOptions,
            base_url="https://api.openai.com",
            key_names=("OPENAI_API_KEY",),
            conflicts=_conflicts,
            batch=TERMS if own else None,
        )

    def takes_links(self, job: Job) -> bool:
        """Whether the references of a job may travel as links: in JSON."""
        return dict(job.options).get("edits") != "multipart"

    def submit(self, job: Job, attempt: int) -> HttpRequest:
        """Return the one request; JobError `reference`, or `invalid_request`, which says what it cannot carry."""
        body = self._body(job)
        form = body.pop("edits", None)
        if job.images:
            return self._edits(job, body, form or ("json" if _OWN.match(job.model) else None))
        return self.one_call(job, _GENERATIONS, Json(value=body))

    def in_batch(self, job: Job) -> tuple[str, Mapping[str, Any]]:
        """Return the endpoint of a job, and the JSON that it is in a batch; JobError as of `submit`."""
        body = self._body(job)
        body.pop("edits", None)
        return (_EDITS, _with_images(job, body)) if job.images else (_GENERATIONS, body)

    def _body(self, job: Job) -> dict[str, Any]:
        """Return a request without its references."""
        offer, own = self.capabilities(job.model), _OWN.match(job.model) is not None
        asked = carried(job, offer.fields - {"mask"})
        if (ratio := asked.pop("aspect_ratio", None)) is not None:
            known = _SIZES.get(offer.value_for("aspect_ratio", ratio)) if own else None
            asked = {"size": known or "{}x{}".format(*size_of(ratio)), **asked}
        clear = asked.get("background") == "transparent"
        names = ("images", "mask", "background", "output_format", "options")
        for _, message in _conflicts({name: getattr(job, name) for name in names}):
            raise JobError(Code.INVALID_REQUEST, message)
        if own:  # always sent, as for other APIs: OpenAI's default is png
            asked = {"output_format": "png" if clear else "jpeg", **asked}
        return {"model": job.model, "prompt": job.prompt, **asked}

    def _edits(self, job: Job, body: dict[str, Any], form: str | None) -> HttpRequest:
        """Return the request with references: in JSON, in a form, or as they can travel (None)."""
        links = [image for image in job.references if image.url is not None]
        only_links = any(image.path is None for image in links)
        in_form = None if only_links else self.one_call(job, _EDITS, _form(job, body))
        if in_form is not None and form != "json" and not links:
            return in_form
        if dict(job.options).get("edits") == "json":
            how: dict[str, Any] = {"remedy": "; set options: {edits: multipart}"}
        else:
            how = {
                "instead": in_form,
                "remedy": "; it may take files in a form only: save the photos and name the files",
            }
        request = self.one_call(job, _EDITS, Json(value=_with_images(job, body)))
        return replace(request, reader=partial(Answers, job, **how))


def _with_images(job: Job, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request with its references, as JSON has them."""
    told = {**body, "images": [{"image_url": in_json(image)} for image in job.images]}
    return told if job.mask is None else {**told, "mask": {"image_url": in_json(job.mask)}}


def _conflicts(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if values.get("background") == "transparent" and values.get("output_format") == "jpeg":
        yield "background", "a jpeg has no transparent background; set output_format: png or webp"
    images, mask = values["images"], values.get("mask")
    if mask is not None and not images:
        yield "mask", "a mask says what of a reference is painted anew; add images"
    link = next(
        (one for one in (*images, mask) if one is not None and one.url is not None and one.address is None), None
    )
    if link is not None and dict(values["options"]).get("edits") == "multipart":
        message = f"a form cannot carry the link {link.source.partition('?')[0]}"
        yield "options", f"{message}; save the photo beside the manifest, or set options: {{edits: json}}"


def _form(job: Job, body: Mapping[str, Any]) -> Multipart:
    """Return a request as a form; a single picture stands where all servers look for it."""
    name = "image" if len(job.images) == 1 else "image[]"
    texts = [(key, str(value).lower() if isinstance(value, bool) else str(value)) for key, value in body.items()]
    files = [(name, file_of(image)) for image in job.images]
    mask = [] if job.mask is None else [("mask", file_of(job.mask))]
    return Multipart(parts=(*texts, *files, *mask))


def _cost(usage: Any, *, pictured: bool) -> Cost | None:
    """Return how many tokens an answer counts; None where it does not, or what it counts does not add up.

    Of an answer without a picture it may be none of a picture.
    """
    try:
        whole = told_counts(usage, taken="input_tokens", given="output_tokens")
        taken = told_counts(usage.get("input_tokens_details") or {}, text_in="text_tokens", image_in="image_tokens")
        given = told_counts(usage.get("output_tokens_details") or {}, text_out="text_tokens")
    except UnreadableError:
        return None
    rest, image_out = whole["taken"] - sum(taken.values()), whole["given"] - given["text_out"]
    if rest < 0 or image_out < 0 or (pictured and not image_out):
        return None
    counts = {**taken, "in": rest, **given, "image_out": image_out}
    return Cost(tokens={kind: count for kind, count in counts.items() if count})


PROVIDERS = (OpenAi(),)
