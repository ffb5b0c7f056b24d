"""One row and one combination of axis values → one job; the inner loop of the expansion.

The rule: all faults of a job are reported, each at the line of its row when there is a table. Everything that does
not depend on the row was done before (see compile), so that a million rows take seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from batchflux.errors import Fault
from batchflux.manifest.capability import CARRIED, local_file, refusal, resolve
from batchflux.manifest.check import OVERRIDE_FILE
from batchflux.manifest.compile import CONVERT_IMAGE, CONVERT_TAG, unknown_variable
from batchflux.manifest.config import OutputConfig
from batchflux.manifest.identity import checked_name, default_id, folded, key_of
from batchflux.manifest.references import References, identity
from batchflux.manifest.seen import Seen
from batchflux.manifest.templates import ImagePath, Undefined, compile_template
from batchflux.manifest.tree import OVERRIDE, quoted
from batchflux.model import Job

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batchflux.manifest.compile import Part, Plan
    from batchflux.manifest.config import Entry, Manifest
    from batchflux.model import Capabilities, Reference, Style

_DEFAULT_NAME = OutputConfig.__dataclass_fields__["file_name"].default
_LINE_BITS = 40


@dataclass(slots=True)
class Place:
    """Where a job comes from: its entry, and the line of its row when there is a table."""

    entry: Entry
    line: int | None


class Builder:
    """Makes jobs of one manifest, and knows what the whole of it has met so far."""

    def __init__(self, manifest: Manifest, styles: Mapping[str, Capabilities], report: Callable[[Fault], None]) -> None:
        self._manifest = manifest
        self._styles = styles
        self._report = report
        self._references = References(manifest.base)
        self._keys = Seen()
        self._ids = Seen(places=True)
        plain = manifest.output.file_name == _DEFAULT_NAME
        self._names = None if plain else Seen(places=True)
        self._file_name = compile_template(manifest.output.file_name, file_name=True)
        self._position = 0
        self._drops: dict[tuple[str, tuple[str, ...]], tuple[str, ...]] = {}

    def take(self, plan: Plan) -> None:
        """Make jobs of this entry from now on."""
        self._plan = plan
        self._told: set[tuple[str, str]] = set()
        self._failed = False

    def build(self, variables: Mapping[str, Any], chosen: dict[str, Any], place: Place) -> Job | Literal[False] | None:
        """Make a job: None when it is merged into an earlier one, False after its faults were reported."""
        self._failed = False
        values = self._values(variables, chosen, place)
        sources = chosen.get("images")
        if sources is None:
            sources = self._texts(self._plan.images, "images", variables, place) if self._plan.images else ()
        tags = self._tags(variables, place) if self._plan.tags else ()
        if self._failed:
            return False
        references = tuple(map(self._references.of, sources)) if sources else ()
        style = self._style(values, references, place)
        if style is None:
            return False
        model = values.get("model") or self._manifest.provider.model
        variant = values.get("variant") or 1
        scalars = (
            values.get("seed"), values.get("aspect_ratio"), values.get("output_format"),
            values.get("safety_tolerance"), values.get("prompt_upsampling"), variant,
        )  # fmt: skip
        api = (self._manifest.provider.name, model, style)
        key = key_of(api, values["prompt"], tuple(map(identity, references)), scalars)
        values.update(style=style, model=model, variant=variant, images=references, tags=tags, key=key)
        return self._finish(values, variables, place)

    def _finish(
        self, values: dict[str, Any], variables: Mapping[str, Any], place: Place
    ) -> Job | Literal[False] | None:
        """Give the job its names, unless it was met before."""
        values["dropped"] = self._dropped(values, place)
        if self._failed:
            return False
        if self._keys.add(int(values["key"][:16], 16)) is not None:
            return None
        values["id"] = self._id(values, place)
        values["file_name"] = self._name(values, variables, place) if not self._failed else ""
        if self._failed:
            return False
        values["position"] = self._position
        self._position += 1
        return Job(provider=self._manifest.provider.name, **values)

    def _values(self, variables: Mapping[str, Any], chosen: dict[str, Any], place: Place) -> dict[str, Any]:
        values = {**self._plan.constants, **chosen}
        for name, render, convert in self._plan.dynamic:
            try:
                values[name] = convert(render(variables))
            except ValueError as error:
                self._fault(name, error, variables, place)
        return values

    def _texts(self, parts: tuple[Part, ...], key: str, variables: Mapping[str, Any], place: Place) -> tuple[str, ...]:
        made: list[str] = []
        for index, part in enumerate(parts):
            try:
                text = part if isinstance(part, str) else CONVERT_IMAGE(part(variables))
            except ValueError as error:
                self._fault(f"{key}[{index}]", error, variables, place)
            else:
                if text is not None:
                    made.append(text)
        return tuple(made)

    def _tags(self, variables: Mapping[str, Any], place: Place) -> tuple[tuple[str, str], ...]:
        made: list[tuple[str, str]] = []
        for name, part in self._plan.tags:
            try:
                made.append((name, part if isinstance(part, str) else CONVERT_TAG(part(variables))))
            except ValueError as error:
                self._fault(f"tags.{name}", error, variables, place)
        return tuple(made)

    def _style(self, values: dict[str, Any], references: tuple[Reference, ...], place: Place) -> Style | None:
        wanted = values.get("style") or self._manifest.provider.style
        try:
            return resolve(wanted, references, self._styles)
        except ValueError as error:
            self._once("style", "standard", f"{error}", place, values)
            return None

    def _dropped(self, values: dict[str, Any], place: Place) -> tuple[str, ...]:
        """The fields that the style cannot carry; under strict they are faults."""
        style = values["style"]
        given = tuple(name for name in CARRIED if values.get(name) is not None)
        dropped = self._drops.get((style, given))
        if dropped is None:
            fields = self._styles[style].fields
            dropped = self._drops[style, given] = tuple(name for name in given if name not in fields)
        if dropped and self._manifest.provider.params == "strict":
            wanted = self._plan.constants.get("style") or self._manifest.provider.style
            for name in dropped:
                self._once(name, style, refusal(name, style, wanted, local_file(values["images"])), place, values)
        return dropped

    def _id(self, values: dict[str, Any], place: Place) -> str:
        given: str | None = values.get("id")
        mark = (place.entry.index << _LINE_BITS) | (place.line or 0)
        if given is not None:
            earlier = self._ids.add(hash(self._same(given)), mark)
            if earlier is not None:
                case = ", and by more than upper and lower case" if self._names is None else ""
                self._fail(
                    "id", f"the id {quoted(given)} is used {self._at(earlier)} too; ids must differ{case}", place
                )
            return given
        short = default_id(values["prompt"], values["key"])
        if self._ids.add(hash(self._same(short)), mark) is None:
            return short
        # Among hundreds of thousands of jobs with one slug, 8 digits meet by chance; the later job takes 16.
        long = default_id(values["prompt"], values["key"], long=True)
        self._ids.add(hash(self._same(long)), mark)
        return long

    def _same(self, name: str) -> str:
        """Ids that are file names too must differ by more than case; then file names need no table of their own."""
        return folded(name) if self._names is None else name

    def _name(self, values: dict[str, Any], variables: Mapping[str, Any], place: Place) -> str:
        ext = "png" if values.get("output_format") == "png" else "jpg"
        try:
            if self._names is None:
                return checked_name(f"{values['id']}.{ext}")
            name = checked_name(self._file_name.render(self._name_variables(values, variables, ext)))
        except ValueError as error:
            self._fault("file_name", error, variables, place)
            return ""
        mark = (place.entry.index << _LINE_BITS) | (place.line or 0)
        earlier = self._names.add(hash(folded(name)), mark)
        if earlier is not None:
            message = (
                f"the file name {quoted(name)} is used {self._at(earlier)} too; add {{{{ id }}}} to output.file_name"
            )
            self._fail("file_name", message, place)
        return name

    def _name_variables(self, values: dict[str, Any], variables: Mapping[str, Any], ext: str) -> dict[str, Any]:
        sources = [reference.source for reference in values["images"]]
        fields = {name: values.get(name) for name in ("seed", "aspect_ratio", "output_format", "safety_tolerance")}
        return {
            "image": ImagePath(sources[0]) if sources else "",
            **variables,
            **fields,
            "prompt_upsampling": values.get("prompt_upsampling"),
            "webhook_url": values.get("webhook_url"),
            **{name: values[name] for name in ("id", "prompt", "model", "style", "variant", "key")},
            "images": sources,
            "tags": dict(values["tags"]),
            "ext": ext,
        }

    def _at(self, mark: int) -> str:
        entry = self._manifest.entries[mark >> _LINE_BITS]
        line = mark & ((1 << _LINE_BITS) - 1)
        if entry.source is not None:
            return f"by {self._manifest.beside(entry.source)}:{line}"
        return f"by jobs[{entry.index}] on line {entry.line}"

    def _fault(self, key: str, error: ValueError, variables: Mapping[str, Any], place: Place) -> None:
        message = str(error)
        if isinstance(error, Undefined) and error.name is not None:
            message = unknown_variable(error.name, variables)
        self._fail(key, message, place)

    def _fail(self, key: str, message: str, place: Place) -> None:
        entry = place.entry
        where = f"jobs[{entry.index}].{key}"
        self._failed = True
        if place.line is not None:
            file, line = self._manifest.beside(entry.source or ""), place.line
            self._report(Fault(file=file, line=line, where=where, message=message))
            return
        at = entry.lines.get(key.split(".", maxsplit=1)[0].split("[", maxsplit=1)[0], entry.line)
        override = at == OVERRIDE
        file = OVERRIDE_FILE if override else self._manifest.display
        self._report(Fault(file=file, line=None if override else at, where=where, message=message))

    def _once(self, key: str, style: str, message: str, place: Place, values: dict[str, Any]) -> None:
        """A fault that all jobs of an entry share: told for the first of them."""
        self._failed = True
        if (key, style) in self._told:
            return
        self._told.add((key, style))
        name = values.get("id") or (default_id(values["prompt"], values["key"]) if "key" in values else "")
        entry = place.entry
        at = entry.lines.get(key, entry.line)
        override = at == OVERRIDE
        where = f"jobs[{entry.index}] (id {name})" if name else f"jobs[{entry.index}]"
        file = OVERRIDE_FILE if override else self._manifest.display
        self._report(Fault(file=file, line=None if override else at, where=where, message=message))
