"""What a manifest says: one frozen model for each part, which also gives the JSON Schema for editors.

A key that is not listed is a fault; what is given as nothing has its default. The parts of a loaded manifest are these
models; its jobs are entries, made of `defaults` and an element of `jobs` each.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, WithJsonSchema, create_model

from batchflux.errors import ReadError
from batchflux.manifest import job_fields, kinds
from batchflux.manifest.kinds import (
    Amount,
    AxisSpec,
    Delimiter,
    Encoding,
    Exclusion,
    MaybeText,
    Part,
    Text,
    Truth,
    Where,
)
from batchflux.manifest.parts import ReferencesConfig, StoreConfig, WebhooksConfig
from batchflux.manifest.providers.settings import NamedProvider, ProviderConfig
from batchflux.manifest.reading import targets, values
from batchflux.manifest.reading.objects import is_object
from batchflux.manifest.reading.values import (
    AutoTimeout,
    Deadline,
    Rate,
    Template,
    line_of_text,
)
from batchflux.models import DIFFERENCES, Verify
from batchflux.output.stores.base import StoreSettings, folder_of
from batchflux.output.stores.opening import Stores
from batchflux.photos import LINK_LIFE, Photos, Published, Settings, reach_of
from batchflux.secrets import Secrets
from batchflux.tables import Given

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from batchflux.capabilities import Capabilities
    from batchflux.manifest.matrix import Axis
    from batchflux.manifest.reading.fetched import Fetched
    from batchflux.manifest.reading.targets import NoticeTarget
    from batchflux.secrets import Lookup


class LimitsConfig(Part):
    """How much, how fast, how long. `timeout` in seconds for one API call, budgets in the provider's currency."""

    concurrency: Annotated[int, kinds.whole(10_000, maximum=10_000)] = Field(8, description="requests in flight")
    rate: Annotated[Rate | None, kinds.of_text(values.rate, "string", "null")] = Field(
        None, description="requests started in a time: N/s, N/min or N/h"
    )
    attempts: Annotated[int, kinds.whole(100, maximum=100)] = Field(5, description="attempts for each job")
    timeout: Annotated[float | AutoTimeout, kinds.of_node(kinds.timeout, kinds.TIMEOUT)] = Field(
        values.LONGEST_CALL,
        description="bound of one API call, as 360s or 6m; auto, or {auto: 2m} for at least that: from what calls take",
    )
    budget: Amount = Field(None, description="never spend more than this, in the provider's currency, over all runs")
    budget_per_run: Amount = Field(None, description="never spend more than this in one run")
    deadline: Annotated[Deadline | None, kinds.of_text(values.deadline, "string", "null")] = Field(
        None, description='stop at a clock time, "06:00", or after a duration, 5h'
    )
    max_consecutive_failures: Annotated[int, kinds.whole(1_000_000)] = Field(
        20, description="stop the run after so many failures in a row"
    )
    patience: Annotated[float | None, kinds.of_text(values.timeout, "string", "number")] = Field(
        None, description="how long an outage is waited out; left out: 30m, with a deadline until then"
    )
    canary: Annotated[int, kinds.of_text(lambda text: values.whole(text, 0, 10_000), "integer", minimum=0)] = Field(
        4, description="requests bought from a provider until its first picture is kept; 0: no bound"
    )

    @property
    def budgets(self) -> list[str]:
        """The keys of the budgets that are given."""
        return [key for key in ("budget", "budget_per_run") if getattr(self, key) is not None]


class OutputConfig(Part):
    """Where pictures go, and how they are checked. `dir` is absolute once loaded, `max_bytes` bounds one picture."""

    dir: Annotated[Path, kinds.of_text(line_of_text, "string", "number", "null")] = Field(
        default_factory=lambda: Path("out"), description="the output folder; relative to the current folder"
    )
    file_name: Text = Field("{{ id }}.{{ ext }}", description="template of a picture's name within images/")
    verify: Annotated[Verify, kinds.word(*get_args(Verify))] = Field(
        "decode", description="decode every pixel, or check the file's structure only"
    )
    max_bytes: Annotated[int, kinds.of_text(values.size, "string", "integer")] = Field(
        50_000_000, description="the largest picture that is accepted, as 50MB"
    )
    csv: Annotated[Literal["plain", "excel"], kinds.word("plain", "excel")] = Field(
        "plain", description="excel: results.csv begins with the mark by which Excel reads all letters right"
    )
    accept: Annotated[tuple[str, ...], kinds.of_node(kinds.accepted, kinds.ACCEPT)] = Field(
        (), description=f"what a picture may differ in and still be taken: {', '.join(DIFFERENCES)}, or any"
    )
    mirror: Annotated[str | None, kinds.of_text(folder_of, "string", "null")] = Field(
        None, description="a bucket that gets each picture, too, as s3://bucket/spring"
    )
    keep_local: Truth = Field(True, description="false: a picture is removed here once it is in the mirror")


DEFAULT_FILE_NAME: str = OutputConfig.model_fields["file_name"].default


def _job_fields(*rows: job_fields.JobField) -> dict[str, Any]:
    made = [Annotated[row.kind, WithJsonSchema(kinds.types_of(*row.types.split(), **row.more))] for row in rows]
    return {row.name: (kind, Field(None, description=row.description)) for row, kind in zip(rows, made, strict=True)}


_TABLE = "a table, one job a row: csv, tsv, json, jsonl (each also .gz), xlsx or parquet"
_ENCODING = "how the table is encoded, as cp1252, gbk or utf-16; left out: found where it is certain"
_DELIMITER = 'what parts the cells of a csv or tsv table, as ";" or tab; left out: what its header proves'
_WHERE = "a template that keeps a row; nothing, 0, false, no and off leave it out"
_ALLOW_EMPTY = "whether an empty cell, or one that says nan, None, NULL or #N/A, is empty text in a template"
_SKIP_EMPTY = "whether rows whose reference is empty are left out"
_AXES = "axes whose product is made; an axis named like a job field sets it"
_ZIP = "axes whose values go together, the first of each, the second of each, ...; as long as each other"
_LEFT_OUT = "combinations of axis values that are left out"
_DEFAULTS = "Fields that every job has unless it says otherwise."
Defaults = create_model("Defaults", __base__=Part, __doc__=_DEFAULTS, **_job_fields(*job_fields.FIELDS))
JobEntry = create_model(
    "JobEntry",
    __base__=Defaults,
    __doc__="One job, or many made from a table and a matrix.",
    **_job_fields(job_fields.ID),
    source=(MaybeText, Field(None, alias="from", description=_TABLE)),
    encoding=(Encoding, Field(None, description=_ENCODING)),
    delimiter=(Delimiter, Field(None, description=_DELIMITER)),
    where=(Where, Field(None, description=_WHERE)),
    allow_empty=(Truth, Field(False, description=_ALLOW_EMPTY)),
    skip_empty=(Truth, Field(False, description=_SKIP_EMPTY)),
    zipped=(Annotated[dict[str, AxisSpec], BeforeValidator(values.mapping)], Field({}, alias="zip", description=_ZIP)),
    matrix=(Annotated[dict[str, AxisSpec], BeforeValidator(values.mapping)], Field({}, description=_AXES)),
    exclude=(Annotated[list[Exclusion], BeforeValidator(values.sequence)], Field([], description=_LEFT_OUT)),
)
_DOCUMENT: dict[str, Any] = {
    "version": (Annotated[int, WithJsonSchema({"const": 1})], Field(description="the manifest's format: 1")),
    "name": (MaybeText, Field(None, description="the run's name; left out: the file's stem")),
    "provider": (
        ProviderConfig | str,
        Field("simulator", description="which API to call, and how; beside `providers` the name of one of them"),
    ),
    "providers": (
        dict[str, NamedProvider] | None,
        Field(
            None, description="several, by names of your own; a job chooses with `provider`, else the first makes it"
        ),
    ),
    "fallback": (
        Annotated[tuple[str, ...], kinds.of_node(kinds.texts, kinds.LIST)],
        Field((), description="providers that take a job over, in order, when its own is down or takes no key"),
    ),
    "fallback_on": (
        Annotated[tuple[str, ...], kinds.of_node(kinds.fallback_on, kinds.LIST)],
        Field((), description="of what else they do: moderated"),
    ),
    "limits": (LimitsConfig | None, Field(None, description="how much, how fast, how long")),
    "output": (OutputConfig | None, Field(None, description="where pictures go, and how they are checked")),
    "references": (
        ReferencesConfig | None,
        Field(None, description="what is done to local photos before they are sent"),
    ),
    "stores": (
        dict[str, StoreConfig] | None,
        Field(None, description="what buckets need said of them, by their addresses, as s3://bucket"),
    ),
    "webhooks": (
        WebhooksConfig | None,
        Field(None, description="where APIs call when a task has ended, so that it need not be asked for so often"),
    ),
    "notify": (
        Annotated[Any, WithJsonSchema(targets.SCHEMA)],
        Field(None, description="who is told how a run goes: webhooks, pings, chats; see `batchflux docs nights`"),
    ),
    "defaults": (Defaults | None, Field(None, description="fields that every job has unless it says otherwise")),
    "jobs": (list[JobEntry], Field(min_length=1, description="the jobs, in order")),
}
Document = create_model("Document", __base__=Part, __doc__="A batchflux manifest.", **_DOCUMENT)


def schema(offers: Iterable[Capabilities] = ()) -> dict[str, Any]:
    """Return the manifest's JSON Schema (draft 2020-12), with descriptions for editors.

    With what the APIs can carry, `provider.options` is that of the API which `provider` names.
    """
    made = Document.model_json_schema(by_alias=True)
    options: dict[str, list[Any]] = {}
    for offer in offers:
        if offer.options is not None:
            options.setdefault(offer.api, []).append(offer.options.model_json_schema())
    chosen = [
        {
            "if": {"anyOf": [{"properties": {key: {"const": api}}, "required": [key]} for key in ("api", "name")]},
            "then": {"properties": {"options": {"anyOf": [*known, {"type": "null"}]}}},
        }
        for api, known in options.items()
    ]
    for part in ("ProviderConfig", "NamedProvider"):
        made["$defs"][part]["allOf"] = chosen
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made, "patternProperties": {"^x-": {}}}


def starter() -> str:
    """Return a commented manifest that runs as it is, on the simulator."""
    return (files("batchflux.manifest") / "starter.yaml").read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One element of `jobs`, defaults merged in. `lines` tells where each field stands.

    A field is a value, a Template, a tuple of texts and Templates (images), or pairs of a name and one (tags, options).
    `names_provider`: it says itself, or by an axis, who makes its jobs, so that this is part of what they are.
    """

    index: int
    line: int
    fields: Mapping[str, Any]
    lines: Mapping[str, int]
    source: str | None = None
    given: Given = field(default_factory=Given)
    where: str | None = None
    allow_empty: bool = False
    skip_empty: bool = False
    axes: tuple[Axis, ...] = ()
    exclude: tuple[Mapping[str, str], ...] = ()
    names_provider: bool = False


def stores_of(said: Mapping[str, StoreConfig], secrets: Lookup) -> Stores:
    """Return who opens buckets, by what is said of them."""
    settings = {name: StoreSettings(**one.model_dump()) for name, one in said.items()}
    return Stores(look_up=secrets.get, settings=settings)


CLIENT = "client"  # the tag of a job that a gateway's client called for


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A manifest without static faults.

    `path` is absolute and `base` its folder, `display` the path as the user typed it, `text` the source as written
    (secrets unexpanded). `out_given` tells whether the output folder was named when the manifest was loaded,
    `dir_given` whether it was that or is absolute, and so the same from everywhere. `file_name_line` is where
    output.file_name stands, `provider_lines` where keys and options of each provider do. `env_file` has values of
    variables, as --env-file names it.
    `fetched` is what is read out of buckets.
    `providers` are all by their names, `provider` the one of jobs that name none; `several` tells whether they were
    written as such. `chosen`: the command line says that `provider` makes all jobs. `fallback` are the names of those
    that take jobs over, in order, `fallback_on` the error codes for which they do so besides.
    `notify` are the addresses that are told how a run goes. `served`: jobs come from elsewhere, so it lists none;
    `unheeded` are keys that it has all the same, and that say nothing of such jobs.
    """

    path: Path
    base: Path
    display: str
    name: str
    provider: ProviderConfig
    limits: LimitsConfig
    output: OutputConfig
    references: ReferencesConfig
    webhooks: WebhooksConfig
    stores: Mapping[str, StoreConfig]
    fetched: Fetched = field(repr=False, compare=False)
    text: str = field(repr=False)
    entries: tuple[Entry, ...] = field(repr=False)
    file_name_line: int = field(default=1, repr=False)
    provider_lines: Mapping[tuple[str, str], int] = field(default_factory=dict, repr=False)
    out_given: bool = False
    env_file: Path | None = None
    dir_given: bool = False
    providers: Mapping[str, ProviderConfig] = field(default_factory=dict)
    several: bool = False
    chosen: bool = False
    fallback: tuple[str, ...] = ()
    fallback_on: tuple[str, ...] = ()
    notify: tuple[NoticeTarget, ...] = ()
    served: bool = False
    unheeded: tuple[str, ...] = ()

    @property
    def simulated(self) -> bool:
        """Whether the embedded simulator makes all jobs."""
        return all(provider.simulated for provider in self.providers.values())

    @property
    def free(self) -> bool:
        """Whether nothing can cost anything: all is simulated, and nothing has a price."""
        return self.simulated and all(provider.price is None for provider in self.providers.values())

    @property
    def currency(self) -> str:
        """The currency of all prices and of the budget."""
        return self.provider.currency

    @property
    def may_ask(self) -> tuple[str, ...]:
        """The names of the providers that jobs ask, or may ask when one cannot: all, where a template or file says."""
        if self.served and not self.chosen:
            return tuple(self.providers)
        default, names = self.provider.name, {*(() if self.chosen else self.fallback)}
        for entry in () if self.chosen else self.entries:
            axis = next((axis for axis in entry.axes if axis.name == "provider"), None)
            said = entry.fields.get("provider")
            if isinstance(said, Template) or (axis is not None and axis.kind != "list"):
                return tuple(self.providers)
            texts = [said] if axis is None else [value.text for value in axis.values(self)]
            names |= {text or default for text in texts}
        return tuple(name for name in self.providers if name in (names or {default}))

    def price_of(self, name: str, model: str) -> Decimal | None:
        """Return the price of one image by a provider's model; None when none is known, or nothing costs anything."""
        provider = self.providers[name]
        price = provider.price_of(model)
        return Decimal(0) if price is None and provider.simulated and not self.free else price

    def limits_of(self, name: str) -> LimitsConfig:
        """Return the limits that hold for a provider."""
        provider = self.providers[name]
        own = provider.limits if isinstance(provider, NamedProvider) else None
        said = own.model_dump(exclude_none=True).keys() if own is not None else ()
        return self.limits.model_copy(update={key: getattr(own, key) for key in said})

    def secrets(self, environ: Mapping[str, str]) -> Secrets:
        """Return where keys are looked up in, beginning with `environ`."""
        return Secrets(environ, self.base, self.env_file)

    def buckets(self, environ: Mapping[str, str]) -> Stores:
        """Return who opens buckets, with what is looked up beginning with `environ`."""
        return stores_of(self.stores, self.secrets(environ))

    @property
    def tag_names(self) -> tuple[str, ...]:
        """The names of all tags, in the order in which the manifest first writes them; of calls, whose they are."""
        if self.served:
            return (CLIENT,)
        pairs = (pair for entry in self.entries for pair in entry.fields.get("tags", ()))
        return tuple(dict.fromkeys(name for name, _ in pairs))

    def path_of(self, source: str) -> Path:
        """Return the path of a file that the manifest names, beside it or in a bucket; ReadError where it has none."""
        if is_object(source):
            return self.fetched.file(source)
        if values.is_url(source):
            allowed = "allowed is a path, or an address in a bucket, as s3://bucket/products.csv"
            raise ReadError(None, f"cannot be read at a URL; {allowed}")
        return self.base / source

    def matches(self, patterns: Sequence[str]) -> list[str]:
        """Return the files that patterns mean, beside the manifest and in buckets; ValueError where there are none."""
        return self.fetched.matches(patterns, self.base)

    def photos(self, output: Path | None = None) -> Photos:
        """Return the photos that the jobs name; with an output folder to remember them in, they can be decoded."""
        reaches = [reach_of(one.base_url, one.allow_hosts) for one in self.providers.values()]
        settings = Settings(**self.references.model_dump(exclude={"publish"}))
        return Photos(self.base, settings, output, lambda url: any(reach(url) for reach in reaches))

    @property
    def published(self) -> Published:
        """Where local references are put, so that they travel as links, and how long signed links are good for."""
        said = self.references.publish
        return Published() if said is None else Published(to=said.to, url=said.url, seconds=said.sign or LINK_LIFE)

    def beside(self, source: str) -> str:
        """Return how a message names a file that the manifest names: as the user would type it from where they are."""
        return source if is_object(source) else str(Path(self.display).parent / source)
