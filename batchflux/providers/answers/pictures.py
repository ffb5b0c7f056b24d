"""Which picture an answer gives: the one decision, from everything it holds.

Whatever may be a picture is offered with its rank (see signs); of the best rank the first is taken that can be: a
http(s) link, or base64 whose first bytes are a picture's. What the request itself held is no result. Of several in
prose the last counts, of several in a stream those of the last document: relays show previews first. A picture named by
a link of another scheme (`file:`) is `unsafe_url`: asking again would cost money and help nobody.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urljoin

from batchflux.errors import Code, JobError
from batchflux.models import Link
from batchflux.providers.answers.echoes import spelled_out, without_json
from batchflux.providers.answers.markup import Candidate, Kind, scan
from batchflux.providers.answers.signs import (
    Rank,
    Sign,
    is_doubtful_address,
    is_picture,
    rank_of_key,
    rank_of_text,
)
from batchflux.providers.answers.untrusted import UnreadableError, decode_base64, is_data_url
from batchflux.redaction import tidy

if TYPE_CHECKING:
    from batchflux.models import Asset
    from batchflux.providers.answers.echoes import Own
    from batchflux.providers.answers.inlined import Inlined

MOST_MORE = 9  # APIs that make several pictures at once make at most 10
_LONGEST_URL = 8192
_MOST_REMARKS = 20
_WEB_URL = re.compile(r"https?://[^\s/?#\\]+(?:[/?#]\S*)?", re.IGNORECASE)  # with a user: fetched without it
_SCHEME = re.compile(r"(?!https?:|data:)([a-z][a-z0-9+.-]{1,30}):(?!\d)", re.IGNORECASE)  # a digit: host:port
_LINK = re.compile(r"(?:https?:)?(?:\\?/){2}(?:(?![,;|]https?://)\S)+", re.IGNORECASE)
_BLANKS_WITHIN = re.compile(r"https?://[^\s/?#\\]+/[^\n]*", re.IGNORECASE)
_HOST_AND_PATH = re.compile(r"[\w-]{1,60}(?:\.[\w-]{1,60}){1,6}(?::\d{1,5})?/\S+")
_PATH = re.compile(r"(?:\.{0,2}/)?[^\s:/\\<>{}()\[\]|,;][^\s:\\<>{}|]*")
_AROUND = " \t\r\n<>\"'`"
_SHOWN_HEAD, _PROVED_BY = 200, 64  # characters of base64
_NO_WORDS = re.compile(
    r"进度|生成中|排队中?|处理中|正在|请稍候|请等待|生成|绘制|\b(?:progress|queue[ding]*|processing|generating|loading|done|please|wait"
    r"|in|image|id|task)\b|[\W\d_]+",
    re.IGNORECASE,
)


class _Offer(NamedTuple):
    """A candidate; among those of one rank the lowest `order` is taken first. `place` is where in JSON it stands."""

    rank: Rank
    doubt: bool
    order: tuple[int, int]
    candidate: Candidate
    place: tuple[str, ...] = ()


class Finder:
    """Takes what an answer holds, finds the picture, and remembers why a candidate was none.

    `inlined` is what was cut out of the answer. Relative links lead on from `base`, the provider's address; without one
    they are none. `last`: of the pictures of one document the last is taken.
    """

    def __init__(self, own: Own, inlined: Inlined, base: str = "", *, last: bool = False) -> None:
        self._own, self._inlined, self._base, self._last = own, inlined, base, last
        self._offers: list[_Offer] = []
        self._prose: list[str] = []
        self._refused: set[Candidate] = set()
        self._taken: tuple[_Offer, Asset] | None = None
        self.echoed = False  # a picture was there, but it is one of the references
        self.unusable: str | None = None  # what is said where a picture was named by no link and no base64
        self.endless = False  # a picture was named by a link too long to be fetched
        self.beside: list[str] = []
        self.foreign: str | None = None  # the scheme of a link to a picture, which is none that is fetched

    @property
    def prose(self) -> str:
        """The words of the answer, without URLs, echoes and the prompt."""
        return self._own.without_prompt("\n".join(self._prose))

    @property
    def remarks(self) -> str:
        """What stands beside a missing picture, as a `message`, without the prompt."""
        return self._own.without_prompt("\n".join(self.beside[:_MOST_REMARKS]))

    @property
    def words(self) -> str:
        """The words that tell more than that something is being made."""
        lines = (line for line in self.prose.splitlines() if _NO_WORDS.sub("", line))
        return "\n".join(lines)

    def named(self, value: str, sign: Sign, order: tuple[int, int], place: tuple[str, ...] = ()) -> bool:
        """Take the value of a key if it is a link or a picture as base64; return whether it was."""
        text = value if len(value) > _LONGEST_URL else spelled_out(value.strip(_AROUND))
        if is_data_url(text) or _is_base64_of_picture(text):
            candidate = Candidate(kind=Kind.DATA, target=text)
        elif (link := self._link(text, named=sign in (Sign.STRONG, Sign.WEAK))) is not None:
            candidate = Candidate(kind=Kind.LINK, target=link)
        else:
            if sign in (Sign.STRONG, Sign.WEAK) and text.lower().startswith(("http:", "https:")):
                self.unusable = f"it names a picture by what is no link: {tidy(text.partition('?')[0], limit=80)}"
            return False
        if (rank := rank_of_key(sign, candidate)) is not None:
            order = (order[0], -order[1]) if self._last else order
            self._offers.append(_Offer(rank, is_doubtful_address(candidate.target), order, candidate, place))
        return True

    def in_text(self, text: str, *, whole: bool, words: bool) -> list[dict[str, Any]]:
        """Take a text; return the JSON objects in it. Of one that broke off only what is closed counts.

        `words`: whether it is what the model says, and not the value of any key.
        """
        rest, told = without_json(self._inlined.shortened(text), whole=whole)
        candidates, prose = scan(rest)
        if whole and not candidates and not told and len(rest.split()) == 1:
            self.named(rest, Sign.NONE, (0, 0))
        if words:
            self._prose += [prose, *(raw for raw, _ in told)]
        # Nothing but bare URLs of the request: that is an answer, not a mention.
        alone = words and not self._own.without_prompt(prose).strip()
        self.echoed = self.echoed or (alone and any(self._own.is_url(one.target) for one in candidates))
        for number, candidate in enumerate(candidates):
            rank = rank_of_text(candidate, self._own.asks_for) if whole or candidate.closed else None
            if rank is not None and (whole or rank <= Rank.SHOWN or rank is Rank.DOUBTFUL):
                order = (0, number if rank is Rank.POSSIBLE else -number)
                self._offers.append(_Offer(rank, False, order, candidate))
        return [value for _, value in told]

    def best(self, worst: Rank) -> Asset | None:
        """Return the picture among the candidates that are no worse than this rank."""
        for offer in sorted((one for one in self._offers if one.rank <= worst), key=lambda one: one[:3]):
            picture = None if offer.candidate in self._refused else self._usable(offer.candidate)
            if picture is not None:
                self._taken = offer, picture
                return picture
            self._refused.add(offer.candidate)
        return None

    def more(self) -> tuple[Asset, ...]:
        """Return the pictures that stand as the one that was taken does, at most MOST_MORE, in the answer's order."""
        if self._taken is None:
            return ()
        manner, seen, found = _manner(self._taken[0]), {self._taken[0].candidate.target}, [self._taken[1]]
        for offer in self._offers:
            target = offer.candidate.target
            if len(found) <= MOST_MORE and target not in seen and _manner(offer) == manner:
                seen.add(target)
                picture = self._usable(offer.candidate)
                found += [] if picture is None or picture in found else [picture]
        return tuple(found[1:])

    @property
    def doubtful(self) -> bool:
        """Whether there was something that may be a thumbnail, a draft or a logo."""
        return any(one.rank is Rank.DOUBTFUL for one in self._offers)

    def _link(self, text: str, *, named: bool) -> str | None:
        """Return what may be a link as an absolute one, as far as it can be; None where it is no link."""
        if len(text) > _LONGEST_URL:
            return text if named and _LINK.fullmatch(text) else None
        looks = Candidate(kind=Kind.LINK, target=text).named_as_picture
        if _LINK.fullmatch(text) or (named and _SCHEME.match(text) and not text[:200].count(" ")):
            return self._absolute(text)
        if looks and _BLANKS_WITHIN.fullmatch(text) and text.lower().count("http") == 1:
            return re.sub(r"\s", "%20", text)
        if _HOST_AND_PATH.fullmatch(text) and looks:
            return self._absolute(f"//{text}")
        if _PATH.fullmatch(text) and ((looks and "/" in text) or (named and text.startswith(("/", "./", "../")))):
            return self._absolute(text)
        return None

    def _absolute(self, link: str) -> str:
        if not self._base or re.match(r"[a-z][a-z0-9+.-]*:", link, re.IGNORECASE):
            return link
        try:
            return urljoin(self._base.rstrip("/") + "/", link)
        except ValueError:  # a bracket that is none
            return link

    def _usable(self, candidate: Candidate) -> Asset | None:
        """Return the picture behind a candidate; None when there is none, or it is the job's own."""
        target, certain = candidate.target.strip(), candidate.kind is not Kind.BARE
        if candidate.kind is Kind.DATA or is_data_url(target):
            return self._decoded(target)
        url = spelled_out(target)
        if self._base and not _WEB_URL.match(url):
            url = self._link(url, named=True) or url
        if candidate.kind is Kind.IMAGE:
            url = re.sub(r"[ \t]", "%20", url) if _BLANKS_WITHIN.fullmatch(url) else url
        if self._own.is_url(url):
            self.echoed = self.echoed or certain
            return None
        if len(url) <= _LONGEST_URL and _WEB_URL.fullmatch(url) and url.isprintable():
            return Link(url=url)
        foreign = _SCHEME.match(url)
        if certain and len(url) > _LONGEST_URL:
            self.endless = True
            self.unusable = f"it names a picture by a link of more than {_LONGEST_URL} characters"
        elif certain and foreign is not None:
            self.foreign = foreign[1].lower()
        elif certain:
            shown = tidy(url.partition("?")[0], limit=80)
            self.unusable = f"it names a picture that is neither a http(s) link nor base64: {shown}"
        return None

    def _decoded(self, target: str) -> Asset | None:
        try:
            data = self._inlined.decoded(target)
        except UnreadableError:
            self.unusable = "its inline picture is not base64"
            return None
        picture = self._own.inline(data)
        if picture is None:
            self.echoed = True
        elif is_picture(data):
            return picture
        else:
            self.unusable = "its inline picture is none by its first bytes"
        return None


def _manner(offer: _Offer) -> tuple[object, ...]:
    """Return how a candidate stands in the answer: two pictures stand alike, a picture and its download link do not.

    Of links in prose the label says what they are, but for its number; what only may be a picture is like none other.
    """
    if offer.place:
        return (offer.rank, offer.doubt, offer.place)
    one = offer.candidate
    kind = Kind.IMAGE if one.kind is Kind.DATA else one.kind
    label = re.sub(r"\d+", "", one.label) if kind is Kind.LINK else ""
    return (offer.rank, kind, label, one.target if offer.rank is Rank.POSSIBLE else "")


def _is_base64_of_picture(text: str) -> bool:
    head = re.sub(r"\s+", "", text[: 2 * _SHOWN_HEAD])[:_PROVED_BY]
    try:
        return is_picture(decode_base64(head[: len(head) // 4 * 4]))
    except UnreadableError:
        return False


def no_picture(finder: Finder, *, hide: str | None = None) -> JobError:
    """Say why an understood answer without a reported failure gave no picture; `final` where it explains itself."""
    if finder.echoed:
        return JobError(Code.ECHOED_INPUT, "the answer is a reference image, unchanged: reword the prompt")
    if finder.foreign is not None:
        message = f"the answer names its picture by a {finder.foreign}: link; only http(s) links are fetched"
        return JobError(Code.UNSAFE_URL, message, billed=True)  # it was made, and cannot be fetched
    if finder.unusable is not None:
        return JobError(Code.BAD_ANSWER, f"the answer is not understood: {finder.unusable}", final=finder.endless)
    if words := tidy(finder.words, hide=hide, limit=220):
        return JobError(Code.NO_IMAGE, f"the answer holds no picture but says: {words}", final=True)
    if finder.doubtful:
        return JobError(Code.NO_IMAGE, "the answer holds a thumbnail, a preview or a logo, but no finished picture")
    return JobError(Code.NO_IMAGE, "the answer holds no picture")
