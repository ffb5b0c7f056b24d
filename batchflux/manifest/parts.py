"""Parts of a manifest that stand by themselves, beside providers, limits and jobs; see `schema`."""

from __future__ import annotations

from typing import Annotated, get_args

from pydantic import Field

from batchflux.manifest import job_fields, kinds
from batchflux.manifest.kinds import Part
from batchflux.manifest.reading import published, values
from batchflux.output.stores.base import Style, folder_of


class PublishConfig(Part):
    """Where local references are put, so that they travel as URLs. `sign` in seconds; `url` or `sign` is given."""

    to: Annotated[str | None, kinds.of_text(folder_of, "string", "null")] = Field(
        None, description="the address below which they are put by their content, as s3://bucket/refs"
    )
    url: Annotated[str | None, kinds.of_text(published.link_template, "string", "null")] = Field(
        None, description='how they are reached from everywhere, as "https://img.example/{key}"'
    )
    sign: Annotated[float | None, kinds.of_text(published.link_life, "string", "number", "null")] = Field(
        None, description="how long a signed link to one is good for, as 2h, in place of a public url"
    )


class ReferencesConfig(Part):
    """What is done to local reference photos before they are sent. `max_side` in pixels, `max_bytes` in bytes."""

    orient: Annotated[bool, kinds.of_text(job_fields.upsampling, "boolean")] = Field(
        True, description="send photos upright, as their EXIF orientation has them seen"
    )
    max_side: Annotated[int | None, kinds.whole(100_000, maximum=100_000)] = Field(
        None, description="scale photos so that their longer side has at most so many pixels, as 2048"
    )
    max_bytes: Annotated[int | None, kinds.of_text(values.size, "string", "integer")] = Field(
        None, description="encode and scale photos so that their files are no larger, as 10MB"
    )
    flatten: Annotated[str | None, kinds.of_text(values.colour, "string", "null")] = Field(
        None, description="put transparent photos on a ground of this colour, as white or #f0f0f0"
    )
    strip_metadata: Annotated[bool, kinds.of_text(job_fields.upsampling, "boolean")] = Field(
        False, description="send photos without EXIF data (place, camera), comments and the like"
    )
    publish: PublishConfig | None = Field(None, description="put them into a bucket, and send their URLs")


class StoreConfig(Part):
    """What is said of a bucket; what is left out is looked up by the usual names of variables. Keys are NAMES."""

    endpoint: Annotated[str | None, kinds.of_text(values.url, "string", "null")] = Field(
        None, description="the address of its server, where it is not the usual one, as https://minio.example"
    )
    region: Annotated[str | None, kinds.of_text(values.line_of_text, "string", "null")] = Field(
        None, description="its region, as eu-central-1"
    )
    style: Annotated[Style | None, kinds.word(*get_args(Style))] = Field(
        None, description="path: behind the endpoint; virtual: before it; domain: the endpoint is the bucket's own"
    )
    access_key: Annotated[str | None, kinds.variable("AWS_ACCESS_KEY_ID")] = Field(
        None, description="NAME of the environment variable with the access key's id; az: with the account's name"
    )
    secret_key: Annotated[str | None, kinds.variable("AWS_SECRET_ACCESS_KEY")] = Field(
        None, description="NAME of the environment variable with its secret; gs: with a service account's JSON"
    )
    token: Annotated[str | None, kinds.variable("AWS_SESSION_TOKEN")] = Field(
        None, description="NAME of the environment variable with a session's token; az: with a shared access signature"
    )


class WebhooksConfig(Part):
    """Where APIs call when a task has ended, while a run is under way. Both are given, or none."""

    listen: Annotated[tuple[str, int] | None, kinds.of_text(values.listen, "string", "null")] = Field(
        None, description="host:port of this machine where calls are received, as 127.0.0.1:8788 behind a tunnel"
    )
    public_url: Annotated[str | None, kinds.of_text(values.public_url, "string", "null")] = Field(
        None, description="how APIs reach that, as https://hooks.example.com"
    )
