"""Which picture an answer gives: the one decision, from everything it holds.

In order of trust: pictures that the answer's JSON names as such; markdown images; inline `data:` pictures; links, then
bare URLs, that look like a picture; and, when the words report no failure, whatever other link or URL is left. What
the request itself held is no result. Of several the last one counts: relays show previews first. A picture named by a
link of another scheme (`file:`) is `unsafe_url`: asking again would cost money and help nobody.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from batchflux.errors import Code, JobError
from batchflux.models import Inline, Link
from batchflux.providers.answers.echoes import spelled_out, without_echoes
from batchflux.providers.answers.markup import Candidate, Kind, scan
from batchflux.providers.answers.untrusted import UnreadableError, decode_base64, is_data_url
from batchflux.redaction import tidy

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from batchflux.models import Asset
    from batchflux.providers.answers.echoes import Own

_LONGEST_URL = 8192
_WEB_URL = re.compile(r"https?://[^\s/?#\\]+(?:[/?#]\S*)?", re.IGNORECASE)  # with a user: fetched without it
_WITH_PATH = re.compile(r"https?://[^/?#]+[/?][^\s]", re.IGNORECASE)
_SCHEME = re.compile(r"(?!https?:|data:)([a-z][a-z0-9+.-]{1,30}):(?!\d)", re.IGNORECASE)  # a digit: host:port
_PREVIEW = re.compile(r"preview|progress|loading|进度|预览|生成中", re.IGNORECASE)
_DOWNLOAD = re.compile(r"download|image|picture|original|result|下载|图片|图像|原图|结果|查看", re.IGNORECASE)
_SERVICE = re.compile(
    r"progress|docs?\b|help|support|contact|status|top.?up|sign|log.?in|raw data"
    r"|进度|数据|文档|帮助|客服|联系|充值|登录",
    re.IGNORECASE,
)
_NOT_A_PICTURE = re.compile(r"\.(?:html?|json|pdf|mp4|txt|md|js|css|svg)(?=$|[?#])", re.IGNORECASE)


class Finder:
    """Looks for the picture in what one answer held, and remembers why a candidate was none."""

    def __init__(self, own: Own) -> None:
        self._own = own
        self._leftovers: list[Candidate] = []
        self._prose = ""
        self.echoed = False  # a picture was there, but it is one of the references
        self.unusable: str | None = None  # what is said where a picture was named by no link and no base64
        self.foreign: str | None = None  # the scheme of a link to a picture, which is none that is fetched

    @property
    def prose(self) -> str:
        """The words of the answer, without URLs, echoes and the prompt."""
        return self._own.without_prompt(self._prose)

    def in_json(self, named: Iterable[str]) -> Asset | None:
        """Return the first usable of the pictures that the answer's JSON names."""
        return self._best(Candidate(kind=Kind.LINK, target=target) for target in named)

    def in_text(self, text: str, *, whole: bool) -> Asset | None:
        """Return the picture that a chat answer's text gives; where it broke off only one that is closed counts."""
        candidates, self._prose = scan(without_echoes(text, whole=whole))
        if not whole:
            candidates = [candidate for candidate in candidates if candidate.closed]
        self._leftovers = [candidate for candidate in candidates if _is_leftover(candidate)]
        picture = self._best(_ranked(candidates, whole=whole))
        if picture is None and not self._prose.strip():
            # Nothing but bare URLs of the request: that is an answer, not a mention.
            self.echoed = self.echoed or any(self._own.is_url(candidate.target) for candidate in candidates)
        return picture

    def leftover(self) -> Asset | None:
        """Return a link that is not known to be a picture; for a whole answer whose words report no failure."""
        previews = [one for one in reversed(self._leftovers) if one.kind is Kind.IMAGE]
        return self._best([*previews, *(one for one in self._leftovers if one.kind is not Kind.IMAGE)])

    def _best(self, candidates: Iterable[Candidate]) -> Asset | None:
        found = (self._usable(one.target, certain=one.kind is not Kind.BARE) for one in candidates)
        return next((picture for picture in found if picture is not None), None)

    def _usable(self, target: str, *, certain: bool) -> Asset | None:
        """Return the picture behind a URL, `data:` URL or (from JSON) bare base64; None when it is the job's own."""
        target = target.strip()
        if is_data_url(target):
            return self._decoded(target, certain=certain)
        if self._own.is_url(target):
            self.echoed = self.echoed or certain
            return None
        url = spelled_out(target)
        if len(url) <= _LONGEST_URL and _WEB_URL.fullmatch(url) and url.isprintable():
            return Link(url=url)
        foreign = _SCHEME.match(url)
        if certain and foreign is not None:
            self.foreign = foreign[1].lower()
        elif certain:
            shown = tidy(url.partition("?")[0], limit=80)
            self.unusable = f"it names a picture that is neither a http(s) link nor base64: {shown}"
        return None

    def _decoded(self, target: str, *, certain: bool) -> Asset | None:
        try:
            data = decode_base64(target)
        except UnreadableError:
            self.unusable = "its inline picture is not base64"
            return None
        if self._own.is_picture(data):
            self.echoed = self.echoed or certain
            return None
        return Inline(data=data)


def _ranked(candidates: Sequence[Candidate], *, whole: bool) -> list[Candidate]:
    """Return the candidates that may be the picture by trust, best first; of equal ones the last in the text."""
    newest = list(reversed(candidates))
    ranked = [one for one in newest if one.kind is Kind.IMAGE and not _PREVIEW.search(one.label)]
    ranked += [one for one in newest if one.kind is Kind.DATA]
    if whole:
        ranked += [one for one in newest if one.kind is Kind.LINK and _is_picture_link(one)]
        ranked += [one for one in newest if one.kind is Kind.BARE and one.named_as_picture]
    return ranked


def _is_picture_link(link: Candidate) -> bool:
    if _SERVICE.search(link.label) or _NOT_A_PICTURE.search(link.target) or _SCHEME.match(spelled_out(link.target)):
        return False
    return link.named_as_picture or is_data_url(link.target) or _DOWNLOAD.search(link.label) is not None


def _is_leftover(candidate: Candidate) -> bool:
    if candidate.kind is Kind.IMAGE:
        return _PREVIEW.search(candidate.label) is not None
    if candidate.kind is Kind.DATA or _NOT_A_PICTURE.search(candidate.target):
        return False
    return not _SERVICE.search(candidate.label) and _WITH_PATH.match(candidate.target) is not None


def no_picture(finder: Finder) -> JobError:
    """Say why an understood answer without a reported failure gave no picture."""
    if finder.echoed:
        return JobError(Code.ECHOED_INPUT, "the answer is a reference image, unchanged: reword the prompt")
    if finder.foreign is not None:
        message = f"the answer names its picture by a {finder.foreign}: link; only http(s) links are fetched"
        return JobError(Code.UNSAFE_URL, message, billed=True)  # it was made, and cannot be fetched
    if finder.unusable is not None:
        return JobError(Code.BAD_ANSWER, f"the answer is not understood: {finder.unusable}")
    return JobError(Code.NO_IMAGE, "the answer holds no picture")
