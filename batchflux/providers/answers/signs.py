"""The rules by which a picture is told from everything else that an answer holds; each is a row of a table.

A key of JSON is read as its words (`resultImageUrls`: result, image, urls). What stands below a key of the request, or
of a doubtful thing (a thumbnail, a draft, a logo) is that too, whatever its own key; so is what stands beside a `type`,
`role` or `status` that says so. Of links in prose the label decides, what stands before it, and the address itself.
Doubtful pictures are never taken: the answer is kept, and a person can look.
"""

from __future__ import annotations

import re
from enum import Enum, IntEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from batchflux.providers.answers.markup import Candidate, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Sign(Enum):
    """What a key says of the value below it."""

    OURS = "of the request"
    DOUBT = "no result"
    SERVICE = "a place to go to"
    STRONG = "a picture"
    WEAK = "something with an address"
    NONE = "nothing"


class Rank(IntEnum):
    """How far a candidate is trusted to be the result, the best first. POSSIBLE only where no failure is told."""

    NAMED = 0
    HELD = 1
    SHOWN = 2
    LIKELY = 3
    POSSIBLE = 4
    DOUBTFUL = 5


_WORDS: Mapping[str, Sign] = {
    word: sign
    for sign, words in (
        (Sign.OURS, "input inputs init reference references ref refs mask control conditioning request prompt prompts"),
        (Sign.OURS, "negative params parameters args arguments instances webhook callback upload uploaded user error"),
        (Sign.OURS, "errors warning warnings before"),
        (Sign.DOUBT, "thumb thumbs thumbnail thumbnails preview previews draft drafts partial intermediate progress"),
        (
            Sign.DOUBT,
            "logo logos icon icons avatar avatars favicon banner badge watermark watermarked placeholder",
        ),
        (Sign.DOUBT, "lowres small tiny medium blurred poster screenshot qr qrcode sponsor ads example examples"),
        (Sign.DOUBT, "reasoning thinking thought thoughts"),
        (Sign.STRONG, "image images img imgs picture pictures pic pics photo photos sample samples output outputs"),
        (Sign.STRONG, "result results generated generation generations artifact artifacts b64 base64 download inline"),
        (Sign.SERVICE, "poll polling get cancel stream status queue docs doc documentation help support terms policy"),
        (Sign.SERVICE, "homepage home website site web dashboard login signin console topup billing pricing contact"),
        (Sign.SERVICE, "feedback share gallery page html video audio schema self next prev"),
        (Sign.SERVICE, "delete retry log logs api endpoint host origin referer redirect license profile channel owner"),
        (Sign.NONE, "original orig"),  # the photo, or the result in full: so trusted less than any other picture
        (Sign.WEAK, "url urls uri uris link links href src source data file files media content contents asset assets"),
        (Sign.WEAK, "path location cdn oss blob bytes value attachment attachments item items"),
    )
    for word in words.split()
}
_PAIRED: Mapping[str, Sign] = {"source": Sign.OURS, "base": Sign.OURS, "response": Sign.SERVICE}  # not alone in a key
_WHOLE: Mapping[str, Sign] = {  # names that mean another thing than their words
    **dict.fromkeys(("prompt_feedback", "image_generation_partial_succeeded"), Sign.NONE)
}
_ORDER = (Sign.OURS, Sign.DOUBT, Sign.NONE, Sign.STRONG, Sign.SERVICE, Sign.WEAK)


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_KINDS = ("type", "kind", "role", "purpose", "size", "variant")  # keys whose value says what stands beside them
_NAME = re.compile(r"[\w.-]{1,60}")  # of a kind: a link is none
STATES = ("status", "state", "task_status", "taskStatus")
_BETWEEN = re.compile(r"[\s-]+")  # the words of a state
TEXT_KEYS = frozenset({"content", "text", "delta", "answer", "response", "output_text"})  # in pieces, in a stream

PENDING = _set(
    """queued queueing pending submitted processing in_progress running starting started waiting not_start not_started
    scheduled created accepted in_queue"""
)
_JUST_TOLD = _set("created accepted")  # also said of what was made
READY = _set("ready success succeed succeeded successful completed complete done finished ok")
FAILED = _set("error failed fail failure cancelled canceled expired aborted rejected timeout timed_out")
_OF_ITSELF = frozenset((*_KINDS, *STATES, "thought"))
_UNFINISHED = (PENDING | FAILED) - _JUST_TOLD

TASK_IDS = ("id", "task_id", "taskId")
SURE_TASK_IDS = ("task_id", "taskId", "polling_url", "status_url", "job_id", "jobId", "prediction_id", "generationId")
TASK_WRAPS = ("data", "output", "task", "response")
TASK_PLACES = ("polling_url", "status_url")
TASK_SAYS = ("details", "error", "message", "fail_reason", "failReason", "reason", "task_status_msg", "failMsg", "msg")

TAKEN_ON = re.compile(
    r"提交成功|排队中|\bsubmit(?:ted)? success|\bin queue\b", re.IGNORECASE
)  # a `description` of a task

_REASONS: Mapping[str, str] = {
    **dict.fromkeys(("finish_reason", "finish_reasons", "native_finish_reason", "stop_reason"), "finish_reason"),
    "block_reason": "block_reason",
}
_FINE = _set(
    """stop length max_tokens end_turn stop_sequence eos eos_token completed complete success finished null none
    finish_reason_unspecified block_reason_unspecified"""
)
_FLAGS: Mapping[str, bool] = {  # what stands under a key where the picture was kept back
    **dict.fromkeys(("nsfw", "is_nsfw", "nsfw_detected", "nsfw_content_detected", "has_nsfw_concepts"), True),
    **dict.fromkeys(("has_nsfw_concept", "filtered", "rai_filtered_reason"), True),
    **dict.fromkeys(("is_image_safe", "is_safe", "respect_moderation"), False),
}
MODERATED_REASONS = _set(
    """content_filter content_filtered safety prohibited_content image_safety image_prohibited_content recitation
    image_recitation blocklist spii model_armor jailbreak refusal moderated guardrail guardrails guardrail_intervened
    sensitive violation filter_reason_prompt filter_reason_output_image filter_reason_input_image"""
)


def words_of(name: str) -> list[str]:
    """Return a name's words in lower case: of snake_case, camelCase, kebab-case and dotted.names."""
    return re.split(r"[^a-z0-9]+", _CAMEL.sub("_", name[:100]).lower())


@lru_cache(maxsize=4096)
def sign_of(key: str) -> Sign:
    """Return what a key says by itself."""
    words = words_of(key)
    if (whole := _WHOLE.get("_".join(words))) is not None:
        return whole
    signs = {_PAIRED.get(word, _WORDS.get(word)) if len(words) > 1 else _WORDS.get(word) for word in words}
    return next((sign for sign in _ORDER if sign in signs), Sign.NONE)


def below(parent: Sign, key: str) -> Sign:
    """Return what holds for the value under a key of an object for which `parent` holds."""
    own = sign_of(key)
    if parent in (Sign.OURS, Sign.DOUBT) or (parent is Sign.SERVICE and own in (Sign.NONE, Sign.WEAK)):
        return parent
    return own


def of_object(parent: Sign, value: Mapping[str, Any]) -> Sign:
    """Return what holds for all that an object holds, by what it says of itself."""
    if _OF_ITSELF.isdisjoint(value):
        return parent
    said = [item for key in _KINDS if key in value and isinstance(item := value[key], str)]
    kinds = {sign_of(name) for name in said if _NAME.fullmatch(name)}
    if Sign.OURS in kinds or value.get("role") == "system":
        return Sign.OURS
    state = state_of(value)
    unfinished = state in _UNFINISHED and value.get("type") != "image_generation_call"
    return Sign.DOUBT if Sign.DOUBT in kinds or unfinished or value.get("thought") is True else parent


def state_of(value: Mapping[str, Any]) -> str:
    """Return how the task stands that an object tells of, in lower case, with `_` between words; empty: it does not."""
    for key in STATES:
        if key in value and isinstance(said := value[key], str):
            return _BETWEEN.sub("_", said[:60].strip()).casefold()
    return ""


@lru_cache(maxsize=4096)
def _end_of(key: str) -> str | None:
    return _REASONS.get("_".join(words_of(key)))


@lru_cache(maxsize=4096)
def _flag_of(key: str) -> bool | None:
    return _FLAGS.get("_".join(words_of(key)))


def bad_end(key: str, value: Any) -> str:
    """Return the reason by which an answer says that it came to no good end, as `finish_reason:safety`; else empty."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    flag = _flag_of(key) if isinstance(value, bool | str) else None
    if flag is not None and (value is flag or (flag and isinstance(value, str) and value)):
        return "finish_reason:safety"
    kind = _end_of(key) if isinstance(value, str) else None
    reason = "_".join(words_of(value)).strip("_") if kind else ""
    return f"{kind}:{reason}" if reason and reason not in _FINE else ""


_NOT_A_PICTURE = re.compile(r"\.(?:html?|json|pdf|mp4|mov|webm|mp3|wav|txt|md|js|css|svg|zip)(?=$|[?#])", re.IGNORECASE)
_DOUBT_WORDS = (
    r"preview|progress|loading|draft|thumb(?:nail)?s?\b|\blogos?\b|\bicons?\b|avatar|banner|badge|\bqr\b|qr.?code"
    r"|favicon|watermark|sponsor|powered|进度|预览|生成中|草稿|缩略图|头像|二维码|公众号|广告|水印"
)
_DOUBT_LABEL = re.compile(
    _DOUBT_WORDS + r"|\b(?:input|reference|source)\b|^before$|参考图?|输入|上传|素材", re.IGNORECASE
)
_LABEL = 40  # characters of a label that may name a thing; a longer one describes the picture
_OTHER_SIZE = re.compile(r"原图|\boriginal\b", re.IGNORECASE)  # the photo, or the result in full
_RESULT = re.compile(
    r"download|image|picture|original|result|final|output|下载|图片|图像|原图|结果|查看|成品", re.IGNORECASE
)
_BEFORE = re.compile(
    r"(?:(?:reference|input|source|original|logo|preview|thumbnail|draft|before|参考图?|原图|输入图?|上传图?|素材|预览图?"
    r"|缩略图|草稿)(?:\s?(?:images?|pictures?|photos?|图片?))?(?: used| given| provided)?[\s*_`>]{0,6}[:\uff1a]"
    r"|powered by|provided by|sponsored by"
    r"|(?:进度|progress)\D{0,10}(?<!\d)\d{1,2}\s?%)[^\w]{0,8}$",
    re.IGNORECASE,
)
_SERVICE_LABEL = re.compile(
    r"progress|docs?\b|help|support|contact|status|top.?up|sign|log.?in|raw data"
    r"|进度|数据|文档|帮助|客服|联系|充值|登录",
    re.IGNORECASE,
)
_DOUBT_ADDRESS = re.compile(
    r"(?:^|[/_.-])(?:thumb(?:nail)?s?|previews?|logos?|favicon|avatars?|icons?|badges?|banner|qr|qrcode|lowres|small)(?=[/_.-]|$)",
    re.IGNORECASE,
)
_SERVICE_ADDRESS = re.compile(
    r"^(?:https?:)?//(?:[^/]{1,100}\.)?(?:t\.me|discord\.(?:gg|com)|github\.com|x\.com|twitter\.com|qq\.com|docs\.[^/]+)/"
    r"|/(?:docs?|help|support|login|sign[-_]?in|topup|pricing|terms|privacy|tasks?|status|console|dashboard|models)(?:/|$)",
    re.IGNORECASE,
)
_LINK = re.compile(r"(?:https?:)?(?:\\?/){2}", re.IGNORECASE)
_WITH_PATH = re.compile(r"(?:https?:)?//[^/?#]+[/?]\S", re.IGNORECASE)
_OTHER_SCHEME = re.compile(r"(?!https?:|data:)[a-z][a-z0-9+.-]{1,30}:(?!\d)", re.IGNORECASE)  # a digit: host:port


def is_doubtful_address(target: str) -> bool:
    """Whether a link's path says that it leads to a thumbnail, a logo or the like."""
    return _DOUBT_ADDRESS.search(_path(target)) is not None


def _path(target: str) -> str:
    return re.sub(r"^(?:https?:)?//[^/]*", "", target[:2000].partition("?")[0])


def rank_of_key(sign: Sign, candidate: Candidate) -> Rank | None:
    """Return the rank of a link that is the value of a key, None when it is no picture at all."""
    if sign in (Sign.OURS, Sign.DOUBT):
        return Rank.DOUBTFUL if sign is Sign.DOUBT else None
    if candidate.kind is Kind.DATA:
        return Rank.NAMED
    if sign in (Sign.STRONG, Sign.WEAK):
        return Rank.NAMED if sign is Sign.STRONG else Rank.HELD
    if _NOT_A_PICTURE.search(candidate.target) or not _WITH_PATH.match(candidate.target):
        return None
    if sign is Sign.SERVICE:
        return Rank.POSSIBLE if candidate.named_as_picture else None
    return _rank_of_link(candidate)


def rank_of_text(candidate: Candidate, asked_for: Callable[[str], bool]) -> Rank | None:
    """Return the rank of a candidate in prose; `asked_for` tells whether the prompt has a word."""
    kind, label = candidate.kind, candidate.label
    if kind is not Kind.DATA and (_NOT_A_PICTURE.search(candidate.target) or _is_service(candidate)):
        return None
    doubts = [_DOUBT_LABEL.search(label) if len(label) <= _LABEL else None, _BEFORE.search(candidate.before)]
    if kind is not Kind.DATA and not _RESULT.search(label):
        doubts.append(_DOUBT_ADDRESS.search(_path(candidate.target)))
    if any(doubt and not asked_for(doubt[0].strip("/_.-")) for doubt in doubts):
        return Rank.DOUBTFUL
    if candidate.in_footer and not _RESULT.search(label):
        return Rank.POSSIBLE
    if kind in (Kind.DATA, Kind.IMAGE):
        return Rank.LIKELY if any(doubts) or _OTHER_SIZE.search(label) else Rank.SHOWN
    if kind is Kind.LINK and _RESULT.search(label):
        return Rank.LIKELY
    return _rank_of_link(candidate)


def _rank_of_link(candidate: Candidate) -> Rank | None:
    """Return the rank of a link of which only its address tells something."""
    if candidate.named_as_picture and _LINK.match(candidate.target):
        return Rank.LIKELY
    if candidate.named_as_picture:  # a path in prose may lie on any machine
        return Rank.POSSIBLE
    address = candidate.target[:2000].partition("?")[0]
    return Rank.POSSIBLE if _WITH_PATH.match(candidate.target) and not _SERVICE_ADDRESS.search(address) else None


def _is_service(candidate: Candidate) -> bool:
    if candidate.kind is Kind.IMAGE:
        return False
    return bool(_SERVICE_LABEL.search(candidate.label) or _OTHER_SCHEME.match(candidate.target))


_MAGIC = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|RIFF.{4}WEBP|BM.{4}\0{4}|II\*\0|MM\0\*"
    rb"|.{4}ftyp(?:avi[fs]|hei[cxmsf]|hev[cx]|mif1|msf1)|\0\0\x01\0[\x01-\xff]\0|\0\0\0\x0cjP  \r\n\x87\n",
    re.DOTALL,
)


def is_picture(data: bytes) -> bool:
    """Whether the first bytes are those of a picture: PNG, JPEG, GIF, WEBP, BMP, TIFF, AVIF, HEIC, ICO or JPEG 2000."""
    return _MAGIC.match(data) is not None
