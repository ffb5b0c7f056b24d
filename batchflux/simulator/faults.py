"""Name every fault the simulator can show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from batchflux.simulator.replies import Api

Stage = Literal["instead", "form", "link", "task", "poll", "batch", "webhook"]

STANDARD, CHAT, BFL, TASK_RELAY, OPENAI, GEMINI, OPENROUTER, TOGETHER, SILICONFLOW, FAL, REPLICATE, COMFYUI = (
    frozenset({api}) for api in get_args(Api)
)
INLINE = OPENAI | GEMINI | OPENROUTER
CALLS = STANDARD | CHAT | INLINE | TOGETHER | SILICONFLOW
GET_RESULT, RELAYS = BFL | TASK_RELAY, STANDARD | CHAT | TASK_RELAY
TASKS = GET_RESULT | FAL | REPLICATE | COMFYUI
ALL = CALLS | TASKS
HOSTED = ALL - COMFYUI
LINKED = ALL - INLINE
CALLED = TASKS - COMFYUI

BATCHES = OPENAI | GEMINI

FAULTY_POLLS = 2
SLOW_POLLS = 5
UNLISTED = 2
SLOW_BATCH = 5
NOT_IN_BATCHES = frozenset({"reset", "cut", "hang", "bad_json", "empty_body", "error_event"})
"""The faults of single requests that are of their connection, and not shown to those of a batch."""

UNBILLED = frozenset(
    {
        *("task_error", "task_failed", "task_error_503", "request_moderated", "content_moderated"),
        *("generation_timeout", "task_aborted", "out_of_memory", "interrupted", "restart"),
    }
)
"""The faults of tasks by which nothing is made."""


class FaultInfo(NamedTuple):
    """One fault: its name, the stage it strikes at, the APIs that can show it, and a line that says what is seen.

    `instead` faults replace the answer to a paid call or a submit. `form` faults reshape a good answer. `link` faults
    spoil the picture behind the link. `task` faults decide how a task ends. `poll` faults strike the first polls.
    `batch` faults strike a batch as a whole: its file's first line is what a script's `match` is looked for in, and
    `times` counts batches. `webhook` faults strike the calls of a webhook.
    """

    name: str
    stage: Stage
    doc: str
    apis: frozenset[Api]


_ROWS: dict[Stage, tuple[tuple[str, frozenset[Api], str], ...]] = {
    "instead": (
        ("rate_limited", HOSTED, "429 with Retry-After in seconds"),
        ("rate_limited_date", HOSTED, "429 with Retry-After as an HTTP date"),
        ("rate_limited_in_200", RELAYS, "a rate limit error under HTTP 200"),
        ("server_500", ALL, "500 with a JSON error"),
        ("server_503", ALL, "503 with a JSON error"),
        ("server_502_html", ALL, "502 with an HTML page"),
        ("server_524_html", ALL, "524 with an HTML page, as a proxy sends after its timeout"),
        ("upstream_error", RELAYS, "500 with one of the codes of a relay whose upstream fails"),
        ("quota", HOSTED, "the balance is spent, or the day's share, as each API says it: 429, 402, 403"),
        ("auth", HOSTED, "the key is not accepted: 401; 403 at BFL, 400 at Gemini"),
        ("key_format", BFL, "422 that says the key is malformed"),
        ("forbidden", RELAYS | OPENAI, "403 access_denied; at OpenAI the organisation must be verified"),
        ("key_limit", OPENROUTER, "403, the key's own limit is reached"),
        ("region", GEMINI, "400 FAILED_PRECONDITION, not served at this place"),
        ("billing_limit", OPENAI, "400 billing_hard_limit_reached"),
        ("in_flight", OPENROUTER, "402 with Retry-After: too much is in flight for the balance, which is not spent"),
        (
            "moderated",
            CALLS | TASK_RELAY,
            "the prompt is refused: 400; 403 at OpenRouter, IMAGE_SAFETY under 200 at Gemini",
        ),
        ("moderated_output", OPENAI, "400 moderation_blocked of the finished picture; billed"),
        ("moderated_raw", OPENROUTER, "502 in which the upstream's own answer says Request Moderated"),
        ("blocked_prompt", GEMINI, "200 with a promptFeedback and no candidates"),
        ("moderated_prose", CHAT, "the refusal as prose under HTTP 200"),
        (
            "model_not_found",
            HOSTED,
            "503 whose code says model_not_found at a relay; 404 elsewhere, 400 at SiliconFlow",
        ),
        ("reset", ALL, "the connection is reset once the request was read; a task is accepted and billed all the same"),
        ("cut", ALL, "the connection ends in the middle of the answer; a task is accepted and billed all the same"),
        ("hang", ALL, "no answer ever comes, and nothing is made"),
        ("bad_json", ALL, "200 with JSON that stops half-way; nothing is made"),
        ("empty_body", ALL, "200 without a body; nothing is made"),
        ("throttled", REPLICATE, "429 without Retry-After: the body alone says how long to wait"),
        ("low_credit", REPLICATE, "429 that names the credit, which is low but not spent"),
        ("missing_model", COMFYUI, "400 value_not_in_list, with node_errors: the server has no such model"),
        ("no_image", CALLS, "200 without a picture in it; billed at OpenAI, Gemini and OpenRouter"),
        ("text_only", GEMINI, "200 with words in the place of the picture; billed"),
        ("no_task_id", TASKS, "200 without the task's id; the task is accepted and billed"),
        ("detail_passed_on", TASK_RELAY, "422 with the `detail` of BFL's API in place of the envelope"),
        ("code_and_message", TASK_RELAY, "500 with `code`, `message` and `data` in place of the envelope"),
        ("error_event", CHAT | OPENAI, "an SSE error event under HTTP 200, where the answer is a stream"),
        ("error_in_200", OPENROUTER, "an upstream's error under HTTP 200"),
    ),
    "form": (
        ("b64_json", STANDARD, "the picture as base64 in place of a link"),
        ("data_url", CHAT, "the picture inline, as a data: URL"),
        ("bare_url", CHAT, "the link without any Markdown around it"),
        ("missing_done", CHAT, "the stream ends without [DONE]"),
        ("split_utf8", CHAT, "characters of several bytes are cut between packets"),
        ("crlf_comments", CHAT, "lines end in CRLF, with heartbeat comments between"),
        ("at_once", TASK_RELAY, "the submit's answer holds the finished task"),
        ("sample_on_top", TASK_RELAY, "the link stands as a top-level `sample`, without `result`"),
        ("relative_polling_url", BFL, "polling_url is a path without a host"),
        ("no_polling_url", GET_RESULT, "the submit's answer names no polling_url"),
        ("no_cost", BFL | OPENROUTER | FAL, "no answer says what the picture costs"),
        ("no_usage", OPENAI | GEMINI, "the answer counts no tokens"),
        ("as_link", OPENAI, "a link in place of base64, as some relays send"),
        ("snake_case", GEMINI, "names such as inline_data in place of inlineData, as some gateways send"),
        ("as_list", REPLICATE, "the output is a list of one link"),
        ("own_prompt_id", COMFYUI, "the answer has another prompt_id than was sent, as older servers make their own"),
        ("no_jobs_api", COMFYUI, "404 for /api/jobs, as older servers say; history and queue know the job"),
        ("preview_first", COMFYUI, "a picture of type temp stands before the one of type output"),
        ("null_status", COMFYUI, "the history's status is null"),
        ("node_errors", COMFYUI, "the submit's answer has node_errors of another output under 200; the picture comes"),
        ("settled_lower", BFL, "the finished task costs half of what the submit's answer said"),
    ),
    "link": (
        ("echoed_input", ALL, "the first reference is given back, unchanged; nothing happens without one"),
        ("dead_link", LINKED, "404 for the picture"),
        ("refused_link", LINKED, "403 for a picture that is asked for without a Referer"),
        ("flaky_link", LINKED, "503 for the first fetch of the link, then the picture"),
        ("slow_link", LINKED, "the picture comes at 1 KB a second"),
        ("truncated_image", ALL, "half of the picture's bytes, as if they were all"),
        ("html_image", LINKED, "an HTML page that says it is a picture"),
        ("wrong_kind", ALL, "a PNG where a JPEG was asked for, and a JPEG where anything else was"),
        ("wrong_ratio", ALL, "a picture of quite another aspect ratio"),
        ("unsafe_link", LINKED - COMFYUI, "a link to the address of a cloud's metadata service"),
        ("redirect_loop", LINKED, "the link redirects to itself"),
    ),
    "task": (
        ("task_error", TASKS, "the task ends as Error; 500 at fal, E1000 at Replicate, execution_error; not billed"),
        ("task_failed", TASKS, "the task ends as Failed; at fal 422, at ComfyUI a ValueError; not billed"),
        ("task_error_503", GET_RESULT | FAL, "the task ends as Error, said under HTTP 503; not billed"),
        ("request_moderated", GET_RESULT, "the task ends as Request Moderated; not billed"),
        (
            "content_moderated",
            TASKS - COMFYUI,
            "the task ends as Content Moderated, with details; 422 at fal, E005 at Replicate; not billed",
        ),
        ("generation_timeout", FAL, "the task is COMPLETED, its result 504 generation_timeout; not billed"),
        ("nsfw_picture", FAL, "a black picture, and has_nsfw_concepts says true; billed"),
        ("task_aborted", REPLICATE, "the task ends as aborted, before it started; not billed"),
        ("task_canceled", REPLICATE, "the task ends as canceled, as at its deadline; billed"),
        ("data_removed", REPLICATE, "the task ends as succeeded, its output removed; billed"),
        ("out_of_memory", COMFYUI, "the task ends as an execution_error, OutOfMemoryError; not billed"),
        ("interrupted", COMFYUI, "the task ends as execution_interrupted; not billed"),
        ("restart", COMFYUI, "the first poll finds a server that has forgotten its queue and history; its files stay"),
        ("no_sample", TASKS, "the task ends well, without a picture; billed"),
        ("task_vanished", TASKS, "the task is billed; the first poll finds it, later ones say 404 Task not found"),
        ("task_not_found", TASKS, "404 Task not found for the first poll, 200 with that status for the next; billed"),
        ("task_never_found", TASKS, "404 Task not found for every poll; billed"),
        ("task_slow", TASKS, f"{SLOW_POLLS} polls see the task unfinished, whatever the latency"),
        ("task_stuck", TASKS, "the task never ends; billed by a relay only"),
        ("expired_link", GET_RESULT, "the first link to the picture is dead; another poll gives one that works"),
    ),
    "poll": (
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
    "webhook": (
        ("webhook_twice", CALLED, "the webhook is called three times"),
        ("webhook_shuffled", CALLED, "calls that say the task is under way come after the one that says it has ended"),
        ("webhook_late", CALLED, "the webhook is called 10 s after the task's end"),
        ("webhook_early", CALLED, "the webhook is called before the submit is answered"),
        ("webhook_forged", CALLED, "calls that are signed wrongly, or lead to a wrong path, come before the right one"),
        ("webhook_never", CALLED, "the webhook is not called"),
    ),
}
_ROWS["batch"] = (
    ("batch_dropped", BATCHES, "the connection is reset, and no batch is made"),
    ("batch_lost", BATCHES, "the batch is made, and the connection reset before the answer"),
    ("batch_unlisted", BATCHES, f"as batch_lost; the first {UNLISTED} lists of batches do not have it yet"),
    ("batch_failed", BATCHES, "the batch's file is refused after it was made: status failed; nothing is billed"),
    ("batch_quota", BATCHES, "the balance is spent: the batch ends as failed at OpenAI, 429 at Gemini"),
    ("batch_expired", BATCHES, "the batch expires when half is made; at Gemini without any answers, and unbilled"),
    ("batch_cancelled", BATCHES, "somebody else cancels the batch when half is made"),
    ("batch_half", BATCHES, "the batch ends well, and half of its requests are in no file; those are not billed"),
    ("batch_twice", BATCHES, "every third request is made, answered and billed twice"),
    ("batch_slow", BATCHES, f"the batch takes {SLOW_BATCH} times as long"),
    ("batch_stuck", BATCHES, "the batch stays as it is when half is made, until it is cancelled"),
    ("batch_cut", BATCHES, "the first download of each file of answers breaks off in its middle"),
)
FAULTS = {name: FaultInfo(name, stage, doc, apis) for stage, rows in _ROWS.items() for name, apis, doc in rows}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Give `fault` at probability `rate` to the first `times` requests (None: all) of a content with `match` in it."""

    fault: str
    match: str = ""
    rate: float = 1.0
    times: int | None = None
