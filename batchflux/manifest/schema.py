"""What a manifest may say: one pydantic model for each part, which also give the JSON Schema for editors.

The rule: a key that is not listed here is a fault; the types say how a text is read (see leaves, fields, units).
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema

from batchflux.manifest import fields, leaves, values as units, values as urls


def _count(lowest: int, highest: int) -> PlainValidator:
    return PlainValidator(leaves.leaf(lambda text: fields.whole(text, lowest, highest)))


def _word(*words: str) -> PlainValidator:
    return PlainValidator(leaves.leaf(lambda text: fields.one_of(text, words)))


def _schema(*types: str, **more: Any) -> WithJsonSchema:
    return WithJsonSchema({"type": list(types) if len(types) > 1 else types[0], **more})


MaybeText = Annotated[Any, PlainValidator(leaves.leaf(fields.line_of_text)), _schema("string", "number", "null")]
Text = Annotated[str, PlainValidator(leaves.text), _schema("string", "number", "boolean")]
Money = Annotated[Any, PlainValidator(leaves.leaf(units.money)), _schema("number", "string", minimum=0)]
Words = Annotated[Any, PlainValidator(leaves.images), _schema("array", items={"type": "string"})]
Tags = Annotated[
    dict[str, Annotated[Any, PlainValidator(leaves.tag_value), _schema("string", "number", "boolean", "null")]],
    BeforeValidator(leaves.tags),
]
AxisSpec = Annotated[
    Any,
    PlainValidator(leaves.axis),
    WithJsonSchema(
        {
            "oneOf": [
                {"type": "array", "minItems": 1},
                {
                    "type": "object",
                    "properties": {
                        "range": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2},
                        "glob": {"type": "string"},
                        "lines": {"type": "string"},
                    },
                    "minProperties": 1,
                    "maxProperties": 1,
                    "additionalProperties": False,
                },
            ],
        }
    ),
]
Exclusion = Annotated[
    dict[str, Annotated[str, PlainValidator(leaves.exclusion), _schema("string", "number", "boolean", "null")]],
    BeforeValidator(leaves.mapping),
]


class Part(BaseModel):
    """What all parts of a manifest have in common."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Provider(Part):
    """Which API to call, and how."""

    name: Text = Field("simulator", description="simulator (embedded, free), tuzi, or any name with a base_url")
    style: Annotated[Any, _word("auto", "standard", "chat"), _schema("string", enum=["auto", "standard", "chat"])] = (
        Field("auto", description="auto: standard where it carries the whole job, chat where a local file travels")
    )
    model: Text = Field("flux-kontext-pro", description="the model's name at the provider")
    base_url: Annotated[Any, PlainValidator(leaves.leaf(urls.base_url)), _schema("string", "null")] = Field(
        None, description="where the API is, as https://api.tu-zi.com"
    )
    keys: Annotated[Any, PlainValidator(leaves.keys), _schema("array", "string", items={"type": "string"})] = Field(
        None, description="NAMES of environment variables that hold API keys; several are a pool"
    )
    price: Money = Field(None, description="price of one image, in `currency`")
    currency: Text = Field("USD", description="the currency of price and budget")
    params: Annotated[Any, _word("strict", "drop"), _schema("string", enum=["strict", "drop"])] = Field(
        "strict", description="what to do with a field that the call style cannot carry: refuse the job, or drop it"
    )
    options: Annotated[Any, PlainValidator(leaves.options), _schema("object", "null")] = Field(
        None, description="what only this provider knows; the simulator's latency, limits and faults"
    )


class Limits(Part):
    """How much, how fast, how long."""

    concurrency: Annotated[Any, _count(1, 10_000), _schema("integer", minimum=1, maximum=10_000)] = Field(
        8, description="requests in flight"
    )
    rate: Annotated[Any, PlainValidator(leaves.leaf(units.rate)), _schema("string", "null")] = Field(
        None, description="requests started in a time: N/s, N/min or N/h"
    )
    attempts: Annotated[Any, _count(1, 100), _schema("integer", minimum=1, maximum=100)] = Field(
        5, description="attempts for each job"
    )
    timeout: Annotated[Any, PlainValidator(leaves.leaf(units.timeout)), _schema("string", "number")] = Field(
        360.0, description="bound of one API call, as 360s or 6m"
    )
    budget: Money = Field(None, description="never spend more than this, in the provider's currency")
    deadline: Annotated[Any, PlainValidator(leaves.leaf(units.deadline)), _schema("string", "null")] = Field(
        None, description='stop at a clock time, "06:00", or after a duration, 5h'
    )
    max_consecutive_failures: Annotated[Any, _count(1, 1_000_000), _schema("integer", minimum=1)] = Field(
        20, description="stop the run after so many failures in a row"
    )


class Output(Part):
    """Where pictures go, and how they are checked."""

    dir: MaybeText = Field(None, description="the output folder; relative to the current folder")
    file_name: Text = Field("{{ id }}.{{ ext }}", description="template of a picture's name within images/")
    verify: Annotated[Any, _word("decode", "structure"), _schema("string", enum=["decode", "structure"])] = Field(
        "decode", description="decode every pixel, or check the file's structure only"
    )
    max_bytes: Annotated[Any, PlainValidator(leaves.leaf(units.size)), _schema("string", "integer")] = Field(
        50_000_000, description="the largest picture that is accepted, as 50MB"
    )


class Defaults(Part):
    """Fields that every job has unless it says otherwise."""

    prompt: Annotated[Any, PlainValidator(leaves.job_leaf("prompt")), _schema("string", "number", "boolean")] = Field(
        None, description="what to make; a Jinja2 template"
    )
    image: Annotated[Any, PlainValidator(leaves.image), _schema("string", "null")] = Field(
        None, description="one reference image: short for images with one"
    )
    images: Words = Field(None, description="reference images, in order: local paths (beside the manifest) or URLs")
    seed: Annotated[Any, PlainValidator(leaves.job_leaf("seed")), _schema("integer", "string", "null")] = Field(
        None, description="a whole number"
    )
    aspect_ratio: Annotated[Any, PlainValidator(leaves.job_leaf("aspect_ratio")), _schema("string", "null")] = Field(
        None, description="W:H from 21:9 to 9:21; left out keeps the reference's"
    )
    output_format: Annotated[Any, PlainValidator(leaves.job_leaf("output_format")), _schema("string", "null")] = Field(
        None, description="jpeg or png"
    )
    safety_tolerance: Annotated[
        Any, PlainValidator(leaves.job_leaf("safety_tolerance")), _schema("integer", "string", "null")
    ] = Field(None, description="0 (strict) to 6")
    prompt_upsampling: Annotated[
        Any, PlainValidator(leaves.job_leaf("prompt_upsampling")), _schema("boolean", "string", "null")
    ] = Field(None, description="let the provider rewrite the prompt")
    model: Annotated[Any, PlainValidator(leaves.model), _schema("string", "null")] = Field(
        None, description="another model than the provider's"
    )
    style: Annotated[Any, PlainValidator(leaves.job_leaf("style")), _schema("string", "null")] = Field(
        None, description="auto, standard or chat"
    )
    variant: Annotated[Any, PlainValidator(leaves.job_leaf("variant")), _schema("integer", "string", "null")] = Field(
        None, description="2, 3, ... make a deliberate further copy of the same job"
    )
    webhook_url: Annotated[Any, PlainValidator(leaves.job_leaf("webhook_url")), _schema("string", "null")] = Field(
        None, description="a URL that the provider calls when the picture is ready"
    )
    webhook_secret: Annotated[Any, PlainValidator(leaves.leaf(str)), _schema("string", "null")] = Field(
        None, description="${NAME} of the environment variable that holds the secret"
    )
    tags: Tags = Field({}, description="free; come back as tags.* columns of results.csv")


class JobEntry(Defaults):
    """One job, or many made from a table and a matrix."""

    id: Annotated[Any, PlainValidator(leaves.job_leaf("id")), _schema("string", "number", "null")] = Field(
        None, description="the job's name; left out: a slug of the prompt and 8 digits of the key"
    )
    source: MaybeText = Field(
        None, alias="from", description="a table, one job a row: csv, tsv, jsonl (also .gz) or parquet"
    )
    matrix: Annotated[dict[str, AxisSpec], BeforeValidator(leaves.mapping)] = Field(
        {}, description="axes whose product is made; an axis named like a job field sets it"
    )
    exclude: Annotated[list[Exclusion], BeforeValidator(leaves.sequence)] = Field(
        [], description="combinations of axis values that are left out"
    )


class Document(Part):
    """A batchflux manifest."""

    version: Annotated[int, PlainValidator(leaves.leaf(leaves.version)), WithJsonSchema({"const": 1})] = Field(
        description="the manifest's format: 1"
    )
    name: MaybeText = Field(None, description="the run's name; left out: the file's stem")
    provider: Provider | str = Field("simulator", description="which API to call, and how")
    limits: Limits | None = Field(None, description="how much, how fast, how long")
    output: Output | None = Field(None, description="where pictures go, and how they are checked")
    defaults: Defaults | None = Field(None, description="fields that every job has unless it says otherwise")
    jobs: list[JobEntry] = Field(min_length=1, description="the jobs, in order")


def schema() -> dict[str, Any]:
    """The manifest's JSON Schema (draft 2020-12), with descriptions for editors."""
    made = Document.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}
