"""One row and one combination of axis values → one job; the inner loop of the expansion.

The rule: all faults of a job are reported, each at the line of its row when there is a table. Everything that does
not depend on the row was done before (see compile), so that a million rows take seconds.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

from batchflux.manifest.capability import local_file, refusal, resolve
from batchflux.manifest.compile import unknown_variable
from batchflux.manifest.fields import reference, tag
from batchflux.manifest.identity import default_id, key_of
from batchflux.manifest.identity import Names, Taken
from batchflux.manifest.redo import choose
from batchflux.manifest.identity import References, identity
from batchflux.manifest.seen import Seen
from batchflux.manifest.templates import Undefined
from batchflux.manifest.job_fields import REQUEST_FIELDS
from batchflux.models import Job

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batchflux.manifest.compile import Part, Plan
    from batchflux.manifest.schema import Entry, Manifest
    from batchflux.models import Capabilities, Redo, Reference, Style

    class Tell(Protocol):
        """Takes the faults of jobs; see Expansion."""

        def field(self, entry: Entry, line: int | None, key: str, message: str) -> None: ...  # noqa: D102  see Expansion
        def job(self, entry: Entry, key: str, message: str, name: str | None) -> None: ...  # noqa: D102  see Expansion


Made = Job | Literal[False] | None  # None: merged into an earlier job; False: faults were reported


class Builder:
    """Makes jobs of one manifest, and knows what the whole of it has met so far."""

    def __init__(self, manifest: Manifest, styles: Mapping[str, Capabilities], tell: Tell) -> None:
        self._manifest = manifest
        self._provider = manifest.provider
        self._styles = styles
        self._tell = tell
        self._references = References(manifest.base)
        self._keys = Seen()
        self._names = Names(manifest)
        self._position = 0
        self._unfit = {name: tuple(f for f in REQUEST_FIELDS if f not in style.fields) for name, style in styles.items()}
        self._failed = False
        self._line: int | None = None

    @property
    def made(self) -> int:
        """How many jobs were made, redos aside."""
        return self._position

    def take(self, plan: Plan) -> None:
        """Make jobs of this entry from now on."""
        self._plan = plan
        self._told: set[tuple[str, str]] = set()

    def build(self, variables: Mapping[str, Any], chosen: dict[str, Any], line: int | None) -> Made:
        """Make the job of one row (`line` in its table) and one choice of axis values."""
        self._failed = False
        self._line = line
        plan = self._plan
        values = {**plan.constants, **chosen}
        for name, render, convert in plan.dynamic:
            try:
                values[name] = convert(render(variables))
            except ValueError as error:
                self._fault(name, error, variables)
        sources = chosen["images"] if "images" in chosen else self._images(plan.images, variables)
        values["tags"] = self._tags(variables) if plan.tags else ()
        if self._failed:
            return False
        references = values["images"] = tuple(map(self._references.of, sources)) if sources else ()
        wanted = values.get("style") or self._provider.style
        try:
            style = values["style"] = resolve(wanted, references, self._styles)
        except ValueError as error:
            return self._once("style", wanted, str(error), values)
        return self._identify(values, variables, style, wanted)

    def redo(self, root: Job, parent: Job, redo: Redo, known: Callable[[str], bool]) -> Job | None:
        """Make the job that tries `parent` again; None when the manifest lists the very same job by now.

        `root` is the manifest's job that the redos of this family go back to, `known` tells whether a key is
        taken already.
        """

        def free(key: str) -> bool:
            return not known(key) and self._keys.add(int(key[:16], 16)) is None

        job = choose(parent, redo, self._styles[parent.style], free)
        if redo.variant is not None and self._keys.add(int(job.key[:16], 16)) is not None:
            return None
        name, file_name = self._names.redo(root, redo.ordinal, job.key)
        return replace(job, id=name, file_name=file_name, position=root.position)

    def _identify(self, values: dict[str, Any], variables: Mapping[str, Any], style: Style, wanted: str) -> Made:
        """Give the job its key and names, unless it was met before."""
        get = values.get
        model = values["model"] = get("model") or self._provider.model
        variant = values["variant"] = get("variant") or 1
        scalars = (
            get("seed"),
            get("aspect_ratio"),
            get("output_format"),
            get("safety_tolerance"),
            get("prompt_upsampling"),
            variant,
        )
        references: tuple[Reference, ...] = values["images"]
        identities = tuple(map(identity, references)) if references else ()
        key = values["key"] = key_of((self._provider.name, model, style), values["prompt"], identities, scalars)
        if self._unfit[style] and not self._carried(values, style, wanted):
            return False
        if self._keys.add(int(key[:16], 16)) is not None:
            return None
        entry = self._plan.entry
        try:
            self._names.give(values, variables, (entry.index, self._line or 0))
        except Taken as error:
            return self._fail(error.key, str(error))
        except ValueError as error:
            return self._fault("file_name", error, variables)
        values["position"] = self._position
        self._position += 1
        return Job(provider=self._provider.name, **values)

    def _images(self, parts: tuple[Part, ...], variables: Mapping[str, Any]) -> tuple[str, ...]:
        made: list[str] = []
        for index, part in enumerate(parts):
            try:
                text = part if isinstance(part, str) else reference(part(variables))
            except ValueError as error:
                self._fault(f"images[{index}]", error, variables)
            else:
                if text is not None:
                    made.append(text)
        return tuple(made)

    def _tags(self, variables: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
        made: list[tuple[str, str]] = []
        for name, part in self._plan.tags:
            try:
                made.append((name, part if isinstance(part, str) else tag(part(variables))))
            except ValueError as error:
                self._fault(f"tags.{name}", error, variables)
        return tuple(made)

    def _carried(self, values: dict[str, Any], style: Style, wanted: str) -> bool:
        """Note which fields the style cannot carry; False, with faults, when they must not be dropped."""
        dropped = tuple(name for name in self._unfit[style] if values.get(name) is not None)
        values["dropped"] = dropped
        if not dropped or self._provider.params == "drop":
            return True
        local = local_file(values["images"])
        for name in dropped:
            self._once(name, style, refusal(name, style, wanted, local), values)
        return False

    def _fault(self, key: str, error: ValueError, variables: Mapping[str, Any]) -> Literal[False]:
        if isinstance(error, Undefined) and error.name is not None:
            known = variables if self._line is None else {*variables, "row"}
            return self._fail(key, unknown_variable(error.name, known))
        return self._fail(key, str(error))

    def _fail(self, key: str, message: str) -> Literal[False]:
        self._failed = True
        self._tell.field(self._plan.entry, self._line, key, message)
        return False

    def _once(self, key: str, style: str, message: str, values: dict[str, Any]) -> Literal[False]:
        """A fault that all jobs of an entry share: told for the first of them, which is named."""
        if (key, style) not in self._told:
            self._told.add((key, style))
            name = values.get("id")
            if name is None and "key" in values:
                name = default_id(values["prompt"], values["key"])
            self._tell.job(self._plan.entry, key, message, name)
        return False
