"""Where an answer says what went wrong: the layers of its error object, outermost first.

Relays wrap each other: an `error` may be a string or an object, its message may be JSON again (or prose with JSON
in it), and some answer `{"code", "message"}`, `{"detail"}` or `{"success": false}` with no `error` at all. Whether
JSON is a failure, and in which words, is decided here; what the words mean is decided in `failures`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from batchflux.providers.untrusted import objects

_DEEPEST = 4
_MESSAGES = ("message", "msg", "detail", "details", "error_description", "fail_reason", "failure_reason", "reason")
_ANSWERS = ("data", "choices", "images", "output", "url", "b64_json")
_ERROR_STATUS = range(400, 600)
_FAILED_STATE = re.compile(r"fail|error|moderat", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """One layer: `code` and `type` in lower case with `_` for blanks and hyphens, empty when absent."""

    code: str = ""
    type: str = ""
    message: str = ""

    @property
    def status(self) -> int | None:
        """The HTTP status that the code is, when it is one that means failure."""
        return int(self.code) if re.fullmatch(r"[45]\d\d", self.code) else None


def complaints_in(value: Any, *, certain: bool = False) -> tuple[Complaint, ...]:
    """Return the layers of the failure that JSON reports, outermost first; empty when it reports none.

    Args:
        value: parsed JSON.
        certain: it is known to be a failure (by HTTP status or the event's name), so its own fields count too.
    """
    if isinstance(value, list):
        value = next((item for item in value if isinstance(item, Mapping)), {})
    if not isinstance(value, Mapping):
        return (Complaint(message=str(value)),) if certain and value else ()
    error = value.get("error") or value.get("errors")
    if isinstance(error, Mapping | list | str) and error:
        inner = _layers(error, _DEEPEST)
        # `{"error": "prompt_blocked", "message": "why"}` says more around the error than in it.
        return (*inner, *_layers(_without_error(value), 1)) if isinstance(error, str) else inner
    if certain or error or _is_failure(value):
        return _layers(value, _DEEPEST)
    return ()


def _without_error(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in value.items() if key != "error"}


def _is_failure(value: Mapping[str, Any]) -> bool:
    if value.get("success") is False:
        return True
    if any(value.get(key) for key in _ANSWERS):
        return False
    state = value.get("status")
    if isinstance(state, str) and _FAILED_STATE.search(state):
        return True
    code, said = value.get("code"), any(value.get(key) for key in _MESSAGES)
    if _name(code) in {"", "0", "200", "success", "ok"}:
        return bool(value.get("detail"))
    return said or (isinstance(code, int) and code in _ERROR_STATUS)


def _layers(error: Any, depth: int) -> tuple[Complaint, ...]:
    """Unwrap an error value; the innermost layer comes last."""
    if depth == 0:
        return ()
    if isinstance(error, str):
        inner = next((found for _, _, found in objects(error)), None)
        around = (Complaint(code=_bare_code(error), message=error),)
        return around if inner is None else (*around, *_inside(inner, depth - 1))
    if isinstance(error, list):
        return tuple(layer for item in error[:3] for layer in _layers(item, depth - 1))
    if not isinstance(error, Mapping):
        return ()
    state = error.get("status")
    kind = error.get("type") or (state if isinstance(state, str) else "")
    said = next((error[key] for key in _MESSAGES if error.get(key)), "")
    here = Complaint(code=_name(error.get("code")), type=_name(kind), message=said if isinstance(said, str) else "")
    deeper = _layers(said, depth - 1)
    if isinstance(said, str):
        deeper = deeper[1:]
    nested = error.get("error")
    return (here, *deeper, *(_layers(nested, depth - 1) if isinstance(nested, Mapping) else ()))


def _inside(found: Mapping[str, Any], depth: int) -> tuple[Complaint, ...]:
    return _layers(found.get("error") or found, depth)


def _bare_code(text: str) -> str:
    """Read a string that is nothing but a code word as the code it is."""
    return _name(text) if re.fullmatch(r"[A-Za-z]+(?:[_:-][A-Za-z]+)+", text) else ""


def _name(value: Any) -> str:
    """Return a code or type as the table spells it."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    return re.sub(r"[\s-]+", "_", str(value)[:100].strip().lower())
