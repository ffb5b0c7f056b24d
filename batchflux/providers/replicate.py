"""Replicate's predictions: `model` is `owner/name` of an official model, or `owner/name:version` of any.

The answer to a request waits a few seconds for its prediction to finish; what is not finished then is asked for. Each
ends by itself after 30 minutes, which `Cancel-After` says once more: what was given up must not go on and bill.
Facts: https://replicate.com/docs/reference/http, read in November 2026.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from pydantic import BaseModel, ConfigDict

from batchflux.capabilities import Capabilities, no_conflicts
from batchflux.errors import Code, JobError
from batchflux.models import (
    Ended,
    Finished,
    HttpRequest,
    Json,
    Listed,
    Missing,
    Multipart,
    Pending,
    SigningKeys,
    Submitted,
    Then,
    Uploaded,
)
from batchflux.providers.answers.documents import DocumentReader, asking, id_in, is_small, named_in, uploading
from batchflux.providers.answers.listed import WINDOW, Search, utc
from batchflux.providers.answers.reading import recoded
from batchflux.providers.base import Provider, carried, file_of, in_json
from batchflux.webhooks.api import WebhookApi
from batchflux.webhooks.signatures import check_standard, key_in

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from batchflux.models import Job, Reference, Reply
    from batchflux.providers.base import Lost
    from batchflux.webhooks.api import Call

_FIELDS = frozenset({"seed", "aspect_ratio", "output_format", "safety_tolerance", "prompt_upsampling"})
_MORE = frozenset({"negative_prompt", "resolution", "quality", "background"})  # of models that are not known
_RATIOS = ("21:9", "16:9", "3:2", "4:3", "5:4", "1:1", "4:5", "3:4", "2:3", "9:16", "9:21", "2:1", "1:2")
_WAIT = 5  # seconds; the id of a prediction is not known before, and a crash meanwhile would lose it
_LONGEST = "30m"  # a prediction's own end, so never shorter than limits.timeout can be of use
_FILE_LIFE, _MARGIN = 3600.0, 600.0  # seconds that an upload lives at least, and before its end when it is not used
_MODERATED = re.compile(r"E005|flagged as sensitive|nsfw|moderat", re.IGNORECASE)
_SERVER = re.compile(r"\b(?:E1000|E6716|E8765|E9243)\b|unexpected error", re.IGNORECASE)
_RESETS = re.compile(r"resets in ~?(\d{1,5}(?:\.\d{1,3})?) ?s", re.IGNORECASE)
_MOST_TOLERANCE = 2  # with an image
_LONGEST_WAIT = 86_400  # seconds


class Options(BaseModel):
    """`input` is put into the prediction's input as it is: what only this model knows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: dict[str, Any] | None = None


class ReplicateWebhooks(WebhookApi):
    """Signed by the Standard Webhooks, with a secret of the account."""

    def keys(self) -> HttpRequest | None:
        """Return the request for the account's secret."""
        return asking("/v1/webhooks/default/secret", _secret)

    def verify(self, call: Call, keys: Collection[str]) -> None:
        """Check the signature by the secrets of all accounts."""
        check_standard(call, keys)

    def tasks(self, call: Call) -> tuple[str, ...]:
        """Return the prediction's id."""
        return named_in(call.body, ("id",))


def _secret(answer: DocumentReader) -> Reply:
    secret = answer.name("key") if answer.ok else None
    try:
        key_in(secret or "")
    except ValueError:
        secret = None
    if not secret:
        raise answer.failure()
    return SigningKeys(keys=(secret,))


class Replicate(Provider):
    """`POST /v1/models/OWNER/NAME/predictions`, or `/v1/predictions` for a version."""

    api = style = "replicate"
    webhooks = ReplicateWebhooks()

    def capabilities(self, model: str) -> Capabilities:
        """Return what Flux models take, and what a model may that is not known."""
        flux, kontext = "black-forest-labs/flux-" in model, "flux-kontext" in model
        return Capabilities(
            api=self.api,
            model="black-forest-labs/flux-kontext-pro",
            style=self.style,
            fields=frozenset({"webhook_url"}) | _FIELDS | (frozenset() if kontext else _MORE),
            formats=frozenset({"jpeg", "png"} if kontext else {"jpeg", "png", "webp"}),
            local_images=True,
            most_images=1 if kontext else None,
            allowed={"aspect_ratio": _RATIOS} if flux else {},
            files="data URL, upload",
            tasks=True,
            finds_lost=True,
            options=Options,
            conflicts=_conflicts if flux else no_conflicts,
            base_url="https://api.replicate.com",
            key_names=("REPLICATE_API_TOKEN",),
        )

    def may_have_key(self, host: str, *, https: bool) -> bool:
        """Whether it is the API's host; links to pictures work without a key."""
        return https and host == "api.replicate.com"

    def submit(self, job: Job, attempt: int) -> HttpRequest:
        """Return the request that makes a prediction; JobError `reference` when a local reference is unreadable."""
        offer = self.capabilities(job.model)
        asked = carried(job, offer.fields)
        more, hook = asked.pop("input", None) or {}, asked.pop("webhook_url", None)
        called = {"webhook": hook, "webhook_events_filter": ["completed"]} if hook else {}
        asked = {name: offer.value_for(name, value) for name, value in asked.items()}
        made = {"prompt": job.prompt, **asked, "output_format": (job.output_format or "jpeg").replace("jpeg", "jpg")}
        photos = [in_json(image) for image in job.images]
        if photos:
            single = offer.most_images == 1 or (len(photos) == 1 and "/flux-2" not in job.model)
            made |= {"input_image": photos[0]} if single else {"input_images": photos}
        name, _, version = job.model.partition(":")
        by_version = {"version": version or name} if version or "/" not in name else {}
        return HttpRequest(
            method="POST",
            url="/v1/predictions" if by_version else f"/v1/models/{quote(name)}/predictions",
            content=Json(value={**by_version, **called, "input": {**made, **more}}),
            headers={"Prefer": f"wait={_WAIT}", "Cancel-After": _LONGEST},
            reader=partial(DocumentReader, job, self._submitted, paid=True),
        )

    def _submitted(self, answer: DocumentReader) -> Reply:
        if not answer.ok:
            raise _refused(answer)
        name = _name(answer)
        reply = _end(answer) if answer.complete else None
        if isinstance(reply, Ended) and (name is None or reply.error.code is not Code.BAD_ANSWER):
            raise reply.error
        handle = None if name is None else json.dumps({"id": name})
        if isinstance(reply, Finished):
            return replace(reply, handle=handle)
        return answer.given() if handle is None else Submitted(handle=handle)

    def poll(self, job: Job, handle: str) -> HttpRequest:
        """Return the request that asks for a prediction."""
        name = json.loads(handle)["id"]
        return HttpRequest(
            method="GET",
            url=f"/v1/predictions/{quote(name, safe='')}",
            reader=partial(DocumentReader, job, partial(self._polled, name)),
            repeatable=True,
        )

    def task_of(self, handle: str) -> str:
        """Return the prediction's id."""
        return id_in(handle)

    def _polled(self, asked: str, answer: DocumentReader) -> Reply:
        if answer.status == 404:  # noqa: PLR2004  HTTP: not found
            return Missing()
        if not answer.ok:
            raise _refused(answer)
        if not answer.complete or not answer.state or answer.name("id") not in (None, asked):
            raise answer.failure()
        return _end(answer) or Pending()

    def recover(self, job: Job, lost: Lost) -> HttpRequest:
        """Return the request for the predictions that were made at the time, with their input, page by page.

        The list has also those that have not ended. An hour after its end a prediction has no input any more.
        """
        sent = self.submit(job, lost.attempt).content
        search = Search(
            lost=lost,
            asked=sent.value["input"] if isinstance(sent, Json) else None,
            sent_at="created_at",
            input="input",
        )
        after, before = utc(lost.sent_at - WINDOW - 1), utc(lost.sent_at + WINDOW + 1)
        return _page(job, urlencode({"created_after": after, "created_before": before}), search)

    def upload(self, image: Reference) -> HttpRequest | None:
        """Return the free step that lays a larger photo where its models can fetch it, for an hour."""
        if is_small(image):
            return None

        def stored(answer: DocumentReader) -> Reply:
            url = answer.nested("urls").get("get")
            if not answer.ok or url is None:
                raise _refused(answer)
            return Uploaded(url=url, expires=_expires(answer))

        form = Multipart(parts=(("content", file_of(image)),))
        return replace(uploading(image, stored), url="/v1/files", content=form)


def _page(job: Job, query: str, search: Search) -> HttpRequest:
    read = partial(DocumentReader, job, partial(_listed, search))
    return HttpRequest(method="GET", url=f"/v1/predictions?{query}", reader=read, repeatable=True)


def _listed(search: Search, answer: DocumentReader) -> Reply:
    if not answer.ok:
        raise _refused(answer)
    items, following = answer.whole.get("results"), answer.whole.get("next")
    if not isinstance(items, list) or not isinstance(following, str | None):
        raise answer.failure()
    name, _, version = answer.job.model.partition(":")
    model = {"model": name} if "/" in name else {}
    model |= {"version": version or name} if version or "/" not in name else {}
    search = search.through(items, lambda item: all(item.get(key) == value for key, value in model.items()))
    if following:
        query = _query(following)
        if query is None:
            raise answer.failure()
        return Then(request=_page(answer.job, query, search.onward(query)))
    return Listed(handles=tuple(json.dumps({"id": name}) for name in search.found))


def _query(address: str) -> str | None:
    """Return what the next page is asked for by: wherever its address leads, the list is asked at its own."""
    try:
        return urlencode(parse_qsl(urlsplit(address).query, strict_parsing=True, max_num_fields=20)) or None
    except ValueError:
        return None


def _conflicts(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if values["images"] and (values.get("safety_tolerance") or 0) > _MOST_TOLERANCE:
        yield "safety_tolerance", "with references Replicate takes at most 2; lower it, or remove it"


def _end(answer: DocumentReader) -> Reply | None:
    """Return what a prediction came to; None while it has not ended, whatever its state is called."""
    by_time = ":" in answer.job.model  # paid by its run time, also where it fails
    match answer.state:
        case "succeeded":
            return _picture(answer)
        case "failed":
            said = answer.words("error", "detail")
            code = Code.BAD_ANSWER
            code = Code.SERVER if _SERVER.search(said) else code
            code = Code.MODERATED if _MODERATED.search(said) else code
            billed = None if code is Code.BAD_ANSWER else by_time
            return Ended(error=JobError(code, f"the prediction failed: {said or '-'}", billed=billed))
        case "canceled" | "cancelled":
            said = "the prediction was canceled after it was accepted; it may have been billed"
            return Ended(error=JobError(Code.UNKNOWN, said, final=True))
        case "aborted":
            return Ended(error=JobError(Code.SERVER, "the prediction ended before it began", billed=False))
    return None


def _picture(answer: DocumentReader) -> Reply:
    if answer.document.get("output"):
        return answer.ended("output")
    if answer.document.get("data_removed") is True:
        said = "Replicate has removed the picture, as it does after an hour"
        return Ended(error=JobError(Code.DOWNLOAD, said, billed=True, dead=True))
    return Ended(error=JobError(Code.NO_IMAGE, "the prediction succeeded without a picture", final=True))


def _refused(answer: DocumentReader) -> JobError:
    """Return what a refusal means, and how long to wait, which stands in the body."""
    error = answer.failure()
    if answer.status == 429:  # noqa: PLR2004  HTTP: too many requests, also where little credit is the cause
        error = recoded(error, Code.RATE_LIMITED)
        told, words = answer.document.get("retry_after"), _RESETS.search(answer.words("detail"))
        seconds = told if isinstance(told, int | float) and not isinstance(told, bool) else words and float(words[1])
        error.retry_after = seconds if seconds and 0 < seconds < _LONGEST_WAIT else error.retry_after
    return error


def _name(answer: DocumentReader) -> str | None:
    """Return the id of a prediction; without one, the end of the address where it is asked for."""
    place = answer.nested("urls").get("get", "")
    return answer.name("id") or place.partition("?")[0].rstrip("/").rpartition("/")[2] or None


def _expires(answer: DocumentReader) -> float:
    """Return when an upload is used no more, in epoch seconds: before an hour is over by the server's clock."""
    times = []
    for read, text, life in (
        (datetime.fromisoformat, answer.name("expires_at"), 0.0),
        (datetime.fromisoformat, answer.name("created_at"), _FILE_LIFE),
        (parsedate_to_datetime, answer.headers.get("date"), _FILE_LIFE),
    ):
        try:
            when = read(text or "")
            times.append((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() + life - _MARGIN)
        except (ValueError, OverflowError):
            continue
    return min(times, default=0.0)


PROVIDERS = (Replicate(),)
