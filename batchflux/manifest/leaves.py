"""How the schema takes a leaf of the tree: a Scalar in, a converted value out, pydantic only told of the fault.

The rule: an unquoted number or word is the text the user wrote until the field's converter reads it; nothing given
is None; text with `{{` or `{%` in a field that may be templated is a Template and read once it is rendered.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticCustomError

from batchflux.manifest.values import Template
from batchflux.manifest.job_fields import READERS
from batchflux.manifest.fields import is_tag_name, line_of_text, reference, tag
from batchflux.manifest.yaml_nodes import Scalar, found, plain_data, quoted, value_of

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_RANGE = 1_000_000
MAX_TEMPLATE = 65_536

_TEMPLATE = re.compile(r"\{\{|\{%|\{#")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_AXIS_ALLOWED = "allowed is a list, {range: [first, last]}, {glob: PATTERN} or {lines: FILE}"


def problem(message: str) -> PydanticCustomError:
    """A fault whose message is already ours."""
    return PydanticCustomError("manifest", "{message}", {"message": message})


def is_template(text: str) -> bool:
    """Whether the text has to be rendered."""
    return _TEMPLATE.search(text) is not None


def scalar(value: object, allowed: str = "a single value") -> Scalar:
    """The value, which must be a scalar."""
    if not isinstance(value, Scalar):
        raise problem(f"found {found(value)}; allowed is {allowed}")
    return value


def leaf(convert: Callable[[str], Any], *, templated: bool = False) -> Callable[[object], Any]:
    """A validator for one scalar field."""

    def check(value: object) -> Any:
        node = scalar(value)
        if node.is_null:
            return None
        if templated and is_template(node.text):
            return template(node.text)
        try:
            return convert(node.text)
        except ValueError as error:
            # The value of an environment variable may be a secret: show the variable only.
            hidden = f"found {quoted(node.shown or '')}, and what that variable holds is not allowed here"
            raise problem(str(error) if node.shown is None else hidden) from None

    return check


def job_leaf(name: str) -> Callable[[object], Any]:
    """The validator of the job field of that name."""
    return leaf(READERS[name], templated=True)


def template(text: str) -> Template:
    """A template of a bounded length."""
    if len(text) > MAX_TEMPLATE:
        raise problem(f"found a template of {len(text)} characters; allowed are at most {MAX_TEMPLATE}")
    return Template(text=text)


def model(value: object) -> Any:
    """A job's model; written out as empty text it is a mistake, unlike an empty cell or nothing at all."""
    node = scalar(value, "the name of a model")
    if not node.is_null and node.shown is None and not node.text.strip():
        raise problem("found an empty text; allowed is the name of a model, or leave it out for the provider's")
    return job_leaf("model")(node)


def _reference(node: Scalar) -> Any:
    return leaf(reference, templated=True)(node)


def images(value: object) -> tuple[Any, ...]:
    """A list of references."""
    if isinstance(value, Scalar) and value.is_null:
        return ()
    if not isinstance(value, list):
        raise problem(f"found {found(value)}; allowed is a list, as [photo.jpg]")
    made = [_reference(scalar(item, "a path or a URL")) for item in value]
    return tuple(item for item in made if item is not None)


def image(value: object) -> tuple[Any, ...]:
    """One reference: shorthand for a list of one."""
    made = _reference(scalar(value, "one path or URL; use images for a list"))
    return () if made is None else (made,)


def tag_value(value: object) -> Any:
    """A tag's value as text."""
    node = scalar(value, "text")
    return "" if node.is_null else leaf(tag, templated=True)(node)


def keys(value: object) -> tuple[str, ...]:
    """Names of environment variables; one may stand without a list. A value is never shown: it may be the key."""
    items = value if isinstance(value, list) else [value]
    if len(items) == 1 and isinstance(items[0], Scalar) and items[0].is_null:
        return ()
    names = tuple(scalar(item, "the name of an environment variable").text for item in items)
    for name in names:
        if not _VARIABLE.fullmatch(name) or _looks_like_key(name):
            message = "this is no name of an environment variable; put the key into a variable and name it here"
            raise problem(f"{message}, as TUZI_API_KEY")
    if len(set(names)) != len(names):
        raise problem("a name stands here twice; name each environment variable once")
    return names


def _looks_like_key(name: str) -> bool:
    mixed = any(c.islower() for c in name) and any(c.isupper() for c in name) and any(c.isdigit() for c in name)
    return len(name) > 64 or (mixed and len(name) >= 20 and "_" not in name)  # noqa: PLR2004  longer than names are


def axis(value: object) -> tuple[str, tuple[Any, ...]]:
    """What an axis is made of: its kind, and the Scalars (or lists of them), bounds or text written for it."""
    if isinstance(value, list):
        if not value:
            raise problem("found an empty list; an axis needs at least one value")
        return "list", tuple(_axis_value(item) for item in value)
    if not isinstance(value, dict) or len(value) != 1:
        raise problem(f"found {found(value)}; {_AXIS_ALLOWED}")
    ((kind, given),) = value.items()
    if kind == "range":
        return "range", _range(given)
    if kind not in {"glob", "lines"}:
        raise problem(f"found {quoted(kind)}; {_AXIS_ALLOWED}")
    text = line_of_text(scalar(given, "a pattern" if kind == "glob" else "the path of a text file").text)
    if text is None:
        raise problem(f"found nothing; {_AXIS_ALLOWED}")
    return kind, (text,)


def _axis_value(item: object) -> Any:
    if isinstance(item, list):
        return tuple(scalar(part) for part in item)
    node = scalar(item)
    if is_template(node.text):
        raise problem(f"found {quoted(node.text)}; axis values are data, so write the template into the field itself")
    return node


def _range(given: object) -> tuple[int, int]:
    bounds = [value_of(item) for item in given if isinstance(item, Scalar)] if isinstance(given, list) else []
    numbers = [bound for bound in bounds if isinstance(bound, int) and not isinstance(bound, bool)]
    if not isinstance(given, list) or len(given) != 2 or len(numbers) != 2:  # noqa: PLR2004  first and last
        raise problem("the range is not two whole numbers; allowed is {range: [first, last]}, both included")
    first, last = numbers
    if first > last:
        raise problem(f"the range starts at {first} and ends at {last}; the first must not be above the last")
    if last - first >= MAX_RANGE:
        raise problem(f"the range has {last - first + 1} values; allowed are at most {MAX_RANGE}")
    return first, last


def exclusion(value: object) -> str:
    """A value that an excluded combination has, as text."""
    node = scalar(value)
    return "" if node.is_null else node.text


def text(value: object) -> str:
    """Text that must be given."""
    node = scalar(value, "text")
    if node.is_null and node.shown is not None:  # a variable that is not set: told already
        return node.shown
    text = None if node.is_null else line_of_text(node.text)
    if text is None:
        raise problem("found nothing; allowed is text")
    return text


def version(text: str) -> int:
    """The manifest's format."""
    if text != "1":
        raise ValueError(f"found {quoted(text)}; allowed is 1")
    return 1


def _json(value: object) -> Any:
    if isinstance(value, dict):
        return {key: _json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_json(item) for item in value]
    return plain_data(value) if isinstance(value, Scalar) else value


def mapping(value: object) -> dict[str, Any]:
    """A mapping; nothing is an empty one."""
    if isinstance(value, Scalar) and value.is_null:
        return {}
    if not isinstance(value, dict):
        raise problem(f"found {found(value)}; allowed is a mapping")
    return value


def tags(value: object) -> object:
    """A mapping of tags, whose names can be columns."""
    for name in (given := mapping(value)):
        if not is_tag_name(name):
            raise problem(f"found the tag {quoted(name)}; a name is text on one line of at most 100 characters")
    return given


def sequence(value: object) -> object:
    """A list; nothing is an empty one."""
    if isinstance(value, Scalar) and value.is_null:
        return []
    if not isinstance(value, list):
        raise problem(f"found {found(value)}; allowed is a list")
    return value


def options(value: object) -> Any:
    """A mapping of plain JSON data."""
    return _json(mapping(value))
