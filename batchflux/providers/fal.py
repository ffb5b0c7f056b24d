"""fal's queue: a request gives a task, whose state and whose result lie at the addresses of the answer.

There is no state for a failure: a task that failed is COMPLETED, and its result is the model's own 4xx or 5xx. A 5xx of
its own is not billed, so a new request follows. `model` is an endpoint's id; of Kontext the plain one will do
(`fal-ai/flux-pro/kontext`, `.../kontext/max`): with no reference it is asked as `/text-to-image`, with several as
`/multi`. `price` is fal's unit price, and answers tell how many units were billed: one an image for Kontext.
Facts: https://fal.ai/docs/documentation/model-apis/inference/queue and https://fal.ai/models, read in November 2026.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlencode

from pydantic import BaseModel, ConfigDict, Field

from batchflux.capabilities import Capabilities
from batchflux.errors import Code, JobError
from batchflux.models import (
    Bytes,
    Cost,
    Ended,
    HttpRequest,
    Json,
    Listed,
    Missing,
    Pending,
    SigningKeys,
    Submitted,
    Then,
    Uploaded,
)
from batchflux.providers.answers.documents import DocumentReader, asking, is_small, texts_in, uploading
from batchflux.providers.answers.listed import WINDOW, Search, page_size, utc
from batchflux.providers.answers.reading import recoded
from batchflux.providers.answers.signs import FAILED, READY
from batchflux.providers.answers.untrusted import told_text
from batchflux.providers.base import Provider, carried, file_of, in_json
from batchflux.providers.books.fal import LIST, BillingEvents
from batchflux.webhooks.api import WebhookApi, WrongSignatureError
from batchflux.webhooks.ed25519 import available, verified
from batchflux.webhooks.signatures import header, timely

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from batchflux.models import Finished, Job, Reference, Reply
    from batchflux.providers.base import Lost
    from batchflux.webhooks.api import Call

_KONTEXT = re.compile(r"(fal-ai/flux-pro/kontext(?:/max)?)(/multi|/text-to-image)?")
_FIELDS = {  # of a Job, as they stand in an input
    "seed": "seed",
    "aspect_ratio": "aspect_ratio",
    "output_format": "output_format",
    "safety_tolerance": "safety_tolerance",
    "prompt_upsampling": "enhance_prompt",
}
_MORE = {"negative_prompt": "negative_prompt", "resolution": "resolution"}  # not of Kontext
_RATIOS = ("21:9", "16:9", "4:3", "3:2", "1:1", "2:3", "3:4", "9:16", "9:21")
_HOSTS = frozenset({"queue.fal.run", "queue.falrun.com", "rest.fal.ai", "api.fal.ai"})
_EDITED = re.compile(r"fal-ai/(?:flux-2(?:-\w+)?|nano-banana[\w-]*)")
_REQUEST = re.compile(r"/requests/([^/?#]+)")
_MEGAPIXELS = 4  # the most of one picture: models but Kontext are billed by them, references too
_MOST_UNITS = 1_000_000
_MODERATED = re.compile(r"content_policy|nsfw|moderat|safety|sensitive", re.IGNORECASE)
_PHOTO = re.compile(r"file_download_error|image_(?:load_error|too_small|too_large)|unsupported_image_format")
_NO_BALANCE = re.compile(r"exhausted balance|top up|locked|insufficient", re.IGNORECASE)
_UNFINISHED = re.compile(r"still in progress|in_queue|in_progress", re.IGNORECASE)


class Options(BaseModel):
    """What only fal knows; `num_images` stays 1. `most_units` is not sent: the most units one request may be billed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    guidance_scale: float | None = Field(None, ge=1, le=20)
    num_inference_steps: int | None = Field(None, ge=1, le=100)
    image_size: str | None = Field(None, pattern=r"^\w+$")
    enable_safety_checker: bool | None = None
    most_units: int | None = Field(None, ge=1, le=1000)


class FalWebhooks(WebhookApi):
    """Signed by Ed25519 with one of fal's keys, over the request, the user, the time and the body's digest.

    That says who sent it, and not to whom: the task must be one that is waited for.
    """

    def missing(self) -> str | None:
        """Return that the extra is not installed."""
        return available()

    def keys(self) -> HttpRequest | None:
        """Return the request for fal's public keys."""
        return asking("https://rest.fal.ai/.well-known/jwks.json", _public_keys)

    def verify(self, call: Call, keys: Collection[str]) -> None:
        """Check the signature by all keys: fal does not say which it used."""
        names = [header(call, f"x-fal-webhook-{part}") for part in ("request-id", "user-id")]
        digest = sha256(call.body).hexdigest()
        text = "\n".join([*names, timely(call, "x-fal-webhook-timestamp"), digest]).encode(errors="surrogatepass")
        try:
            signature = bytes.fromhex(header(call, "x-fal-webhook-signature"))
        except ValueError as error:
            raise WrongSignatureError("the signature is not in hex digits") from error
        if not verified(signature, text, keys):
            raise WrongSignatureError("the signature is by none of fal's keys")

    def tasks(self, call: Call) -> tuple[str, ...]:
        """Return the request's id, which is signed."""
        return (header(call, "x-fal-webhook-request-id"),)


def _public_keys(answer: DocumentReader) -> Reply:
    keys = [one.get("x") for one in _list(answer.document.get("keys")) if isinstance(one, dict)]
    if not answer.ok or not keys:
        raise _meant(answer)
    return SigningKeys(keys=tuple(key for key in keys if isinstance(key, str)))


def _endpoints(model: str) -> tuple[str, ...]:
    """Return all endpoints at which jobs of a model may have been made."""
    kontext = _KONTEXT.fullmatch(model)
    if kontext and not kontext[2]:
        return model, f"{model}/multi", f"{model}/text-to-image"
    return (model, f"{model}/edit") if _EDITED.fullmatch(model) else (model,)


class Fal(Provider):
    """`POST /ENDPOINT`, then the `status_url` and the `response_url` of the answer."""

    api = style = "fal"
    webhooks = FalWebhooks()
    books = BillingEvents(_endpoints)

    def capabilities(self, model: str) -> Capabilities:
        """Return what Kontext takes, and what a model may that is not known."""
        kontext = _KONTEXT.fullmatch(model)
        kind = kontext[2] if kontext else None
        return Capabilities(
            api=self.api,
            model="fal-ai/flux-pro/kontext",
            style=self.style,
            fields=frozenset({"webhook_url", *_FIELDS, *(() if kontext else _MORE)}),
            local_images=True,
            least_images=1 if kind == "/multi" else 0,
            most_images=0 if kind == "/text-to-image" else None,
            allowed={"safety_tolerance": (1, 2, 3, 4, 5, 6)} | ({"aspect_ratio": _RATIOS} if kontext else {}),
            files="data URL, upload",
            tasks=True,
            tells_cost=True,
            finds_lost=True,
            options=Options,
            base_url="https://queue.fal.run",
            key_names=("FAL_KEY",),
        )

    def authorize(self, secret: str) -> Mapping[str, str]:
        """Return the header that carries a key."""
        return {"Authorization": f"Key {secret}"}

    def may_have_key(self, host: str, *, https: bool) -> bool:
        """Whether it is a host of fal's API; files lie elsewhere."""
        return https and host in _HOSTS

    def quote(self, job: Job, price: Decimal | None) -> Decimal | None:
        """Return the most that a request may cost: a unit of Kontext, else each picture at its most megapixels."""
        units = 1 if _KONTEXT.fullmatch(job.model) else _MEGAPIXELS * (1 + len(job.images))
        return None if price is None else price * (dict(job.options).get("most_units") or units)

    def submit(self, job: Job, attempt: int) -> HttpRequest:
        """Return the request that makes a task; JobError `reference` when a local reference could not be read."""
        offer, names = self.capabilities(job.model), {**_FIELDS, **_MORE}
        asked = {"output_format": "jpeg", **carried(job, offer.fields)}
        asked.pop("most_units", None)
        hook = asked.pop("webhook_url", None)
        body: dict[str, Any] = {"prompt": job.prompt}
        for name, value in asked.items():
            taken = offer.value_for(name, value)
            body[names.get(name, name)] = str(taken) if name == "safety_tolerance" else taken
        endpoint = _endpoint(job)
        photos = [in_json(image) for image in job.images]
        if photos:
            single = len(photos) == 1 and endpoint.startswith("fal-ai/flux-pro/kontext") and "/multi" not in endpoint
            body |= {"image_url": photos[0]} if single else {"image_urls": photos}
        return HttpRequest(
            method="POST",
            url=f"/{quote(endpoint)}" + (f"?fal_webhook={quote(hook, safe='')}" if hook else ""),
            content=Json(value=body),
            headers={"X-Fal-No-Retry": "1"},  # or the gateway sends it up to ten times
            reader=partial(DocumentReader, job, partial(self._submitted, endpoint), paid=True),
        )

    def _submitted(self, endpoint: str, answer: DocumentReader) -> Reply:
        name, state, result = answer.name("request_id"), answer.address("status_url"), answer.address("response_url")
        if not answer.ok:
            raise _meant(answer)
        if name is None and state is None:
            return answer.given()
        own = _place(endpoint, name) if name else (state or "").removesuffix("/status")
        handle = {"status": state or f"{own}/status", "response": result or own}
        return Submitted(handle=json.dumps(handle))

    def poll(self, job: Job, handle: str) -> HttpRequest:
        """Return the request that asks for a task's state, which its result follows."""
        places = json.loads(handle)
        return _asks(job, places["status"], partial(self._polled, places["response"]))

    def _polled(self, result: str, answer: DocumentReader) -> Reply:
        if answer.status == 404 or answer.state == "not_found":  # noqa: PLR2004  HTTP: not found
            return Missing()
        if not answer.ok:
            raise _meant(answer)
        if answer.state in READY or answer.state in FAILED:
            failed = bool(answer.words("error", "error_type"))
            return Then(request=_asks(answer.job, result, partial(self._result, failed)))
        if answer.state:
            return Pending()
        raise answer.failure()

    def _result(self, failed: bool, answer: DocumentReader) -> Reply:  # noqa: FBT001  bound when the state is known
        if answer.ok and answer.state not in ("in_queue", "in_progress"):
            if True in _list(answer.document.get("has_nsfw_concepts")) and answer.complete:
                said = "the picture was refused: has_nsfw_concepts says so, and it is billed"
                return Ended(error=JobError(Code.MODERATED, said, billed=True))
            ended = answer.ended()
            return ended if isinstance(ended, Ended) else _with_cost(ended, answer)
        if answer.status == 404:  # noqa: PLR2004  HTTP: not found
            return Missing()
        if answer.ok or _UNFINISHED.search(answer.words("detail", "status")):
            return Pending()
        error = _meant(answer)
        told = failed or "x-fal-error-type" in answer.headers or answer.words("detail", "error_type", "error")
        if answer.status in (401, 403, 429) or not told or not answer.complete:
            raise error  # of this request, or of what stands before fal: it is asked again, for free
        return Ended(error=error)

    def recover(self, job: Job, lost: Lost) -> HttpRequest:
        """Return the request for what the job's endpoint was asked at the time, with its input, page by page.

        The list is sorted by when tasks ended, and one that has not ended may be missing.
        """
        sent, offered = self.submit(job, lost.attempt).content, _endpoint(job)
        query = {
            "endpoint_id": offered,
            "start": utc(lost.sent_at - WINDOW),
            "end": utc(max(lost.sent_at + WINDOW, lost.until) + 1),
            "expand": "payloads",
            "limit": str(page_size(job)),
        }
        asked = sent.value if isinstance(sent, Json) else None
        return _page(job, query, Search(lost=lost, asked=asked, id="request_id", sent_at="sent_at", input="json_input"))

    def task_of(self, handle: str) -> str:
        """Return the id of a request, which its result's address holds."""
        try:
            found = _REQUEST.search(json.loads(handle)["response"])
        except (ValueError, LookupError, TypeError):  # it is another API's
            found = None
        return handle if found is None else unquote(found[1])

    def upload(self, image: Reference) -> HttpRequest | None:
        """Return the first of two steps that lay a larger photo where its models can fetch it."""
        if is_small(image):
            return None
        file = file_of(image)
        kind = file.media_type.rpartition("/")[2]

        def allowed(answer: DocumentReader) -> Reply:
            base, token = answer.address("base_url"), answer.name("token")
            if not answer.ok or base is None or token is None:
                raise _meant(answer)
            headers = {
                "Authorization": f"{answer.name('token_type') or 'Bearer'} {token}",
                "X-Fal-File-Name": f"{file.sha256[:16]}.{kind}",
            }
            place, step = f"{base.rstrip('/')}/files/upload", uploading(image, _stored)
            return Then(request=replace(step, url=place, content=Bytes(image=file), headers=headers, keyless=True))

        place = "https://rest.fal.ai/storage/auth/token?storage_type=fal-cdn-v3"
        return replace(uploading(image, allowed), url=place, content=Json(value={}))


def _stored(answer: DocumentReader) -> Reply:
    url = answer.address("access_url")
    if not answer.ok or url is None:
        raise answer.failure()
    return Uploaded(url=url)


def _endpoint(job: Job) -> str:
    """Return the endpoint that takes as many references as the job has."""
    kontext = _KONTEXT.fullmatch(job.model)
    if kontext and not kontext[2] and len(job.images) != 1:
        return f"{job.model}/{'multi' if job.images else 'text-to-image'}"
    return f"{job.model}/edit" if job.images and _EDITED.fullmatch(job.model) else job.model


def _place(endpoint: str, name: str) -> str:
    """Return where a request is asked for: below the first two parts of its endpoint."""
    return f"/{'/'.join(endpoint.split('/')[:2])}/requests/{quote(name, safe='')}"


def _page(job: Job, query: Mapping[str, str], search: Search) -> HttpRequest:
    cursor = {"cursor": search.cursors[-1]} if search.cursors else {}
    return _asks(job, f"{LIST}?{urlencode({**query, **cursor})}", partial(_listed, query, search))


def _listed(query: Mapping[str, str], search: Search, answer: DocumentReader) -> Reply:
    if not answer.ok:
        raise _meant(answer)
    page, endpoint = answer.whole, query["endpoint_id"]
    items, more, cursor = page.get("items"), page.get("has_more"), told_text(page.get("next_cursor"))
    if not isinstance(items, list) or not isinstance(more, bool | None) or (more and cursor is None):
        raise answer.failure()
    search = search.through(items, lambda item: item.get("endpoint_id") == endpoint)
    if cursor is not None and more is not False:
        return Then(request=_page(answer.job, query, search.onward(cursor)))
    places = [_place(endpoint, name) for name in search.found]
    handles = [json.dumps({"status": f"{place}/status", "response": place}) for place in places]
    return Listed(handles=tuple(handles), whole=False)


def _asks(job: Job, place: str, interpret: Callable[[DocumentReader], Reply]) -> HttpRequest:
    return HttpRequest(method="GET", url=place, reader=partial(DocumentReader, job, interpret), repeatable=True)


def _meant(answer: DocumentReader) -> JobError:
    """Return what fal means by a failure, whose kind stands in a header, beside the words, or with a field's fault."""
    faults = [one for one in _list(answer.document.get("detail")) if isinstance(one, dict)]
    own = " ".join(filter(None, (answer.headers.get("x-fal-error-type"), answer.name("error_type"))))
    kinds = " ".join([own, *(text for one in faults for text in texts_in(one.get("type")))])
    error, local = answer.failure(), any(image.path is not None for image in answer.job.images)
    by_status = {429: Code.RATE_LIMITED, 403: Code.AUTH}.get(answer.status)
    if answer.status == 403 and _NO_BALANCE.search(answer.words("detail", "message", "error")):  # noqa: PLR2004  HTTP
        by_status = Code.QUOTA
    if by_status is not None:
        return recoded(error, by_status)
    if answer.status == 499:  # noqa: PLR2004  fal: canceled, or the client went away
        error = recoded(error, Code.UNKNOWN)
        error.final = True
    elif _MODERATED.search(kinds):
        error = recoded(error, Code.MODERATED, billed=False)
    elif own and error.code in (Code.UNKNOWN, Code.SERVER):  # said by fal itself, and not billed
        error = recoded(error, Code.SERVER, billed=False)
    elif local and _PHOTO.search(kinds) and error.code is Code.INVALID_REQUEST:
        error = recoded(error, Code.REFERENCE)
    return error


def _with_cost(finished: Finished, answer: DocumentReader) -> Finished:
    try:
        units = Decimal(answer.headers.get("x-fal-billable-units", ""))
    except InvalidOperation:
        return finished
    known = units.is_finite() and 0 <= units < _MOST_UNITS
    return replace(finished, cost=Cost(units=units)) if known else finished


def _list(value: Any) -> list[Any]:
    return value[:20] if isinstance(value, list) else []


PROVIDERS = (Fal(),)
