"""Bodies of requests, read strictly: JSON, its parameters, and the sentence that refuses one.

A parameter that is null is not given. Every refusal is a RefusalError 400 that names the parameter.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from batchflux.errors import quoted
from batchflux.gateway.orders import RefusalError
from batchflux.manifest.reading.values import either, line_of_text

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_MOST_BITS = 64  # of a number that a message shows
_KINDS = {bool: "boolean", int: "integer", float: "number", str: "string", list: "list", dict: "object"}
_SAID = {"boolean": "true or false", "integer": "a whole number", "string": "text"}


def refused(param: str | None, message: str, code: str = "invalid_value") -> RefusalError:
    """Return the refusal of a parameter (None: of the whole body), to be raised."""
    return RefusalError(400, code, f"{param}: {message}." if param else message, param=param)


def parsed(data: bytes) -> dict[str, Any]:
    """Read a body: one JSON object in UTF-8, without NaN, names that stand twice, or halves of characters."""
    try:
        text = data.decode("utf-8")
        body = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        why = str(error) if isinstance(error, _OddError) else "it is none, or nested too deeply"
        raise refused(None, f"The body must be JSON in UTF-8: {why}.", "invalid_json") from None
    if not isinstance(body, dict):
        raise refused(None, f"The body must be a JSON object; found {found(body)}.", "invalid_json")
    if _ESCAPED_SURROGATE.search(text) and any(_SURROGATE.search(each) for each in _texts(body)):
        half = "it holds half of a character, as \\ud83d alone; send whole characters"
        raise refused(None, f"The body must be JSON in UTF-8: {half}.", "invalid_json")
    return body


class _OddError(ValueError):
    """JSON as Python takes it, and the standard does not."""


def _no_constant(name: str) -> Any:
    raise _OddError(f"it holds {name}, which is no number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in made if names.count(name) > 1)
        raise _OddError(f"the name {quoted(twice)} stands twice in one object")
    return made


def _texts(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, dict):
            waiting += [*each, *each.values()]
        elif isinstance(each, list):
            waiting += each


def found(value: Any) -> str:
    """Return the value as a message shows it: short, and nothing of what lies in it."""
    kind = kind_of(value)
    if kind == "null":
        return "nothing"
    if kind in {"list", "object"}:
        return f"{'a list' if kind == 'list' else 'an object'} of {len(value)}"
    return quoted(value) if kind == "string" else "a very long number" if _is_long(value) else json.dumps(value)


def _is_long(value: Any) -> bool:
    return type(value) is int and value.bit_length() > _MOST_BITS


def kind_of(value: Any) -> str:
    """Return what JSON calls the value: null, boolean, integer, number, string, list or object."""
    return _KINDS.get(type(value), "null")


def known(body: Mapping[str, Any], allowed: Collection[str], *silent: Collection[str]) -> dict[str, Any]:
    """Return what is given; refuse a parameter that nobody knows, with those that are allowed and mean something."""
    for name in body:
        if name not in allowed and not any(name in names for names in silent):
            listed = ", ".join(sorted(allowed))
            message = f"There is no parameter {quoted(name)} here; leave it out. Allowed are {listed}."
            raise RefusalError(400, "unknown_parameter", message, param=name[:100] if name.isprintable() else None)
    return {name: value for name, value in body.items() if value is not None}


def typed(param: str, value: Any, *kinds: str) -> Any:
    """Return the value if it is of one of the kinds."""
    if kind_of(value) not in kinds:
        allowed = either(tuple(_SAID.get(kind, f"a {kind}" if kind == "list" else f"an {kind}") for kind in kinds))
        raise refused(param, f"found {found(value)}; allowed is {allowed}", "invalid_type")
    return value


def read(param: str, text: str, reader: Callable[[str], Any]) -> Any:
    """Return what a reader of texts makes of this one; its ValueError is the refusal."""
    try:
        return reader(text)
    except ValueError as error:
        raise refused(param, str(error)) from None


def word(body: Mapping[str, Any], param: str, *allowed: str) -> str | None:
    """Return one of a few words; None where it is not given."""
    value: str | None = body.get(param)
    if value is not None and typed(param, value, "string") not in allowed:
        raise refused(param, f"found {quoted(value)}; allowed is {either(allowed)}")
    return value


def flag(body: Mapping[str, Any], param: str) -> bool:
    """Return a switch, off where it is not given."""
    return bool(typed(param, body.get(param, False), "boolean"))


def whole(body: Mapping[str, Any], param: str, lowest: int, highest: int, default: int) -> int:
    """Return a whole number within bounds, both included."""
    value: int = typed(param, body.get(param, default), "integer")
    if not lowest <= value <= highest:
        raise refused(param, f"found {found(value)}; allowed is a whole number from {lowest} to {highest}")
    return value


def line(body: Mapping[str, Any], param: str) -> str:
    """Return text on one line, empty where it is not given."""
    return read(param, typed(param, body.get(param, ""), "string"), line_of_text) or ""
