"""The one table from answers to error codes.

Under a 5xx the status decides, unless the answer says that it was moderated; a gateway that gave up waiting leaves a
paid step `unknown`. Else the first that knows decides: a telling `code`, a telling `type`; codes that only say that
something upstream went wrong (a 429 stays a 429); the message's words, unless the status is 401, 402 or 404; the HTTP
status; words too weak to overrule a status. Where an error wraps another the outer one comes first. Of a page of HTML
the status counts, and under 2xx whether it says that it is an error's: else it may be what was bought.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from batchflux.errors import Code, JobError
from batchflux.models import SECONDS
from batchflux.providers.answers.signs import FAILED, MODERATED_REASONS, state_of
from batchflux.providers.answers.untrusted import UnreadableError, objects, parse
from batchflux.redaction import as_code, tidy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LEFT_OPEN = "; it may still have been at work, and have billed it"
_DEEPEST = 4
_MESSAGES = (
    *(
        "message",
        "msg",
        "detail",
        "details",
        "error_description",
        "fail_reason",
        "failReason",
        "failure_reason",
        "reason",
    ),
    *("error_message", "errorMessage", "error_msg", "errorMsg"),
)
_ANSWERS = ("data", "choices", "images", "output", "url", "b64_json")
ANSWER_KEYS = (
    *_ANSWERS,
    "candidates",
    "outputs",
    "result",
    "results",
    "image",
    "image_url",
    "artifacts",
    "predictions",
)
"""Keys at the top of an answer that may hold the picture."""
_STATUS_BLOCKS = {"base_resp": ("status_code", "status_msg"), "header": ("code", "message")}
"""Objects that tell how it went: where they stand, and their keys of the code (0: well) and of the words."""
_WRAPS = ("ResponseMetadata", "Response")  # of Chinese clouds, whose keys begin with capitals
_REFUSED = frozenset({3, 4, 9, 23, 24})  # codes of Midjourney relays beside a `description`: 1, 21 and 22 are tasks
_WAITS = ("retry_after", "retryAfter", "retry_after_seconds", "retryDelay")
_WAIT = re.compile(r"(\d{1,4}(?:\.\d{0,9})?) ?s?(?:ec(?:ond)?s?)?", re.ASCII)
_ERROR_STATUS = range(400, 600)
_PAGE = re.compile(
    r"(?:<\?xml[^<>]{0,200}>\s{0,20})?<(?:!doctype|(?:html|head|body|title|center|h\d|meta|script)\b)", re.IGNORECASE
)
_TITLE = re.compile(r"<title[^>]{0,200}>([^<]{1,200})", re.IGNORECASE)
_TAG = re.compile(r"<[^<>]*>")
_FAILING_TITLE = re.compile(  # of a gateway's page, a bot filter's or a closed shop's, under 200
    r"\b[45]\d\d\b|\berror\b|gateway|unavailable|maintenance|overload|not found|forbidden|denied|blocked|timed? ?-?out"
    r"|too many|just a moment|attention required|captcha|cloudflare|security check|verif(?:y|ication)|robot"
    r"|维护|错误|出错|超时|拦截|验证|人机",
    re.IGNORECASE,
)
_FAILING_PAGE = re.compile(
    r"bad gateway|gateway time-?out|service (?:is )?(?:temporarily )?unavailable|internal server error"
    r"|under maintenance|access denied|checking your browser|are (?:you )?(?:a )?(?:human|robot)"
    r"|enable javascript and cookies|too many requests|系统维护|网关|人机验证|访问被拒绝|请求被拦截",
    re.IGNORECASE,
)
_FAILED_STATE = re.compile(r"fail|error|moderat", re.IGNORECASE)
_BARE_CODE = re.compile(r"[A-Za-z]+(?:[_:-][A-Za-z]+)+")
_ENDS = frozenset({"finish_reason", *_STATUS_BLOCKS})  # that the same request would come to again
_WELL = frozenset({"", "0", "200", "success", "ok"})  # codes that tell of no failure
_READ = 10_000  # characters of each end of a text
_PAGE_READ = 20_000  # characters of a page's beginning

_NAMES: Mapping[str, Code] = {
    name: code
    for code, names in {
        Code.MODERATED: """sensitive_words_detected sensitive_words prompt_blocked content_policy_violation
            moderation_blocked moderated input_moderation output_moderation content_moderated request_moderated
            content_filter content_filtered content_moderation content_violation responsibleaipolicyviolation
            safety_violation nsfw_content_detected nsfw policy_violation datainspectionfailed data_inspection_failed
            sensitivecontentdetected inputtextsensitivecontentdetected inputimagesensitivecontentdetected
            outputimagesensitivecontentdetected base_resp:1026 base_resp:1027 50411 50412 50413 50511 50512""",
        Code.QUOTA: """insufficient_user_quota insufficient_quota insufficient_balance insufficient_credits
            insufficient_funds billing_hard_limit_reached billing_not_active quota_exceeded quota_not_enough
            user_quota_not_enough pre_consume_token_quota_failed payment_required token_quota_exhausted arrearage
            accountoverdueerror base_resp:1008 30001""",
        Code.RATE_LIMITED: """rate_limit_exceeded rate_limit_error rate_limit rate_limit_reached rate_limited
            too_many_requests token_concurrency_limit_reached concurrency_limit_reached concurrency_limit_exceeded
            resource_exhausted throttled throttling throttlingexception requests_limit_reached
            throttling.ratequota ratelimitexceeded 50429 50430 base_resp:1002 base_resp:1039""",
        Code.AUTH: """invalid_api_key incorrect_api_key access_denied authentication_error authorization_error
            invalid_token token_expired token_disabled unauthorized unauthenticated permission_denied
            permission_error forbidden account_deactivated invalid_organization invalidapikey base_resp:1004
            base_resp:2049""",
        Code.INVALID_REQUEST: """model_not_found invalid_value invalid_type invalid_parameter invalid_parameters
            unsupported_parameter unsupported_value unknown_parameter missing_required_parameter
            context_length_exceeded string_above_max_length invalid_image invalid_image_format invalid_image_url
            image_too_large unsupported_model unsupported_country_region_territory not_found_error
            request_too_large validation_error invalidparameter base_resp:2013""",
        Code.SERVER: """get_channel_failed channel:no_available_key no_available_key no_available_channel
            bad_response_status_code bad_response bad_response_body empty_response do_request_failed
            read_response_body_failed upstream_error bad_gateway gateway_timeout server_error internal_error
            internal_server_error overloaded overloaded_error engine_overloaded model_overloaded
            service_unavailable service_unavailable_error timeout timeout_error upstream_timeout base_resp:1000
            base_resp:1001 base_resp:1013 base_resp:1024 base_resp:1033 finish_reason:error""",
        Code.UNKNOWN: "unknown_outcome",  # of another batchflux's gateway
    }.items()
    for name in names.split()
}
"""Names that tell the cause, as a `code` or as a `type`; those of `server` only say that something upstream failed."""

_VAGUE_TYPES = frozenset({"upstream_error", "timeout"})
_WEAK = frozenset({"invalid_request_error", "invalid_request", "image_generation_user_error", "bad_request"})
_WORDS = tuple(
    (code, re.compile(words, re.IGNORECASE))
    for code, words in (
        (Code.MODERATED, r"moderat(?:ed|ion)(?![\w\s]{0,30}(?:unavailable|time|service|error|overload))"),
        (
            Code.MODERATED,
            r"(?<!case[-_ ])sensitive|敏感|违规|违禁|审核|nsfw|prompt[_\s]blocked|banned (?:prompt|word)|risk not pass",
        ),
        (Code.MODERATED, r"content[_\s-]?(?:policy|filter)|safety(?![_\s-]?tolerance)|policy violation"),
        (Code.MODERATED, r"violat\w{1,9} (?:\w{1,20} ){0,4}polic"),
        (Code.QUOTA, r"insufficient[_\s-]?(?:\w{1,20}[_\s-]){0,2}(?:quota|balance|credit|funds)"),
        (Code.QUOTA, r"(?:余额|额度|配额)(?:已)?(?:不足|用尽|用完|耗尽)|欠费|billing hard limit"),
        (Code.QUOTA, r"(?:balance|quota)(?: is)? (?:not enough|too low|insufficient)|credit balance"),
        (
            Code.QUOTA,
            r"(?:out of|no|not enough|exhausted) (?:credits?|balance)\b|(?:credits?|balance) (?:exhausted|depleted)",
        ),
        (Code.RATE_LIMITED, r"rate[_\s-]?limit|too many requests|requests? per (?:second|minute|hour|day)|throttl"),
        (Code.RATE_LIMITED, r"过于频繁|频率|限流|限速|并发|concurren\w{2,9}[_\s]limit|queue is full|队列已满"),
        (Code.QUOTA, r"quota (?:\w{1,20} ){0,3}exceeded|exceed\w{0,9} (?:\w{1,20} ){0,3}quota|quota exhausted"),
        (
            Code.AUTH,
            r"(?:invalid|incorrect|malformed) api[_\s-]?key|api[_\s-]?key (?:is )?(?:not valid|invalid|incorrect)",
        ),
        (Code.AUTH, r"\A\W{0,9}unauthori[sz]ed\W{0,9}\Z"),
    )
)
_SURE_WORDS = 8  # rows that count under a 429 too, where a "quota" may be one per minute
_SURELY_FAILED = re.compile(r"失败|\bfail(?:ed|ure)\b", re.IGNORECASE)
_FAILED = re.compile(
    r"失败|错误|超时|无法生成|\bfail(?:ed|ure)?\b|\berror\b|timed?[\s-]?out|\bunable to\b|(?:could|can|was) ?not\b"
    r"|can't|couldn't|\brefus|\breject",
    re.IGNORECASE,
)

_SUCCESS, _REDIRECT, _CLIENT, _SERVER, _TOO_MANY = 200, 300, 400, 500, 429
_STATUS = {401: Code.AUTH, 402: Code.QUOTA, 403: Code.AUTH, _TOO_MANY: Code.RATE_LIMITED}
_STATUS |= dict.fromkeys((409, 425), Code.SERVER)
_FIRM_STATUSES = frozenset({401, 402, 404})
_GAVE_UP = frozenset({408, 499, 504, 520, 524})
_GAVE_UP_WORDS = re.compile(  # a gateway's, also LiteLLM's of a connection that broke
    r"\b(?:HTTP|status(?:[_ ]code)?[:=]?) (?:408|499|504|520|524)\b|\blitellm\.(?:APIConnectionError|Timeout)\b",
    re.IGNORECASE,
)
_FILTERED = re.compile(r"\berror code: ?1\d{3}\b|captcha|cloudflare|\bwaf\b|web application firewall", re.IGNORECASE)
_UNAVAILABLE = frozenset({502, 503, 521, 522, 523, 525, 526, 527, 530})  # said by gateways, some of them Cloudflare's
_BAD_GATEWAY, _LONG = 502, 30.0  # seconds after which it is a gateway that gave up waiting
_FORBIDDEN, _PROXY, _TOO_LARGE = 403, 407, 413
_TOO_LARGE_REMEDY = "; where photos are what is too large, references: {max_bytes: 4MB} sends smaller copies"


class Complaint(NamedTuple):
    """One layer: `code` and `type` in lower case with `_` for blanks and hyphens, empty when absent.

    `wait` is for how many seconds it asks to wait, where a field of its own says so.
    """

    code: str = ""
    type: str = ""
    message: str = ""
    wait: float | None = None


def complaints_in(value: Any, *, certain: bool = False) -> tuple[Complaint, ...]:
    """Return the layers of a failure in JSON, outermost first; `certain`: its status or event says that it is one."""
    if isinstance(value, list):
        value = next((item for item in value if isinstance(item, dict)), {})
    if not isinstance(value, dict):
        return (Complaint(message=str(value)),) if certain and value else ()
    if told := _told_by_block(value):
        return told
    value = _uncapitalised(value)
    error = value.get("error") or value.get("errors")
    if isinstance(error, dict | list | str) and error:
        inner = _layers(error, _DEEPEST)
        if wait := _wait_in(value):
            inner = (*inner, Complaint(wait=wait))
        # `{"error": "prompt_blocked", "message": "why"}` says more around the error than in it.
        around = {key: item for key, item in value.items() if key != "error"}
        return (*inner, *_layers(around, 1)) if isinstance(error, str) else inner
    if certain or error or _is_failure(value):
        return _layers(value, _DEEPEST)
    return ()


def _told_by_block(value: Mapping[str, Any]) -> tuple[Complaint, ...]:
    for name, (code_key, said_key) in _STATUS_BLOCKS.items():
        block = value.get(name)
        code = _name(block.get(code_key)) if isinstance(block, dict) else ""
        if isinstance(block, dict) and code not in _WELL:
            return (Complaint(code=f"{name}:{code}", message=str(block.get(said_key) or "")),)
    return ()


def _uncapitalised(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return an object whose failure is told under names with capitals as others tell theirs."""
    wrapped = next((inner for name in _WRAPS if isinstance(inner := value.get(name), dict)), value)
    error = wrapped.get("Error")
    told = wrapped if "Code" in wrapped and "Message" in wrapped else error
    return {name.lower(): item for name, item in told.items()} if isinstance(told, dict) else value


def _is_failure(value: Mapping[str, Any]) -> bool:
    if value.get("success") is False or state_of(value) in FAILED:
        return True
    if any(value.get(key) for key in _ANSWERS):
        return False
    state, code = value.get("status"), value.get("code")
    if isinstance(code, int) and code in _REFUSED and isinstance(value.get("description"), str):
        return True
    if isinstance(state, str) and _FAILED_STATE.search(state):
        return True
    if _name(code) in _WELL:
        return bool(value.get("detail")) and not isinstance(value["detail"], dict)
    return code in _ERROR_STATUS or any(value.get(key) for key in _MESSAGES)


def _layers(error: Any, depth: int) -> tuple[Complaint, ...]:
    """Unwrap an error value; the innermost layer comes last."""
    if depth == 0:
        return ()
    if isinstance(error, str):
        inner = next((found for _, _, found in objects(error)), None)
        code = _name(error) if _BARE_CODE.fullmatch(error) else ""  # a string that is nothing but a code word
        around = (Complaint(code=code, message=error),)
        return around if inner is None else (*around, *_layers(inner.get("error") or inner, depth - 1))
    if isinstance(error, list):
        return tuple(layer for item in error[:3] for layer in _layers(item, depth - 1))
    if not isinstance(error, dict):
        return ()
    kind = error.get("type") or (error["status"] if isinstance(error.get("status"), str) else "")
    said = next((error[key] for key in (*_MESSAGES, "description") if error.get(key)), "")
    words = said if isinstance(said, str) else ""
    here = Complaint(code=_name(error.get("code")), type=_name(kind), message=words, wait=_wait_in(error))
    deeper = _layers(said, depth - 1)[1 if isinstance(said, str) else 0 :]
    nested = error.get("error")
    return (here, *deeper, *(_layers(nested, depth - 1) if isinstance(nested, dict) else ()))


def _wait_in(error: Mapping[str, Any]) -> float | None:
    """Return the seconds to wait that an object names, or Google's RetryInfo among its details; None when none."""
    details = error.get("details")
    held = [error, *(one for one in (details if isinstance(details, list) else ())[:10] if isinstance(one, dict))]
    told = (
        _WAIT.fullmatch(str(one[key])) for one in held for key in _WAITS if isinstance(one.get(key), str | int | float)
    )
    return next((seconds for wait in told if wait and (seconds := float(wait[1]))), None)


def _name(value: Any) -> str:
    """Return a code or type as the table spells it."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    return as_code(value)


def is_html(text: str) -> bool:
    """Whether a failed answer's body is a page (or other markup) and not an answer of the API."""
    return text.startswith("<")


def is_page(text: str) -> bool:
    """Whether a body is a whole page, and no text that begins with a tag or with a link in angles."""
    return _PAGE.match(text) is not None


def is_titled_failing(text: str) -> bool:
    """Whether a page's title says that it is a gateway's or a bot filter's: then its pictures are none of ours."""
    title = _TITLE.search(text[:_PAGE_READ])
    return title is not None and _FAILING_TITLE.search(title[1]) is not None


def _is_failing(text: str) -> bool:
    words = _TAG.sub(" ", text[:_PAGE_READ])
    return is_titled_failing(text) or any(one.search(words) for one in (_FAILING_PAGE, _FILTERED))


def from_answer(
    status: int, headers: Mapping[str, str], text: str, *, hide: str | None = None, paid: bool = True
) -> JobError:
    """Classify an answer without a picture: an error status, a redirect, or HTML; no message shows `hide`.

    `paid`: whether the step may cost money; a free one is repeated where a paid one is left `unknown`.
    """
    error = _from_answer(status, headers, text, hide, paid=paid)
    error.retry_after = None if "retry-after" in headers else error.retry_after
    error.itself = status not in _UNAVAILABLE
    error.message += _TOO_LARGE_REMEDY if status == _TOO_LARGE else ""
    waited_long = status == _BAD_GATEWAY and float(headers.get(SECONDS, 0)) >= _LONG
    return left_open(error, surely=status in _GAVE_UP or waited_long) if paid else error


def left_open(error: JobError, *, surely: bool = False) -> JobError:
    """Return what the error of a paid step comes to: `unknown` where a gateway gave up, or is said to have."""
    if error.code is not Code.SERVER or not (surely or _GAVE_UP_WORDS.search(error.message)):
        return error
    return JobError(Code.UNKNOWN, f"{error.message}{LEFT_OPEN}")


def _from_answer(status: int, headers: Mapping[str, str], text: str, hide: str | None, *, paid: bool) -> JobError:
    if _REDIRECT <= status < _CLIENT:
        where = tidy(headers.get("location", ""), hide=hide, limit=150) or "another address"
        message = f"the API redirects (HTTP {status}) to {where}: set provider.base_url to the final address"
        return JobError(Code.BAD_ANSWER, message, billed=False, final=True)
    if status == _PROXY:
        message = "a proxy on the way wants credentials (HTTP 407): put them into HTTPS_PROXY, or do without it"
        return JobError(Code.INVALID_REQUEST, message, billed=False)
    if is_html(text):
        title = _TITLE.search(text[:_PAGE_READ])
        page = f" ({tidy(title.group(1), hide=hide, limit=120)})" if title else ""
        message = f"the API answered HTTP {status} with {'an HTML page' if is_page(text) else 'XML'}{page}"
        if status < _REDIRECT and paid and not _is_failing(text):
            return JobError(Code.BAD_ANSWER, f"{message} in which no picture is found")  # it may hold what was bought
        # A page under 403 is a bot filter's: the API itself would have said in JSON that the key is refused.
        code = Code.SERVER if status < _REDIRECT or status == _FORBIDDEN else _by_status(status)
        return JobError(code, message, billed=False)
    return from_complaints(_complaints(text), status=status, hide=hide)


def from_complaints(complaints: Sequence[Complaint], *, status: int = _SUCCESS, hide: str | None = None) -> JobError:
    """Classify an error object, with the HTTP status it came under."""
    if status < _REDIRECT:
        status = next((int(layer.code) for layer in complaints if re.fullmatch(r"[45]\d\d", layer.code)), status)
    code = _classify(complaints, status)
    name = next((layer.code or layer.type for layer in complaints if layer.code or layer.type), "")
    said = next((layer.message for layer in reversed(complaints) if layer.message), "")
    head = f"the API answered HTTP {status}" if status >= _CLIENT else "the API reported an error"
    about = f" ({name})" if name and name != str(status) else ""
    message = tidy(f"{head}{about}: {said}" if said else f"{head}{about}", hide=hide)
    if code is Code.SERVER and name not in _NAMES and name.partition(":")[0] in _ENDS:
        return JobError(Code.NO_IMAGE, message, final=True)
    wait = next((layer.wait for layer in complaints if layer.wait), None)
    return JobError(code, message, billed=code is Code.UNKNOWN, retry_after=wait)


def from_prose(prose: str, *, hide: str | None = None, loosely: bool = True) -> JobError | None:
    """Classify a chat answer by its words, None when they report no failure; `loosely`: also in passing."""
    code = words_code(prose)
    if code is None and (_FAILED if loosely else _SURELY_FAILED).search(_ends(prose)) is None:
        return None
    said = tidy(prose, hide=hide, limit=220)
    if code is None:
        return JobError(Code.NO_IMAGE, f"the answer holds no picture but says: {said}", final=True)
    return JobError(code, f"the model answered: {said}", billed=False)


def _complaints(text: str) -> tuple[Complaint, ...]:
    """Read the error out of a failed answer's body: JSON, an event stream, or plain words."""
    mute: tuple[Complaint, ...] = ()  # JSON that says nothing, such as a frame with `choices: []` before the error
    for line in (text, *text.splitlines()[:50]):
        try:
            found = complaints_in(parse(line.removeprefix("data:").strip()), certain=True)
        except UnreadableError:
            continue
        if any(layer != Complaint() for layer in found):
            return found
        mute = mute or found
    return mute or ((Complaint(message=text),) if text else ())


def _classify(complaints: Sequence[Complaint], status: int) -> Code:
    names = [layer.code for layer in complaints] + [layer.type for layer in complaints]
    telling = next((code for name in names if (code := _code_of(name)) is not Code.SERVER), None)
    words = "\n".join(layer.message for layer in complaints)
    if status >= _SERVER or status in _GAVE_UP:
        said = telling or words_code(words)
        return Code.MODERATED if said is Code.MODERATED else Code.SERVER
    if telling is not None:
        return telling
    firm = {layer.code for layer in complaints} | ({layer.type for layer in complaints} - _VAGUE_TYPES)
    if status != _TOO_MANY and not firm.isdisjoint(_NAMES):
        return Code.SERVER
    if status == _FORBIDDEN and _FILTERED.search(words):
        return Code.SERVER
    by_words = None if status in _FIRM_STATUSES else words_code(words, rate_is_sure=status == _TOO_MANY)
    by_status = _by_status(status) if status >= _CLIENT else None
    return by_words or by_status or (Code.INVALID_REQUEST if _WEAK.intersection(names) else Code.SERVER)


def _code_of(name: str) -> Code:
    kind, _, reason = name.partition(":")
    if kind == "block_reason" or (kind == "finish_reason" and reason in MODERATED_REASONS):
        return Code.MODERATED
    return _NAMES.get(name, Code.SERVER)


def words_code(text: str, *, rate_is_sure: bool = False) -> Code | None:
    """Return the code that a failure's words tell, None when they tell none; `rate_is_sure` under a 429."""
    read = _ends(text)
    return next((code for code, words in _WORDS[: _SURE_WORDS if rate_is_sure else None] if words.search(read)), None)


def _ends(text: str) -> str:
    """Return the beginning and the end of a long text: a reason stands in either, and searching stays cheap."""
    return text if len(text) <= 2 * _READ else f"{text[:_READ]}\n{text[-_READ:]}"


def _by_status(status: int) -> Code:
    return Code.SERVER if status >= _SERVER or status in _GAVE_UP else _STATUS.get(status, Code.INVALID_REQUEST)
