"""Together's images: OpenAI's path, with fields of its own; the answer holds a link, or base64.

Facts: https://docs.together.ai/reference/post-images-generations, read in November 2026. Links live shortly.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from batchflux.capabilities import Capabilities
from batchflux.models import HttpRequest, Job, Json
from batchflux.providers.base import Provider, carried, in_json, size_of

_FIELDS = frozenset({"seed", "aspect_ratio", "output_format", "negative_prompt"})


class Options(BaseModel):
    """What only Together knows; `n` stays 1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: int | None = Field(None, ge=64, multiple_of=8)
    height: int | None = Field(None, ge=64, multiple_of=8)
    steps: int | None = Field(None, ge=1, le=100)
    guidance_scale: float | None = Field(None, ge=0)
    disable_safety_checker: bool | None = None
    image_loras: list[dict[str, Any]] | None = None


class Together(Provider):
    """`POST /v1/images/generations`."""

    api = style = "together"

    def capabilities(self, model: str) -> Capabilities:
        """Return that four fields have a place; a reference of the older models is one, of FLUX.2 several."""
        return Capabilities(
            api=self.api, model="", style=self.style, fields=_FIELDS, local_images=True, files="data URL",
            most_images=8 if not model or "flux.2" in model.lower() else 1, base_url="https://api.together.ai",
            options=Options, key_names=("TOGETHER_API_KEY",),
        )  # fmt: skip

    def submit(self, job: Job, attempt: int) -> HttpRequest:
        """Return the one request; JobError `reference` when a local reference could not be read."""
        asked = carried(job, _FIELDS)
        if (ratio := asked.pop("aspect_ratio", None)) is not None:
            asked = dict(zip(("width", "height"), size_of(ratio), strict=True)) | asked
        if images := list(map(in_json, job.images)):
            asked |= {"reference_images": images} if "flux.2" in job.model.lower() else {"image_url": images[0]}
        body = {"model": job.model, "prompt": job.prompt, **asked}
        return self.one_call(job, "/v1/images/generations", Json(value=body))


PROVIDERS = (Together(),)
