"""What a job is known by: its references' digests, its key, its id and its file name.

The key is SHA-256 over a canonical JSON of everything that changes the picture, and of nothing else, so that editing
ids, tags, tables or the order of jobs re-runs nothing. FORMAT changes only when keys must. A missing or unfit local
reference is not a fault of the manifest: its Reference says what is wrong, and only its jobs fail.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from functools import lru_cache
from posixpath import splitext
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from batchflux.errors import quoted
from batchflux.manifest.job_fields import KEY_FIELDS, MAX_ID, NAMED_KEY_FIELDS, READERS
from batchflux.manifest.reading.diagnostics import FieldError
from batchflux.manifest.reading.objects import is_object
from batchflux.manifest.reading.values import Template, is_url
from batchflux.manifest.sameness import same_prompt, unsigned
from batchflux.manifest.schema import DEFAULT_FILE_NAME
from batchflux.manifest.templates import ImagePath, compile_template, slug
from batchflux.output.base import ALL_SUFFIXES, IMAGES, SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from batchflux.manifest.schema import Entry, Manifest
    from batchflux.models import Format, Job, Reference
    from batchflux.photos import Photos

FORMAT = 1
FOLDER = f"{IMAGES}/"
MAX_ID_BYTES = 220  # of an id that we make: a file system takes 255 for a name, and a suffix and a mark come behind it
MAX_COMPONENT = 240  # bytes; file systems take 255, and temporary names need a few
MAX_PATH = 1000
_SHORT, _LONG = 8, 16  # digits of the key
_KEPT = 16_384  # references remembered; beyond, the oldest are read again when they come back

_DEVICE = r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9\u00b9\u00b2\u00b3])(?: *\..*)?"
_RESERVED = re.compile(_DEVICE, re.IGNORECASE)
# https://learn.microsoft.com/windows/win32/fileio/naming-a-file
_NOT_ON_WINDOWS = re.compile(r'[<>:"|?*\\]|(?<=[^/. ])[. ]+(?=$|/)')
_EASY = re.compile(rf"(?!(?i:{_DEVICE})\Z)[A-Za-z0-9_-](?:[A-Za-z0-9._ -]{{0,180}}[A-Za-z0-9_-])?")
# Control characters, among them those that turn the direction of text, so that a name reads as another.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class KnownBefore(Protocol):
    """Finds by which key and id the ledger has a job that has another key by now; None: it has no such job."""

    def __call__(self, key: str, former: Callable[[], str], twin: str | None, /) -> KnownAs | None:
        """Look for a job by its key, the one that `former` makes by the rules of before, and its `twin`, if any.

        The twin's is the key by the style that the job goes by with, or without, `references.publish`.
        """


class KnownAs(NamedTuple):
    """The key and the id that the ledger has a job by, whatever today's rules would give it."""

    key: str
    id: str


def references(photos: Photos) -> Callable[[str], Reference]:
    """Return what makes the References of one expansion from what the user wrote."""

    def made(source: str) -> Reference:
        if is_object(source):
            return photos.object(source)
        return photos.url(source) if is_url(source) else photos.reference(source)

    return lru_cache(maxsize=_KEPT)(made)


_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


@lru_cache(maxsize=_KEPT, typed=True)
def _items(*values: float | str | None) -> str:
    """Return the items of a list as canonical JSON: of the parts of keys that most jobs have in common."""
    return _canonical(values)[1:-1]


def key_of(values: Mapping[str, Any], api: str) -> str:
    """Return the key, 64 hex digits, of a job's fields by name; `images` are References.

    `api` is what the job's provider speaks, `simulator` where it is simulated: the provider's own name does not count,
    so that it can be renamed. Neither does what was `dropped`, a URL's signature, or blanks at the prompt's ends.
    """
    images = [*map(_digest_or_place, values["images"])]
    if dropped := values.get("dropped"):
        values = {**values, **dict.fromkeys(dropped)}
    return _digest_of(values, api, same_prompt(values["prompt"]), images)


def former_key(values: Mapping[str, Any], provider: str, prompt: str, images: Sequence[Reference]) -> str:
    """Return the key that a job of this prompt and these images, as written, had when all that it asks for counted.

    So did the name of its provider, in place of the API.
    """
    return _digest_of(values, provider, prompt, [_counted(image) or image.url or _missing(image) for image in images])


def _counted(image: Reference) -> str | None:
    """Return what a photo counts by: the digest of its own bytes, and what the manifest asks to be done to photos.

    What is done without being asked (turned upright, say) does not count, nor does what an encoder makes of it.
    """
    return image.sha256 and image.sha256 + image.settings


def _digest_or_place(image: Reference) -> str:
    return _counted(image) or (unsigned(image.url) if image.url else _missing(image))


def _missing(image: Reference) -> str:
    return f"missing:{image.source}"


def _digest_of(values: Mapping[str, Any], by: str, prompt: str, images: Sequence[str]) -> str:
    """Return the digest of a list of FORMAT, `by` whom it is made, model, style, prompt, images and fields.

    These are KEY_FIELDS in their order and, where there are any, a mapping of NAMED_KEY_FIELDS.
    """
    head, rest = _items(FORMAT, by, values["model"], values["style"]), _items(*map(values.get, KEY_FIELDS))
    if any(map(values.get, NAMED_KEY_FIELDS)):
        rest += "," + _canonical(_plain(values))
    text = f"[{head},{_canonical(prompt)},[{','.join(map(_canonical, images))}],{rest}]"
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: value for name in NAMED_KEY_FIELDS if (value := values.get(name))}
    if given.get("mask"):
        given["mask"] = _digest_or_place(given["mask"])
    return {name: dict(value) if isinstance(value, tuple) else value for name, value in given.items()}


def key_of_job(job: Job, api: str) -> str:
    """Return the key that follows from what a job asks for."""
    names = ("model", "style", "prompt", "images", "dropped", *KEY_FIELDS, *NAMED_KEY_FIELDS)
    return key_of({name: getattr(job, name) for name in names}, api)


def default_id(prompt: str, key: str, *, long: bool = False) -> str:
    """Return the id of a job that was given none; `long` where 8 digits would name two jobs."""
    return f"{slug(prompt) or 'job'}-{key[: _LONG if long else _SHORT]}"


def is_default_id(name: str, key: str) -> bool:
    """Whether an id looks like one that we gave a job of this key."""
    return name.endswith((f"-{key[:_SHORT]}", f"-{key[:_LONG]}"))


def redo_id(root: str, ordinal: int) -> str:
    """Return the id of a redo: the first job's with `-redo1` and so on, cut where it would be too long for an id."""
    suffix = f"-redo{ordinal}"
    cut = root[: MAX_ID - len(suffix)]
    while len(cut.encode(errors="replace")) > MAX_ID_BYTES:
        cut = cut[:-1]
    return cut.rstrip() + suffix


_BAD_NAME: tuple[tuple[Callable[[str], object], str], ...] = (
    (lambda name: name.startswith("/"), "is absolute; allowed is a name inside the output folder"),
    (_CONTROL.search, "has a control character"),
    (lambda name: len(name) > MAX_PATH, f"has more than {MAX_PATH} characters"),
)
_BAD_PART: tuple[tuple[Callable[[str], object], str], ...] = (
    (lambda part: part == "..", "leaves the output folder"),
    (lambda part: not part, "has an empty part"),
    (lambda part: part.startswith("."), "starts a part with a dot, which hides the file"),
    (lambda part: part != part.strip() or part[-1] == ".", "has a part with a space in front"),
    (lambda part: len(part.encode()) > MAX_COMPONENT, f"has a part of more than {MAX_COMPONENT} bytes"),
)


def checked_name(name: str) -> str:
    """Return the file name below the output folder, with `_` for what Windows has not in names.

    A ValueError says why it cannot be a file's name everywhere.
    """
    if _EASY.fullmatch(name):
        return FOLDER + name  # as nearly all of a million are
    name = on_windows(name)
    for text, rules in ((name, _BAD_NAME), *((part, _BAD_PART) for part in name.split("/"))):
        for is_bad, reason in rules:
            if is_bad(text):
                raise ValueError(f"the file name {quoted(name)} {reason}")
    return FOLDER + name


def on_windows(name: str) -> str:
    """Return a file name with `_` for what Windows has not in names, and in front of what it keeps for devices."""
    name = _NOT_ON_WINDOWS.sub(lambda found: "_" * len(found[0]), name)
    return "/".join(f"_{part}" if _RESERVED.fullmatch(part) else part for part in name.split("/"))


def folded(name: str) -> str:
    """Return what two names have in common when a file system that ignores case takes them for one."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


_SUFFIXES = ("", *ALL_SUFFIXES)  # the first: any other, or none
_LINE_BITS = 36
_MARK = (1 << 60) - 1
_OF_A_JOB = (*READERS, "key")  # what a file name's template may read of its job


def mark(name: str) -> int:
    """Return what a key or name is remembered by: as much of its hash as tells it from a million others in 32 bytes."""
    return hash(name) & _MARK


class Names:
    """Gives each job of one expansion its id and file name, and each to one job only, also where case is ignored.

    With the default template ids are compared folded, and file names are not kept. An id that was not given never
    clashes: it takes more of its key. As a stored picture's suffix follows its bytes, names that differ in a picture's
    suffix only are one name, unless both jobs ask for a format, which then says what the suffix will be. `changed` is
    how many file names are others than were asked for, since Windows has no such names, and the first of them.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._plain = manifest.output.file_name == DEFAULT_FILE_NAME
        self._template = compile_template(manifest.output.file_name, file_name=True)
        self._fold: Callable[[str], str] = folded if self._plain else str
        self.changed: tuple[int, str] = (0, "")
        self._changed: set[str] = set()  # file names that no id made as it is
        # The mark of each id and file name, and the place it was first claimed at: whole numbers, for a million of
        # them. A place is the entry's index, the line in its table or 0, and the file name's suffix.
        self._places: dict[int, int] = {}

    def give(
        self, values: dict[str, Any], variables: Mapping[str, Any], entry: int, line: int, had: str | None = None
    ) -> None:
        """Set `id` and `file_name` of a job from this line of its entry's table, or 0; `had` is the id it had before.

        An id that was made for it stays so, however the rules for new ones have changed. Raises FieldError where
        another job has the id or file name, ValueError where there can be no such file name.
        """
        place = (entry << _LINE_BITS | line) * len(_SUFFIXES)
        name = values["id"] = self._id(values, place, had)
        ext = SUFFIXES[values.get("output_format") or "jpeg"][0]
        if self._plain:
            values["file_name"] = self._named(name, ext, values["key"])
            return
        sources = [reference.source for reference in values["images"]]
        own = {"images": sources, "tags": dict(values["tags"]), "ext": ext[1:]}
        image = ImagePath(sources[0]) if sources else ""
        seen = {"image": image, **variables, **{name: values.get(name) for name in _OF_A_JOB}, **own}
        asked = self._template.render(seen)
        file_name = checked_name(asked)
        self._note_changed(asked, file_name)
        self._claim(file_name, None if "output_format" in values["dropped"] else values.get("output_format"), place)
        values["file_name"] = file_name

    def _named(self, name: str, ext: str, key: str) -> str:
        """Return the file name of a job with this id; one that is not like the id takes digits where it is taken."""
        made = checked_name(name + ext)
        changed = made != FOLDER + name + ext
        if changed or self._changed:
            stem = folded(made.removeprefix(FOLDER).removesuffix(ext))
            if stem in self._changed or (changed and mark(stem) in self._places):
                made = checked_name(f"{name}-{key[:_SHORT]}{ext}")
                stem = folded(made.removeprefix(FOLDER).removesuffix(ext))
            if changed:
                self._changed.add(stem)
                self._note_changed(name + ext, made)
        return made

    def _note_changed(self, asked: str, made: str) -> None:
        if made != FOLDER + asked:
            count, first = self.changed
            self.changed = count + 1, first or f"{asked} -> {made.removeprefix(FOLDER)}"

    def redo(self, root: Job, ordinal: int, key: str) -> tuple[str, str]:
        """Return id and file name of a redo: its first job's with `-redo1`, and 8 digits where that is taken."""
        name = redo_id(root.id, ordinal)
        if self._take(self._fold(name), 0) is not None:
            name = f"{name}-{key[:_SHORT]}"
            self._take(self._fold(name), 0)
        stem, ext = splitext(root.file_name.removeprefix(FOLDER))
        if self._plain:
            return name, checked_name(name + ext)
        folder, slash, base = stem.rpartition("/")
        stem = f"{folder}{slash}{redo_id(base, ordinal)}"
        asked = None if "output_format" in root.dropped else root.output_format
        try:
            self._claim(checked_name(stem + ext), asked, 0)
        except FieldError:
            stem = f"{stem}-{key[:_SHORT]}"
            self._claim(checked_name(stem + ext), asked, 0)
        return name, checked_name(stem + ext)

    def _take(self, name: str, place: int) -> int | None:
        """Claim a name; return the place of the job that has it already."""
        earlier = self._places.get(of_name := mark(name))
        if earlier is None:
            self._places[of_name] = place
        return earlier

    def _claim(self, file_name: str, asked: Format | None, place: int) -> None:
        """Take a file name for a job, its stem for pictures of one format or any; names have no //."""
        name = folded(file_name)
        stem, suffix = splitext(name)
        of_any, of_one = f"{stem}//any", f"{stem}//one"
        if suffix not in ALL_SUFFIXES:
            suffix, rivals, taken = "", [name], [name]
        elif asked is None:
            rivals, taken = [of_any, of_one], [of_any]
        else:
            stored = name if suffix in SUFFIXES[asked] else stem + SUFFIXES[asked][0]
            rivals, taken = [of_any, stored], [of_one, stored]
        for rival in rivals:
            if (earlier := self._places.get(mark(rival))) is not None:
                at, same = self._at(earlier), _SUFFIXES[earlier % len(_SUFFIXES)] == suffix
                why = f"differs only in its suffix from one used {at}, and the suffix follows the picture that comes"
                shown = f"{quoted(file_name.removeprefix(FOLDER))} {f'is used {at} too' if same else why}"
                of_one_row = earlier // len(_SUFFIXES) == place // len(_SUFFIXES)
                message = f"the file name {shown}; add {{{{ id }}}} to output.file_name"
                raise FieldError("file_name", message, shared=of_one_row)
        for one in taken:
            self._take(one, place + _SUFFIXES.index(suffix))

    def _id(self, values: dict[str, Any], place: int, had: str | None) -> str:
        given: str | None = values.get("id")
        key = values["key"]
        if given is not None:
            name = given
        else:
            name = had if had is not None and is_default_id(had, key) else default_id(values["prompt"], key)
        earlier = self._take(self._fold(name), place)
        if earlier is None:
            return name
        if given is not None:
            if earlier == place and (axes := self._left_out(place)):
                missing = " and ".join(f"{{{{ {axis} }}}}" for axis in axes)
                message = (
                    f"the id {quoted(name)} is the same for all values of {' and '.join(axes)}; add {missing} to it"
                )
                raise FieldError("id", message, shared=True)
            case = ", and by more than upper and lower case" if self._plain else ""
            raise FieldError("id", f"the id {quoted(name)} is used {self._at(earlier)} too; ids must differ{case}")
        # Among hundreds of thousands of jobs with one slug 8 digits meet by chance; the later job takes 16.
        name = default_id(values["prompt"], values["key"], long=True)
        self._take(self._fold(name), place)
        return name

    def _left_out(self, place: int) -> list[str]:
        """Return the axes of an entry that its template of an id does not read."""
        entry, _ = self._entry(place)
        given = entry.fields.get("id")
        read = compile_template(given.text).names if isinstance(given, Template) else frozenset[str]()
        return [axis.name for axis in entry.axes if axis.name not in read and isinstance(given, Template)]

    def _entry(self, place: int) -> tuple[Entry, int]:
        """Return the entry that a place is in, and the line in its table or 0."""
        index, line = divmod(place // len(_SUFFIXES), 1 << _LINE_BITS)
        return next(entry for entry in self._manifest.entries if entry.index == index), line

    def _at(self, place: int) -> str:
        entry, line = self._entry(place)
        if entry.source is not None:
            return f"by {self._manifest.beside(entry.source)}:{line}"
        return f"by jobs[{entry.index}] on line {entry.line}"
