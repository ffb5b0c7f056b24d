"""Name every fault the simulator can show, and choose which of them a request meets.

The script is asked first: rules in order, the first that matches the prompt and is not used up gives the fault.
Otherwise every fault in `faults` is drawn, in the order written. Draws depend on seed, content and how often that
content was asked, so that chance repeats in every process. A fault that an API cannot show is passed over for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchflux.simulator.replies import Api
    from batchflux.simulator.requests import ImageRequest

Stage = Literal["instead", "form", "link", "task", "poll"]

ALL: frozenset[Api] = frozenset({"standard", "chat", "bfl", "relay"})
TASKS: frozenset[Api] = frozenset({"bfl", "relay"})
CALLS = ALL - TASKS
RELAYS = ALL - {"bfl"}
STANDARD: frozenset[Api] = frozenset({"standard"})
CHAT: frozenset[Api] = frozenset({"chat"})
BFL: frozenset[Api] = frozenset({"bfl"})
TASK_RELAY: frozenset[Api] = frozenset({"relay"})

FAULTY_POLLS = 2
SLOW_POLLS = 5
_RANGE = 1 << 64


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultInfo:
    """One fault: its name, the stage it strikes at, the APIs that can show it, and a line that says what is seen.

    `instead` faults replace the answer to a paid call or a submit. `form` faults reshape a good answer. `link` faults
    spoil the picture behind the link. `task` faults decide how a task ends. `poll` faults strike the first polls.
    """

    name: str
    stage: Stage
    doc: str
    apis: frozenset[Api]


def _table(stage: Stage, *rows: tuple[str, frozenset[Api], str]) -> dict[str, FaultInfo]:
    return {name: FaultInfo(name=name, stage=stage, doc=doc, apis=apis) for name, apis, doc in rows}


FAULTS: dict[str, FaultInfo] = {
    **_table(
        "instead",
        ("rate_limited", ALL, "429 with Retry-After in seconds"),
        ("rate_limited_date", ALL, "429 with Retry-After as an HTTP date"),
        ("rate_limited_in_200", RELAYS, "a rate limit error under HTTP 200"),
        ("server_500", ALL, "500 with a JSON error"),
        ("server_503", ALL, "503 with a JSON error"),
        ("server_502_html", ALL, "502 with an HTML page"),
        ("server_524_html", ALL, "524 with an HTML page, as a proxy sends after its timeout"),
        ("upstream_error", RELAYS, "500 with one of the codes of a relay whose upstream fails"),
        ("quota", ALL, "429 whose code says insufficient_user_quota; 402 at BFL"),
        ("auth", ALL, "401, the key is not accepted; 403 at BFL"),
        ("key_format", BFL, "422 that says the key is malformed"),
        ("forbidden", RELAYS, "403 access_denied"),
        ("moderated", RELAYS, "400, the prompt is refused"),
        ("moderated_prose", CHAT, "the refusal as prose under HTTP 200"),
        ("model_not_found", ALL, "503 whose code says model_not_found; 404 at BFL"),
        (
            "reset",
            ALL,
            "the connection is reset after the request was read; a task is accepted and billed all the same",
        ),
        ("cut", ALL, "the connection ends in the middle of the answer; a task is accepted and billed all the same"),
        ("hang", ALL, "no answer ever comes, and nothing is made"),
        ("bad_json", ALL, "200 with JSON that stops half-way; nothing is made"),
        ("empty_body", ALL, "200 without a body; nothing is made"),
        ("no_image", CALLS, "200 without a picture in it"),
        ("no_task_id", TASKS, "200 without the task's id; the task is accepted and billed"),
        ("detail_passed_on", TASK_RELAY, "422 with the `detail` of BFL's API in place of the envelope"),
        ("code_and_message", TASK_RELAY, "500 with `code`, `message` and `data` in place of the envelope"),
        ("error_event", CHAT, "an SSE error event under HTTP 200"),
    ),
    **_table(
        "form",
        ("b64_json", STANDARD, "the picture as base64 in place of a link"),
        ("data_url", CHAT, "the picture inline, as a data: URL"),
        ("bare_url", CHAT, "the link without any Markdown around it"),
        ("missing_done", CHAT, "the stream ends without [DONE]"),
        ("split_utf8", CHAT, "characters of several bytes are cut between packets"),
        ("crlf_comments", CHAT, "lines end in CRLF, with heartbeat comments between"),
        ("at_once", TASK_RELAY, "the submit's answer holds the finished task"),
        ("sample_on_top", TASK_RELAY, "the link stands as a top-level `sample`, without `result`"),
        ("relative_polling_url", BFL, "polling_url is a path without a host"),
        ("no_polling_url", TASKS, "the submit's answer names no polling_url"),
        ("no_cost", BFL, "no answer says what the task costs"),
        ("settled_lower", BFL, "the finished task costs half of what the submit's answer said"),
    ),
    **_table(
        "link",
        ("echoed_input", ALL, "the first reference is given back, unchanged; nothing happens without one"),
        ("dead_link", ALL, "404 for the picture"),
        ("flaky_link", ALL, "503 for the first fetch of the link, then the picture"),
        ("slow_link", ALL, "the picture comes at 1 KB a second"),
        ("truncated_image", ALL, "half of the picture's bytes, as if they were all"),
        ("html_image", ALL, "an HTML page that says it is a picture"),
        ("wrong_kind", ALL, "a PNG where a JPEG was asked for, and a JPEG where anything else was"),
        ("wrong_ratio", ALL, "a picture of quite another aspect ratio"),
        ("unsafe_link", ALL, "a link to the address of a cloud's metadata service"),
        ("redirect_loop", ALL, "the link redirects to itself"),
    ),
    **_table(
        "task",
        ("task_error", TASKS, "the task ends as Error; not billed"),
        ("task_failed", TASKS, "the task ends as Failed; not billed"),
        ("task_error_503", TASKS, "the task ends as Error, said under HTTP 503; not billed"),
        ("request_moderated", TASKS, "the task ends as Request Moderated; not billed"),
        ("content_moderated", TASKS, "the task ends as Content Moderated, with details; not billed"),
        ("no_sample", TASKS, "the task ends as Ready without a link; billed"),
        ("task_vanished", TASKS, "the task is billed; the first poll finds it, later ones say 404 Task not found"),
        ("task_not_found", TASKS, "404 Task not found for the first poll, 200 with that status for the next; billed"),
        ("task_never_found", TASKS, "404 Task not found for every poll; billed"),
        ("task_slow", TASKS, f"{SLOW_POLLS} polls see the task unfinished, whatever the latency"),
        ("task_stuck", TASKS, "the task never ends; billed by a relay only"),
        ("expired_link", TASKS, "the first link to the picture is dead; another poll gives one that works"),
    ),
    **_table(
        "poll",
        ("poll_429", TASKS, f"429 for the first {FAULTY_POLLS} polls"),
        ("poll_500", TASKS, f"500 for the first {FAULTY_POLLS} polls"),
        ("poll_502_html", TASKS, f"502 with an HTML page for the first {FAULTY_POLLS} polls"),
        ("poll_503", TASKS, f"503 without a status for the first {FAULTY_POLLS} polls"),
        ("poll_401", TASKS, f"401 for the first {FAULTY_POLLS} polls; 403 at BFL"),
        ("poll_bad_json", TASKS, f"200 with JSON that stops half-way for the first {FAULTY_POLLS} polls"),
        ("poll_reset", TASKS, f"the connection of the first {FAULTY_POLLS} polls is reset"),
        ("poll_hang", TASKS, f"no answer ever comes to the first {FAULTY_POLLS} polls"),
        ("poll_odd_status", TASKS, f"a status word that nobody knows for the first {FAULTY_POLLS} polls"),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRule:
    """Draw `fault` with probability `rate`, for the first `times` requests of one content (None: for all)."""

    fault: str
    rate: float = 1.0
    times: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptRule:
    """Give `fault` to the first `times` requests of one content whose prompt contains `match` (None: to all)."""

    match: str
    fault: str
    times: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenFaults:
    """The faults of one request: at most one of each stage, but any number that reshape the answer."""

    instead: str | None = None
    form: frozenset[str] = frozenset()
    link: str | None = None
    task: str | None = None
    poll: str | None = None

    @property
    def names(self) -> list[str]:
        """All of them, for the counters."""
        single = (self.instead, self.link, self.task, self.poll)
        return sorted({*self.form, *(name for name in single if name is not None)})


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultPlan:
    """Chooses by `rules` and `script`; `seed` makes another run of chance."""

    seed: int
    rules: tuple[FaultRule, ...]
    script: tuple[ScriptRule, ...]

    def choose(self, request: ImageRequest, turn: int) -> ChosenFaults:
        """Return the faults of `request`, whose content was asked `turn` times before.

        The first hit that replaces the answer stands alone.
        """
        hits: dict[Stage, list[str]] = {}
        for name in self._hits(request, turn):
            if request.api in FAULTS[name].apis:
                hits.setdefault(FAULTS[name].stage, []).append(name)
        if instead := hits.get("instead"):
            return ChosenFaults(instead=instead[0])
        first = {stage: names[0] for stage, names in hits.items()}
        return ChosenFaults(
            form=frozenset(hits.get("form", ())),
            link=first.get("link"),
            task=first.get("task"),
            poll=first.get("poll"),
        )

    def _hits(self, request: ImageRequest, turn: int) -> Iterator[str]:
        left = turn
        for step in self.script:
            if step.match not in request.prompt:
                continue
            if step.times is None or left < step.times:
                yield step.fault
                return
            left -= step.times
        for rule in self.rules:
            in_time = rule.times is None or turn < rule.times
            if in_time and fraction(self.seed, rule.fault, request.content, turn) < rule.rate:
                yield rule.fault


def fraction(*parts: object) -> float:
    """Return a number in [0, 1) that depends on `parts` and on nothing else."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()) / _RANGE


def between(low: float, high: float, *parts: object) -> float:
    """Return a number in [low, high) that depends on `parts` only."""
    return low + (high - low) * fraction(*parts)
