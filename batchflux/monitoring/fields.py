"""What fields of run.log, and of `--log-format json`, are called by OpenTelemetry's conventions for generative AI.

The names are added; our own stay. The conventions are still in development, so this table is the one place that has
them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES = {  # ours → OpenTelemetry's
    "provider": "gen_ai.provider.name",
    "model": "gen_ai.request.model",
    "code": "error.type",
    "traceback": "exception.stacktrace",
}
OPERATION = {"gen_ai.operation.name": "generate_content", "gen_ai.output.type": "image"}  # of lines about a job


def with_names(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a line's fields with the names that OpenTelemetry has for them beside ours; what is None has none."""
    more = {theirs: fields[ours] for ours, theirs in NAMES.items() if fields.get(ours) is not None}
    return {**fields, **more, **(OPERATION if "id" in fields else {})}
