"""Black Forest Labs' tasks: their own API (`bfl`), and the same behind a relay (style `native`).

A request gives a task; its picture is asked for until it is ready. What differs is the path, the header of the key, and
where a task is asked for. BFL's tasks live on one of its clusters, so the `polling_url` of the answer counts; a relay's
may name BFL's own host, for which the user has no key, so it is never called. The answer to a request that has a
webhook need not have one: then the task is asked for where it was submitted.
Facts: https://docs.bfl.ai, read in November 2026.
"""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from functools import cache, partial
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, create_model

from batchflux.capabilities import Capabilities
from batchflux.errors import Code, JobError
from batchflux.manifest.kinds import LARGEST, MEGAPIXEL
from batchflux.models import Cost, Ended, Finished, HttpRequest, Json, Missing, Pending, Submitted
from batchflux.providers.answers.documents import id_in, named_in
from batchflux.providers.answers.signs import FAILED, READY, TASK_IDS
from batchflux.providers.answers.tasks import TaskReader
from batchflux.providers.base import Provider, carried, file_of, megapixels_of, size_of
from batchflux.providers.books.accounts import Credits, RelayUsage
from batchflux.webhooks.api import WebhookApi
from batchflux.webhooks.signatures import check_hex

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from batchflux.models import Job, Reply
    from batchflux.providers.answers.tasks import Task
    from batchflux.providers.books.base import Books
    from batchflux.webhooks.api import Call

_FIELDS = frozenset(
    {"seed", "aspect_ratio", "output_format", "safety_tolerance", "prompt_upsampling", "webhook_url", "webhook_secret"}
)
_SIZED = re.compile(r"flux-2-|flux-dev|flux-pro-1\.1$")  # models that take width and height in place of a ratio
_PLAIN = re.compile(r"flux-2-(?!flex)")  # models whose prompts are always upsampled, or never
_HOST = re.compile(r"api\.(?:[a-z]{2}\d?\.)?bfl\.(?:ai|ml)")  # delivery hosts lie below bfl.ai too, and get no key
_CREDIT = Decimal("0.01")  # USD


_SIDE = (int | None, Field(None, ge=64, multiple_of=16))
_OPTIONS: dict[str, Any] = {
    "width": _SIDE,
    "height": _SIDE,
    "guidance": (float | None, Field(None, ge=1.5, le=100)),
    "steps": (int | None, Field(None, ge=1, le=50)),
    "disable_pup": (bool | None, None),
    "raw": (bool | None, None),
}
_TAKES = (  # the first that a model's name begins with; what is not known may take all
    ("flux-kontext", ""),
    ("flux-2-flex", "width height guidance steps"),
    ("flux-2-", "width height disable_pup"),
    ("flux-dev", "width height guidance steps"),
    ("flux-pro-1.1-ultra", "raw"),
    ("flux-pro-1.1", "width height"),
    ("", " ".join(_OPTIONS)),
)


@cache
def options_of(model: str) -> type[BaseModel]:
    """Return what `options` may say in a request for a model."""
    names = next(takes for start, takes in _TAKES if model.startswith(start)).split()
    strict = ConfigDict(extra="forbid", frozen=True)
    made: type[BaseModel] = create_model("Options", __config__=strict, **{name: _OPTIONS[name] for name in names})
    return made


class NativeWebhooks(WebhookApi):
    """What a relay sends is written nowhere: whoever knows the URL is believed to be it. The body names the task."""

    def verify(self, call: Call, keys: Collection[str]) -> None:
        """Take any call."""

    def tasks(self, call: Call) -> tuple[str, ...]:
        """Return the task's id, under any of its names; progress is told under another than the end."""
        return named_in(call.body, TASK_IDS)


class BflWebhooks(NativeWebhooks):
    """BFL's own: sources differ on whether calls are signed, so a signature must be right only where there is one."""

    def verify(self, call: Call, keys: Collection[str]) -> None:
        """Check `X-BFL-Signature` by the `webhook_secret` of the requests."""
        given = call.headers.get("x-bfl-signature")
        for secret in () if given is None else keys:
            check_hex(given or "", secret, call.body)


class Native(Provider):
    """BFL's tasks behind a relay: `POST /flux/v1/MODEL`, and its own address to ask for a task."""

    api, style = "flux-relay", "native"
    webhooks: ClassVar[WebhookApi | None] = NativeWebhooks()
    path: ClassVar[str] = "/flux/v1"
    books: ClassVar[Books | None] = RelayUsage()
    active_tasks: ClassVar[int | None] = None
    base_url: ClassVar[str | None] = None
    key_names: ClassVar[tuple[str, ...]] = ()

    def capabilities(self, model: str) -> Capabilities:
        """Return that fields and up to four references travel; files as bare base64."""
        return Capabilities(
            api=self.api,
            style=self.style,
            fields=_FIELDS - {"prompt_upsampling"} if _PLAIN.match(model) else _FIELDS,
            formats=frozenset({"jpeg", "png", "webp"}),
            local_images=True,
            most_images=8 if model.startswith("flux-2") else 4,
            active_tasks=self.active_tasks,
            options=options_of(model),
            files="base64",
            tasks=True,
            tells_cost=self.api == "bfl",
            base_url=self.base_url,
            key_names=self.key_names,
        )

    def submit(self, job: Job, attempt: int) -> HttpRequest:
        """Return the request that makes a task; JobError `reference` when a local reference could not be read."""
        body: dict[str, Any] = {"prompt": job.prompt}
        for number, image in enumerate(job.images, 1):
            name = "input_image" if number == 1 else f"input_image_{number}"
            body[name] = image.url if image.url is not None else file_of(image, "base64")
        body |= {"output_format": "jpeg", **carried(job, _FIELDS)}  # always sent: BFL's default depends on the model
        if _SIZED.match(job.model) and "aspect_ratio" in body:
            width, height = size_of(body.pop("aspect_ratio"))
            body = {"width": width, "height": height, **body}
        return HttpRequest(
            method="POST",
            url=f"{self.path}/{quote(job.model, safe='')}",
            content=Json(value=body),
            reader=partial(TaskReader, job, self._submitted),
        )

    def megapixels(self, job: Job) -> int:
        """Return the most megapixels that a request may be billed for: those of its size, and of each reference."""
        ratio = None if "aspect_ratio" in job.dropped else job.aspect_ratio
        options, by_ratio = dict(job.options), (None, None) if ratio is None else size_of(ratio)
        width, height = (options.get(side, other) for side, other in zip(("width", "height"), by_ratio, strict=True))
        made = math.ceil(width * height / MEGAPIXEL) if width and height else LARGEST
        return made + sum(map(megapixels_of, job.images))

    def poll(self, job: Job, handle: str) -> HttpRequest:
        """Return the request that asks for a task."""
        return HttpRequest(
            method="GET",
            url=self._place(json.loads(handle)),
            reader=partial(TaskReader, job, self._polled, asked=json.loads(handle)["id"]),
            repeatable=True,
        )

    def task_of(self, handle: str) -> str:
        """Return the task's id."""
        return id_in(handle)

    def _place(self, handle: Mapping[str, str]) -> str:
        return f"{self.path}/get_result?id={quote(handle['id'], safe='')}"

    def _submitted(self, task: Task) -> Reply | None:
        if task.asset is not None and (task.status in READY or not task.status):
            return self._finished(task)
        ended = self._ended(task)
        if ended is not None:
            raise ended.error
        if task.id is None or task.http >= 400:  # noqa: PLR2004  HTTP: a refusal's id is the request's
            return None
        handle = {"id": task.id} | ({"url": task.polling_url} if task.polling_url else {})
        return Submitted(handle=json.dumps(handle), cost=self._cost(task))

    def _polled(self, task: Task) -> Reply | None:
        if task.asset is not None and (task.status in READY or not task.status):
            return self._finished(task)
        if "not_found" in task.status:
            return Missing()
        if task.status in READY:
            return Ended(error=JobError(Code.NO_IMAGE, f"the task is {task.status} and names no picture"))
        if task.status:
            return self._ended(task) or Pending()
        return None

    def _finished(self, task: Task) -> Finished:
        if task.asset is None:
            raise TypeError("a task that is finished has a picture")
        return Finished(asset=task.asset, cost=self._cost(task), seed=task.seed, revised_prompt=task.revised_prompt)

    def _ended(self, task: Task) -> Ended | None:
        if "moderat" in task.status:
            return Ended(error=JobError(Code.MODERATED, f"the task was refused: {task.said or task.status}"))
        if task.status in FAILED:
            return Ended(error=task.failure())
        return None

    def _cost(self, task: Task) -> Cost | None:
        return None  # a relay charges by its own price list


class Bfl(Native):
    """BFL's own API: `POST /v1/MODEL` with `x-key`, and the `polling_url` of the answer."""

    api, style = "bfl", "bfl"
    webhooks = BflWebhooks()
    path = "/v1"
    books = Credits("/v1/credits", _CREDIT)
    active_tasks = 24
    base_url = "https://api.bfl.ai"
    key_names = ("BFL_API_KEY",)

    def authorize(self, secret: str) -> Mapping[str, str]:
        """Return the header that carries a key."""
        return {"x-key": secret}

    def may_have_key(self, host: str, *, https: bool) -> bool:
        """Whether it is one of BFL's API hosts."""
        return https and _HOST.fullmatch(host) is not None

    def _place(self, handle: Mapping[str, str]) -> str:
        return handle.get("url") or super()._place(handle)

    def _cost(self, task: Task) -> Cost | None:
        if task.cost is None:
            return None if task.megapixels is None else Cost(megapixels=task.megapixels)
        return Cost(amount=task.cost * _CREDIT)


PROVIDERS = (Bfl(), Native())
