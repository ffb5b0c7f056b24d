"""SiliconFlow's images: OpenAI's path, with fields of its own; the answer holds a link, which lives an hour.

Facts: https://docs.siliconflow.cn/cn/api-reference/images/images-generations, read in November 2026. The same stands at
https://api.siliconflow.com for accounts outside China.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from batchflux.capabilities import Capabilities
from batchflux.models import HttpRequest, Job, Json
from batchflux.providers.base import Provider, carried, in_json, size_of

_FIELDS = frozenset({"seed", "aspect_ratio", "negative_prompt"})


class Options(BaseModel):
    """What only SiliconFlow knows; one picture is made at a time."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_size: str | None = Field(None, pattern=r"^[1-9]\d{1,4}x[1-9]\d{1,4}$")
    num_inference_steps: int | None = Field(None, ge=1, le=100)
    guidance_scale: float | None = Field(None, ge=0, le=20)
    cfg: float | None = Field(None, ge=0, le=20)


class SiliconFlow(Provider):
    """`POST /v1/images/generations`."""

    api = style = "siliconflow"

    def capabilities(self, model: str) -> Capabilities:
        """Return that three fields have a place, and up to three references; the format is the model's."""
        return Capabilities(
            api=self.api, model="", style=self.style, fields=_FIELDS, local_images=True, most_images=3,
            files="data URL", options=Options,
            base_url="https://api.siliconflow.cn", key_names=("SILICONFLOW_API_KEY",),
        )  # fmt: skip

    def submit(self, job: Job, attempt: int) -> HttpRequest:
        """Return the one request; JobError `reference` when a local reference could not be read."""
        asked = carried(job, _FIELDS)
        if (ratio := asked.pop("aspect_ratio", None)) is not None:
            asked = {"image_size": "{}x{}".format(*size_of(ratio)), **asked}
        named = dict(zip(("image", "image2", "image3"), map(in_json, job.images), strict=False))
        body = {"model": job.model, "prompt": job.prompt, "batch_size": 1, **asked, **named}
        return self.one_call(job, "/v1/images/generations", Json(value=body))


PROVIDERS = (SiliconFlow(),)
