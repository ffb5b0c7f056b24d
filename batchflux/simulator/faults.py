"""Every fault the simulator can show (CONTRACT 5 and 7), in one table: name, stage, styles, and a line that says what.

`instead` faults replace the answer, `form` faults reshape a good one, `link` faults spoil the picture behind it. The
behaviour of a name stands in `badanswers.py`, `breaks.py` (what breaks a connection), `goodanswers.py` or `links.py`.
A fault that a call style cannot show is passed over for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from batchflux.models import Style

Stage = Literal["instead", "form", "link"]
BOTH: frozenset[Style] = frozenset({"standard", "chat"})
CHAT: frozenset[Style] = frozenset({"chat"})
STANDARD: frozenset[Style] = frozenset({"standard"})


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultInfo:
    """One fault."""

    name: str
    stage: Stage
    doc: str
    styles: frozenset[Style] = BOTH


def _table(stage: Stage, *rows: tuple[str, str] | tuple[str, str, frozenset[Style]]) -> dict[str, FaultInfo]:
    return {
        row[0]: FaultInfo(name=row[0], stage=stage, doc=row[1], styles=row[2] if len(row) > 2 else BOTH)  # noqa: PLR2004  the third is optional
        for row in rows
    }


FAULTS: dict[str, FaultInfo] = {
    **_table(
        "instead",
        ("rate_limited", "429 with Retry-After in seconds"),
        ("rate_limited_date", "429 with Retry-After as an HTTP date"),
        ("rate_limited_in_200", "a rate limit error under HTTP 200"),
        ("server_500", "500 with a JSON error"),
        ("server_502_html", "502 with an HTML page"),
        ("server_524_html", "524 with an HTML page, as a proxy sends after its timeout"),
        ("upstream_error", "500 with one of the codes of a relay whose upstream fails"),
        ("quota", "429 whose code says insufficient_user_quota"),
        ("auth", "401, the key is not accepted"),
        ("forbidden", "403 access_denied"),
        ("moderated", "400, the prompt is refused"),
        ("moderated_prose", "the refusal as prose under HTTP 200", CHAT),
        ("model_not_found", "503 whose code says model_not_found"),
        ("reset", "the connection is reset after the request was read"),
        ("cut", "the connection ends in the middle of the answer"),
        ("hang", "no answer ever comes"),
        ("bad_json", "200 with JSON that stops half-way"),
        ("empty_body", "200 without a body"),
        ("no_image", "200 without a picture in it"),
        ("error_event", "an SSE error event under HTTP 200", CHAT),
    ),
    **_table(
        "form",
        ("b64_json", "the picture as base64 in place of a link", STANDARD),
        ("data_url", "the picture inline, as a data: URL", CHAT),
        ("bare_url", "the link without any Markdown around it", CHAT),
        ("missing_done", "the stream ends without [DONE]", CHAT),
        ("split_utf8", "characters of several bytes are cut between packets", CHAT),
        ("crlf_comments", "lines end in CRLF, with heartbeat comments between", CHAT),
    ),
    **_table(
        "link",
        ("echoed_input", "the first reference is given back, unchanged; nothing happens without one"),
        ("dead_link", "404 for the picture"),
        ("flaky_link", "503 for the first fetch of the link, then the picture"),
        ("slow_link", "the picture comes at 1 KB a second"),
        ("truncated_image", "half of the picture's bytes, as if they were all"),
        ("html_image", "an HTML page that says it is a picture"),
        ("wrong_kind", "a PNG where a JPEG was asked for, and the other way round"),
        ("wrong_ratio", "a picture of quite another aspect ratio"),
        ("unsafe_link", "a link to the address of a cloud's metadata service"),
        ("redirect_loop", "the link redirects to itself"),
    ),
}
