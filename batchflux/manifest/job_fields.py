"""The table of job fields: how each is read, what the schema says of it, and whether key, request and ledger carry it.

A reader takes the text that stands in YAML, a table's cell or an axis, and returns the value (None: not given). The
validator of a field takes what stands in the tree. Everything that goes through a job's fields goes through FIELDS, so
that a new field is a row here and an attribute of Job.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, get_args

from pydantic import AfterValidator, BeforeValidator, PlainValidator

from batchflux.errors import quoted
from batchflux.manifest.reading import values
from batchflux.manifest.reading.objects import EXAMPLE, REMOTE, is_object, object_address
from batchflux.manifest.reading.values import CONTROL, Template, is_nothing, is_template, leaf, mapping, problem, scalar
from batchflux.manifest.reading.yaml_nodes import Scalar, found, plain_data
from batchflux.models import Format, Reference
from batchflux.redaction import redacted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batchflux.models import Job

MAX_ID = 128  # characters
MAX_PROMPT = 100_000
MAX_TAG_NAME = 100
AUTO = "auto"
STYLES = (AUTO, "standard", "chat", "native")
_SEED_BITS = 63
_RATIO = re.compile(r"([1-9][0-9]{0,5}):([1-9][0-9]{0,5})")
_SEVERAL = re.compile(rf"[,;|]\s*{REMOTE}", re.IGNORECASE)
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


def prompt(text: str) -> str:
    """Read the prompt: any text that is not blank."""
    if not text or text.isspace():
        raise ValueError("found nothing; a job needs a prompt")
    return values.bounded(text, MAX_PROMPT, _UNPRINTABLE, "; remove it")


def tag(text: str) -> str:
    """Read a tag's value: any text, empty too."""
    return values.bounded(text, values.MAX_TEXT, _UNPRINTABLE, "; remove it")


def job_id(text: str) -> str | None:
    """Read an id that can name a file; empty is not given."""
    if len(text) > MAX_ID:
        raise ValueError(f"found {len(text)} characters; an id has at most {MAX_ID}")
    if "/" in text or "\\" in text or CONTROL.search(text) or text in {".", ".."} or text != text.strip():
        allowed = "an id has no slash, backslash, control character or space at its ends, and is not . or .."
        raise ValueError(f"found {quoted(text)}; {allowed}")
    return text or None


def ratio(text: str) -> str | None:
    """Read a ratio as written, W:H; empty keeps the reference's."""
    compact = text.replace(" ", "")
    if not compact:
        return None
    match = _RATIO.fullmatch(compact)
    width, height = (int(match[1]), int(match[2])) if match is not None else (0, 1)
    if width * 9 > height * 21 or width * 21 < height * 9:
        raise ValueError(f"found {quoted(text)}; allowed is W:H from 21:9 to 9:21, as 16:9")
    return compact


def seed(text: str) -> int:
    """Read a whole number of at most 64 bits."""
    try:
        return values.whole(text, -(2**_SEED_BITS), 2**_SEED_BITS - 1)
    except ValueError:
        raise ValueError(f"found {quoted(text)}; allowed is a whole number of at most 64 bits, as 42") from None


def upsampling(text: str) -> bool:
    """Read true or false, as YAML and spreadsheets write them; `yes`, `on` and 1 may be meant otherwise."""
    if text not in _BOOLS:
        raise ValueError(f"found {quoted(text)}; write true or false")
    return _BOOLS[text]


def reference(text: str) -> str | None:
    """Read a reference image: an http(s) URL, an address in a bucket, or the path of a file; empty is not given."""
    if not values.is_url(text):
        return values.bounded(text, len(text), CONTROL, " in a path; remove it") or None
    if _SEVERAL.search(text) is not None:
        remedy = 'part them, as images: {split: "{{ photos }}"}, or write the mark between them as %2C, %3B or %7C'
        raise ValueError(f"found several addresses in one reference, {quoted(text)}; {remedy}")
    if is_object(text):
        return object_address(text)
    if text.lower().startswith(("http:", "https:")):
        return values.url(text)
    raise ValueError(f"found {values.shown(text)}; allowed is an http:// or https:// URL, or {EXAMPLE}")


def _given(read: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: read(text) if text else None


_format = _given(lambda text: "jpeg" if text.lower() == "jpg" else values.one_of(text.lower(), get_args(Format)))
_tolerance = _given(lambda text: values.whole(text, 0, 6))
_style = _given(lambda text: values.one_of(text, STYLES))
_variant = _given(lambda text: values.whole(text, 1, 1_000_000))


_reference = leaf(reference, templated=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Split(Template):
    """A template that comes to any number of references: a list, or a text that lists them."""


def _images(value: object) -> tuple[str | Template, ...]:
    if is_nothing(value):
        return ()
    if isinstance(value, dict) and value.keys() == {"split"}:
        value = scalar(value["split"], 'a template, as {split: "{{ photos }}"}')
    if isinstance(value, Scalar) and is_template(value.text):
        return (Split(text=values.template(value.text).text),)
    if not isinstance(value, list):
        raise problem(f'found {found(value)}; allowed is a list, as [photo.jpg], or a template, as "{{{{ photos }}}}"')
    return tuple(_written(scalar(item, "a path or a URL")) for item in value)


def _image(value: object) -> tuple[str | Template, ...]:
    return () if is_nothing(value) else (_written(scalar(value, "one path or URL; use images for a list")),)


def _written(node: Scalar) -> str | Template:
    """Check a reference that stands there: where nothing does, a job without its picture would be paid for."""
    made: str | Template | None = _reference(node)
    if not made or not node.text.strip():
        raise problem("found nothing; allowed is a path or a URL, or leave the reference out")
    if "*" in node.text and is_object(node.text):
        pattern = f"matrix: {{image: {{glob: {node.text}}}}}"
        raise problem(f"found {quoted(node.text)}; a pattern stands in a matrix, as {pattern}")
    return made


def _model(value: object) -> Any:
    """Check a job's model; written out as empty text it is a mistake, unlike an empty cell or nothing at all."""
    node = scalar(value, "the name of a model")
    if not node.is_null and node.shown is None and not node.text.strip():
        raise problem("found an empty text; allowed is the name of a model, or leave it out for the provider's")
    return leaf(values.line_of_text, templated=True)(node)


def _tags(value: object) -> dict[str, Any]:
    for name in (given := mapping(value)):
        if len(name) > MAX_TAG_NAME or not name or CONTROL.search(name) is not None or name != name.strip():
            raise problem(f"found the tag {quoted(name)}; a name is text on one line of at most 100 characters")
    return given


def _tag(value: object) -> str | Template:
    node = scalar(value, "text")
    made: str | Template = "" if node.is_null else leaf(tag, templated=True)(node)
    return made


def _option(value: object) -> Any:
    if isinstance(value, Scalar) and is_template(value.text):
        return values.template(value.text)
    made = plain_data(value)
    if not isinstance(value, Scalar) and is_template(json.dumps(made)):
        raise problem(f"found {found(value)} with a template in it; allowed is a template that is the whole value")
    return made


def _by_name(named: Callable[[object], dict[str, Any]], item: Callable[[object], Any]) -> Any:
    pairs = AfterValidator(lambda made: tuple(made.items()))
    return Annotated[dict[str, Annotated[Any, PlainValidator(item)]], BeforeValidator(named), pairs]


def _one(check: Callable[[object], Any]) -> Any:
    return Annotated[Any, PlainValidator(check)]


@dataclass(frozen=True, slots=True)
class JobField:
    """One field of a job.

    `kind` validates it; `types` and `more` are its JSON Schema; `read` is None where it is more than one text, or never
    set by a template or an axis; `default` is a Job's. `uses` says who has it: `key` (a job's key, in its place),
    `named` (the key, by its name if given), `sent` (a request may) and `spec` (the ledger, beside the prompt).
    """

    name: str
    kind: Any
    types: str
    description: str
    uses: str = ""
    read: Callable[[str], Any] | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    default: Any = None


def _text(name: str, read: Callable[[str], Any], types: str, description: str, uses: str = "") -> JobField:
    check = leaf(read, templated=True)

    def one(value: object) -> Any:
        if isinstance(value, list):
            raise problem(f"found a list; allowed is one value. For a job of each write matrix: {{{name}: [...]}}")
        return check(value)

    return JobField(name, _one(one), types, description, uses, read=read)


def _words(*words: str) -> Mapping[str, Any]:
    """Return the JSON Schema of one of these words, in any case, or a template."""
    return {"anyOf": [{"enum": [*words, None]}, {"pattern": "[^a-z]"}]}


_SECRET = _one(leaf(str))
_ASKED = "key sent spec"
_NEW = "named sent spec"  # a field that came later: in the key only where it is given
FIELDS: tuple[JobField, ...] = (
    _text("prompt", prompt, "string number boolean", "what to make; a Jinja2 template"),
    JobField("image", _one(_image), "string null", "one reference image: short for images with one"),
    JobField(
        "images",
        _one(_images),
        "array string object null",
        "reference images, in order: local paths (beside the manifest), URLs or s3://bucket/key; or a template of them",
        more={"items": {"type": "string"}},
    ),
    _text("seed", _given(seed), "integer string null", "a whole number", _ASKED),
    _text("aspect_ratio", ratio, "string null", "W:H from 21:9 to 9:21; left out keeps the reference's", _ASKED),
    replace(
        _text("output_format", _format, "string null", "jpeg (or jpg), png or webp; left out: jpeg", _ASKED),
        more=_words("jpeg", "jpg", "png", "webp"),
    ),
    _text("safety_tolerance", _tolerance, "integer string null", "0 (strict) to 6", _ASKED),
    _text(
        "prompt_upsampling", _given(upsampling), "boolean string null", "let the provider rewrite the prompt", _ASKED
    ),
    _text("negative_prompt", _given(prompt), "string null", "what the picture must not show", _NEW),
    _text("resolution", _given(values.line_of_text), "string null", "how large, as the API says it, as 2K", _NEW),
    _text("quality", _given(values.line_of_text), "string null", "how good, as the API says it, as high", _NEW),
    _text("background", _given(values.line_of_text), "string null", "what lies behind: transparent or opaque", _NEW),
    _text("mask", reference, "string null", "a picture of what may change, where an API takes one", "named spec"),
    JobField("model", _one(_model), "string null", "another model than the provider's", read=values.line_of_text),
    _text("provider", values.line_of_text, "string null", "one of `providers`, by its name: who makes the job"),
    replace(
        _text("style", _style, "string null", "the call style of a flux-relay: auto, standard, chat or native"),
        more=_words(*STYLES),
    ),
    JobField(
        "options",
        _by_name(mapping, _option),
        "object null",
        "what only this API knows; each wins over the one in provider.options",
        "named spec",
        default=(),
    ),
    JobField(
        "variant",
        _one(leaf(_variant, templated=True)),
        "integer string null",
        "2, 3, ... make a deliberate further copy of the same job",
        "key spec",
        read=_variant,
        default=1,
    ),
    _text("webhook_url", _given(values.url), "string null", "a URL called when the picture is ready", "sent"),
    JobField(
        "webhook_secret", _SECRET, "string null", "${NAME} of the environment variable that holds the secret", "sent"
    ),
    JobField(
        "tags",
        _by_name(_tags, _tag),
        "object null",
        "free; come back as tags.* columns of results.csv",
        more={"additionalProperties": {"type": ["string", "number", "boolean", "null"]}},
    ),
)
ID = _text("id", job_id, "string number null", "the job's name; left out: a slug of the prompt and 8 digits of the key")


def _names(use: str) -> tuple[str, ...]:
    return tuple(row.name for row in FIELDS if use in row.uses.split())


READERS: dict[str, Callable[[str], Any]] = {row.name: row.read for row in (ID, *FIELDS) if row.read is not None}
FIELD_NAMES = frozenset(row.name for row in (ID, *FIELDS))
AXIS_FIELDS = frozenset({*READERS, "image", "images"})  # an axis of such a name sets the field
KEY_FIELDS = _names("key")
NAMED_KEY_FIELDS = (*_names("named"), "key_provider")  # the provider's name counts where the job itself says it
REQUEST_FIELDS = _names("sent")  # in the order in which they are sent
SPEC_FIELDS = {row.name: row.default for row in FIELDS if "spec" in row.uses.split()}  # with its default
_PAIRS = frozenset(name for name, default in SPEC_FIELDS.items() if default == ())


def asked(job: Job) -> dict[str, Any]:
    """Return the optional fields that a job was asked for as JSON data: what the ledger keeps beside the prompt."""
    given = ((name, getattr(job, name)) for name, default in SPEC_FIELDS.items())
    found = {name: dict(value) if name in _PAIRS else value for name, value in given if value != SPEC_FIELDS[name]}
    return found if job.mask is None else {**found, "mask": redacted(job.mask.source)}


def from_asked(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of a Job that `asked` has, the others as nobody asked for them."""
    found = {
        name: tuple(spec.get(name, {}).items()) if name in _PAIRS else spec.get(name, default)
        for name, default in SPEC_FIELDS.items()
    }
    mask = spec.get("mask")
    return found if mask is None else {**found, "mask": Reference(source=str(mask))}
