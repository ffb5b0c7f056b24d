"""Gemini's image models: one `generateContent` call, whose answer holds the picture as base64 among its parts.

A model that thinks shows drafts, marked as thoughts, before its picture: the last one that is no thought counts. The
format of the picture cannot be chosen, and a call cannot be asked for again by any id. Google charges nothing for a
request that it answers with an error (https://ai.google.dev/gemini-api/docs/billing), and fetches links itself
(https://ai.google.dev/gemini-api/docs/file-input-methods). Facts: https://ai.google.dev/api/generate-content and
https://ai.google.dev/gemini-api/docs/image-generation, read in November 2026.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict

from batchflux.capabilities import Capabilities
from batchflux.errors import Code, JobError
from batchflux.models import Cost, HttpRequest, Json
from batchflux.providers.answers.reading import AnswerReader, recoded
from batchflux.providers.answers.untrusted import UnreadableError, told_counts
from batchflux.providers.base import Provider, carried, file_of
from batchflux.providers.gemini_batches import TERMS, GeminiBatches

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batchflux.models import Finished, Job, Reference

_RATIOS = ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9")
_SIZES = ("1K", "2K", "4K")
_SMALL = re.compile(r"gemini-2\.")  # models of one size
_FIELDS = frozenset({"seed", "aspect_ratio", "resolution"})
_KEY = re.compile(r"API_KEY_INVALID|API key (?:not valid|expired|not found)", re.IGNORECASE)
_ANSWERED = {  # what the API itself says with a status of its own
    "FAILED_PRECONDITION": Code.AUTH,  # no billing, or not in this region
    "UNAUTHENTICATED": Code.AUTH,
    "PERMISSION_DENIED": Code.AUTH,
    "UNAVAILABLE": Code.SERVER,
    "INTERNAL": Code.SERVER,
    "DEADLINE_EXCEEDED": Code.SERVER,
}
_SECONDS = re.compile(r"\d{1,9}(?:\.\d{1,9})?(?=s$)")


class Options(BaseModel):
    """What only Gemini knows; `generation_config` is merged into what the job's fields say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    generation_config: dict[str, Any] | None = None
    safety_settings: list[dict[str, str]] | None = None
    system_instruction: str | None = None
    tools: list[dict[str, Any]] | None = None


class Answers(AnswerReader):
    """Reads Gemini's answers, and those of relays, which may spell keys in snake_case."""

    last_counts = True

    def picture(self, *, complete: bool) -> Finished:
        """Return the last picture, the others beside it, and how many tokens they took."""
        finished = super().picture(complete=complete)
        return replace(finished, cost=_cost(self._usage(), only_text=not self._job.images))

    def explained(self, error: JobError) -> JobError:
        """Return what Google means by its error, and whether a picture was made before it was refused."""
        if told := next(self._told("error"), None):
            error = _meant(error, told)
        elif error.code in (Code.MODERATED, Code.NO_IMAGE):
            pictured = error.code is Code.MODERATED
            cost = _cost(self._usage(), only_text=not self._job.images, pictured=pictured)
            if pictured:
                error = recoded(error, Code.MODERATED, billed=cost is not None)
            elif "MAX_TOKENS" in self._text:
                error.final = True
            error.tokens = None if cost is None else cost.tokens
        return super().explained(error)

    def _usage(self) -> Any:
        return next(self._told("usageMetadata", "usage_metadata"), None)

    def _told(self, *names: str) -> Iterator[dict[str, Any]]:
        for document in self.documents():
            for one in document if isinstance(document, list) else (document,):
                if isinstance(one, dict):
                    yield from (one[name] for name in names if isinstance(one.get(name), dict))


def _meant(error: JobError, told: Mapping[str, Any]) -> JobError:
    """Return the error by what Google's own words say."""
    status, said = str(told.get("status")), str(told)
    if _KEY.search(said):
        return recoded(error, Code.AUTH)
    if status == "RESOURCE_EXHAUSTED":
        details = [one for one in _list(told.get("details")) if isinstance(one, dict)]
        limits = [one for detail in details for one in _list(detail.get("violations")) if isinstance(one, dict)]
        none = re.search(r"\blimit: 0\b", said) or any(str(one.get("quotaValue")) == "0" for one in limits)
        daily = any("PerDay" in str(one.get("quotaId")) for one in limits)
        made = recoded(error, Code.QUOTA if none or daily else Code.RATE_LIMITED)
        waits = (_SECONDS.match(str(one.get("retryDelay"))) for one in details)
        made.retry_after = next((float(wait[0]) for wait in waits if wait), made.retry_after)
        return made
    code = _ANSWERED.get(status)
    return error if code is None or error.code is Code.MODERATED else recoded(error, code)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


class Gemini(Provider):
    """`POST /v1beta/models/MODEL:generateContent` with `x-goog-api-key`."""

    api = style = "gemini"
    answers = Answers
    batches = GeminiBatches(lambda job: Gemini().asked(job), _meant)

    def capabilities(self, model: str) -> Capabilities:
        """Return that ten ratios can be made, three sizes by most models, and no chosen format."""
        small = _SMALL.match(_name(model)) is not None
        return Capabilities(
            api=self.api,
            model="gemini-2.5-flash-image",
            style=self.style,
            fields=_FIELDS - {"resolution"} if small else _FIELDS,
            formats=frozenset(),
            local_images=True,
            most_images=None if small else 14,
            allowed={"aspect_ratio": _RATIOS} | ({} if small else {"resolution": _SIZES}),
            files="base64",
            tells_cost=True,
            options=Options,
            base_url="https://generativelanguage.googleapis.com",
            key_names=("GEMINI_API_KEY",),
            batch=TERMS,
        )

    def authorize(self, secret: str) -> Mapping[str, str]:
        """Return the header that carries a key."""
        return {"x-goog-api-key": secret}

    def submit(self, job: Job, attempt: int) -> HttpRequest:
        """Return the one request; JobError `reference` when a local reference could not be read."""
        url = f"/v1beta/models/{quote(_name(job.model), safe='')}:generateContent"
        return self.one_call(job, url, Json(value=self.asked(job)))

    def asked(self, job: Job) -> dict[str, Any]:
        """Return the body of a request, as a batch has it, too; JobError as of `submit`."""
        offer = self.capabilities(job.model)
        asked = carried(job, offer.fields)
        shape = {
            key: offer.value_for(name, asked.pop(name))
            for name, key in (("aspect_ratio", "aspectRatio"), ("resolution", "imageSize"))
            if name in asked
        }
        config = {
            "responseModalities": ["TEXT", "IMAGE"],
            **({"imageConfig": shape} if shape else {}),
            **({"seed": asked["seed"]} if "seed" in asked else {}),
            **(asked.get("generation_config") or {}),
        }
        body: dict[str, Any] = {
            "contents": [{"role": "user", "parts": [{"text": job.prompt}, *map(_part, job.images)]}],
            "generationConfig": config,
        }
        for name, key in (("safety_settings", "safetySettings"), ("tools", "tools")):
            if asked.get(name):
                body[key] = asked[name]
        if asked.get("system_instruction"):
            body["systemInstruction"] = {"parts": [{"text": asked["system_instruction"]}]}
        return body


def _name(model: str) -> str:
    return model.rpartition("/")[2]


def _part(image: Reference) -> dict[str, Any]:
    if image.url is not None:
        return {"fileData": {"fileUri": image.url}}
    file = file_of(image, "base64")
    return {"inlineData": {"mimeType": file.media_type, "data": file}}


def _cost(usage: Any, *, only_text: bool, pictured: bool = True) -> Cost | None:
    """Return how many tokens an answer counts; None where it does not, or none for a picture that was made.

    `pictured`: what was made is a picture, where the answer does not tell; otherwise its tokens are of anything.
    `only_text`: nothing but text was sent, so that is what a prompt is of whose parts are not told.
    """
    try:
        told = _camel_keys(usage)
        whole = told_counts(
            told,
            prompt="promptTokenCount",
            tools="toolUsePromptTokenCount",
            made="candidatesTokenCount",
            thought="thoughtsTokenCount",
        )
        taken, made = _by_kind(told.get("promptTokensDetails")), _by_kind(told.get("candidatesTokensDetails"))
    except UnreadableError:
        return None
    if not taken and only_text:
        taken = {"TEXT": whole["prompt"]}
    if not made and pictured:
        made = {"IMAGE": whole["made"]}
    counts = {
        "text_in": taken.get("TEXT", 0),
        "image_in": taken.get("IMAGE", 0),
        "in": whole["prompt"] + whole["tools"] - taken.get("TEXT", 0) - taken.get("IMAGE", 0),
        "text_out": made.get("TEXT", 0) + whole["thought"],
        "image_out": made.get("IMAGE", 0),
        "out": whole["made"] - made.get("TEXT", 0) - made.get("IMAGE", 0),
    }
    if min(counts.values()) < 0 or not (counts["image_out"] if pictured else any(counts.values())):
        return None
    return Cost(tokens={kind: count for kind, count in counts.items() if count})


def _by_kind(details: Any) -> dict[str, int]:
    """Return the tokens of each modality; UnreadableError where they are no counts."""
    counts: dict[str, int] = {}
    for one in _list(details):
        told = _camel_keys(one)
        kind = str(told.get("modality"))
        counts[kind] = counts.get(kind, 0) + told_counts(told, count="tokenCount")["count"]
    return counts


def _camel_keys(value: Any) -> dict[str, Any]:
    """Return an object with its keys as Google writes them; UnreadableError where it is none."""
    if not isinstance(value, dict):
        raise UnreadableError("no object")
    return {re.sub(r"_([a-z])", lambda match: match[1].upper(), key): item for key, item in value.items()}


PROVIDERS = (Gemini(),)
