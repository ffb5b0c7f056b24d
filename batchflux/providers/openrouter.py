"""OpenRouter's images: one call, whose answer holds the picture as base64 and says what it cost in USD.

All its image models are asked by the image API; `options: {endpoint: chat}` asks one by chat, whose picture stands
beside the words. What a model cannot take is refused, for free. OpenRouter bills no request that failed at its side or
gave nothing (https://openrouter.ai/docs/features/zero-completion-insurance), but a gateway in between may give up
before it. Facts: https://openrouter.ai/docs/guides/overview/multimodal/image-generation and
https://openrouter.ai/docs/api-reference/errors, read in November 2026.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from batchflux.capabilities import Capabilities
from batchflux.errors import Code, JobError
from batchflux.models import Cost, HttpRequest, Json
from batchflux.providers.answers.failures import complaints_in, from_complaints
from batchflux.providers.answers.reading import AnswerReader, recoded
from batchflux.providers.answers.untrusted import UnreadableError, parse, told_text
from batchflux.providers.base import Provider, carried, in_json
from batchflux.providers.books.openrouter import Generations

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batchflux.models import Finished, Job

_CHAT = {"aspect_ratio": "aspect_ratio", "resolution": "image_size"}  # fields, as they stand in image_config
_FIELDS = frozenset({"seed", "aspect_ratio", "resolution", "quality", "output_format", "background"})
_FREE = frozenset({408, 502, 503})  # said by OpenRouter itself: nothing was made, and nothing is billed
_TELLS = frozenset({Code.NO_IMAGE, Code.BAD_ANSWER, Code.MODERATED, Code.ECHOED_INPUT})  # without a picture, but paid
_MOST = 10_000  # USD; more is no price of a picture


class Options(BaseModel):
    """What only OpenRouter knows; `provider` is its choice of who serves the model, `n` stays 1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint: Literal["images", "chat"] | None = None
    size: str | None = Field(None, pattern=r"^[1-9]\d{1,4}x[1-9]\d{1,4}$")
    output_compression: int | None = Field(None, ge=0, le=100)
    provider: dict[str, Any] | None = None
    modalities: list[Literal["image", "text"]] | None = None


class Answers(AnswerReader):
    """Reads OpenRouter's answers, of either endpoint."""

    def picture(self, *, complete: bool) -> Finished:
        """Return the picture, and what it cost."""
        finished = super().picture(complete=complete)
        return replace(finished, cost=self._told())

    def explained(self, error: JobError) -> JobError:
        """Return what OpenRouter means by its error, which may stand in an answer of status 200."""
        told, cost = next(self._errors(), None), self._told()
        error = error if told is None else _meant(error, told, waits="retry-after" in self._headers)
        if error.code in _TELLS and cost is not None and cost.amount is not None:
            error.amount, error.billed = cost.amount, cost.amount > 0
        return super().explained(error)

    def _told(self) -> Cost | None:
        usages = [usage for one in self.documents() if (usage := _object(one, "usage"))]
        return _cost(usages[-1]) if usages else None

    def receipt(self) -> str | None:
        """Return the id of the generation, which a header tells, or a chat's answer."""
        told = self._headers.get("x-generation-id")
        ids = (told_text(one.get("id")) for one in self.documents() if isinstance(one, dict)) if told is None else ()
        return told or next((name for name in ids if name and name.startswith("gen-")), None)

    def _errors(self) -> Iterator[Mapping[str, Any]]:
        for document in self.documents():
            choices = document.get("choices") if isinstance(document, dict) else None
            for one in (document, *(choices if isinstance(choices, list) else ())):
                if found := _object(one, "error"):
                    yield found


class OpenRouter(Provider):
    """`POST /v1/images`, or `/v1/chat/completions` with modalities."""

    api = style = "openrouter"
    answers = Answers
    books = Generations()

    def capabilities(self, model: str) -> Capabilities:
        """Return that most fields have a place; which of them a model takes, OpenRouter says for free."""
        return Capabilities(
            api=self.api,
            model="",
            style=self.style,
            fields=_FIELDS,
            formats=frozenset({"jpeg", "png", "webp"}),
            local_images=True,
            allowed={"background": ("auto", "transparent", "opaque")},
            files="data URL",
            tells_cost=True,
            options=Options,
            base_url="https://openrouter.ai/api",
            key_names=("OPENROUTER_API_KEY",),
            conflicts=_conflicts,
        )

    def submit(self, job: Job, attempt: int) -> HttpRequest:
        """Return the one request; JobError: `reference`, one could not be read; `invalid_request`, not by chat."""
        asked = carried(job, _FIELDS)
        by_chat = asked.pop("endpoint", None) == "chat"
        references = [{"type": "image_url", "image_url": {"url": in_json(image)}} for image in job.images]
        if by_chat:
            body = _chat(job, asked, references)
        else:
            asked.pop("modalities", None)
            body = {"model": job.model, "prompt": job.prompt, **asked}
            body |= {"input_references": references} if references else {}
        return self.one_call(job, "/v1/chat/completions" if by_chat else "/v1/images", Json(value=body))


def _conflicts(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    options = dict(values["options"])
    asked = {name for name, value in {**values, **options}.items() if value is not None}
    unfit = sorted(asked & (_FIELDS - _CHAT.keys() - {"seed"} | {"size", "output_compression"}))
    if unfit and options.get("endpoint") == "chat":
        yield unfit[0], f"chat has no place for {', '.join(unfit)}; remove it, or options.endpoint"


def _chat(job: Job, asked: dict[str, Any], references: list[dict[str, Any]]) -> dict[str, Any]:
    for _, message in _conflicts({**asked, "options": job.options}):
        raise JobError(Code.INVALID_REQUEST, message)
    config = {key: asked.pop(name) for name, key in _CHAT.items() if name in asked}
    content = [{"type": "text", "text": job.prompt}, *references] if references else job.prompt
    return {
        "model": job.model,
        "messages": [{"role": "user", "content": content}],
        "modalities": ["image", "text"],
        **({"image_config": config} if config else {}),
        **asked,
    }


def _meant(error: JobError, told: Mapping[str, Any], *, waits: bool) -> JobError:
    """Return the error by what OpenRouter's own object says; `waits`: the answer says when to try again."""
    metadata = _object(told, "metadata") or {}
    if _raw(metadata.get("raw")) is Code.MODERATED:
        return recoded(error, Code.MODERATED, billed=False)
    match told.get("code"):
        case 403 if metadata.get("reasons") or metadata.get("flagged_input"):
            return recoded(error, Code.MODERATED, billed=False)
        case 403:
            return error if error.code is Code.MODERATED else recoded(error, Code.AUTH)
        case 402 if waits or "in_flight" in str(metadata.get("limit_source")):
            return recoded(error, Code.RATE_LIMITED)
        case int(code) if code in _FREE and error.code in (Code.UNKNOWN, Code.SERVER):
            return recoded(error, Code.SERVER)
    return error


def _raw(raw: Any) -> Code | None:
    """Return what the error of the one who serves the model means, which is told as it came, also as text."""
    try:
        value = parse(raw) if isinstance(raw, str) else raw
    except UnreadableError:
        value = raw
    complaints = complaints_in(value, certain=True) if value else ()
    return from_complaints(complaints).code if complaints else None


def _object(value: Any, key: str) -> dict[str, Any] | None:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else None


def _cost(usage: Mapping[str, Any]) -> Cost | None:
    """Return what an answer says it cost; with a key of one's own at the model's maker, what that one bills as well."""
    details = _object(usage, "cost_details") or {}
    parts = [usage.get("cost")]
    if usage.get("is_byok") is True:
        parts.append(details.get("upstream_inference_cost"))
    told = [part for part in parts if isinstance(part, int | float) and not isinstance(part, bool)]
    amounts = [Decimal(str(part)) for part in told if 0 <= part < _MOST]
    return Cost(amount=sum(amounts, Decimal(0))) if len(amounts) == len(parts) else None


PROVIDERS = (OpenRouter(),)
