"""The file on disk → a Manifest, or all that is wrong with it in one go.

Reading stops at what cannot be read (one fault); then the command line's overrides and the environment's values go into
the tree, so that the same rules hold for them. From there on every part is checked, whatever the others are like:
values, then what needs two of them (budget and price), then tables, axes and templates. When there are faults, rows and
jobs are looked at too, as far as they can be.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel

from batchflux.errors import Fault, ManifestError
from batchflux.manifest.capabilities import SIMULATOR, provider_config
from batchflux.manifest.diagnostics import OVERRIDE_FILE, Faults, check_sound, is_key_name, key_names, unknown_key
from batchflux.manifest.entries import read_entries
from batchflux.manifest.expansion import compile_all, note_expansion
from batchflux.manifest.job_fields import job_id
from batchflux.manifest.schema import (
    DEFAULT_FILE_NAME,
    Defaults,
    Document,
    LimitsConfig,
    Manifest,
    OutputConfig,
    ProviderConfig,
)
from batchflux.manifest.templates import compile_template
from batchflux.manifest.values import is_nothing
from batchflux.manifest.yaml_nodes import (
    MAX_BYTES,
    OVERRIDE,
    Items,
    KeyPath,
    Node,
    Scalar,
    Table,
    found,
    is_written,
    line_at,
    quoted,
    read_tree,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchflux.models import Capabilities

Model = TypeVar("Model", bound=BaseModel)
MAX_PARTS = 16  # of a path on the command line
MAX_NAME = 100  # characters of a manifest's name
_EXAMPLE = 'a manifest starts with "version: 1"'
_OF_ONE_PROVIDER = ("base_url", "keys", "options")
_POSITION = re.compile(r"[0-9]{1,9}", re.ASCII)
_FLOW = ("[", "{", '"', "'")
_REFERENCE = re.compile(r"\$\{([^}]*)\}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEY = re.compile(r"\s*(?:Bearer\s+)?sk-[A-Za-z0-9_-]{8,}\s*")
_ADVICE = "put it into an environment variable"


def load_manifest(
    path: str | os.PathLike[str],
    *,
    sets: Sequence[str] = (),
    provider: str | None = None,
    out: str | None = None,
    environ: Mapping[str, str] | None = None,
    offers: Sequence[Capabilities] | None = None,
) -> Manifest:
    """Read a manifest and check all that needs no row of a table.

    Args:
        path: the YAML file.
        sets: `PATH=VALUE` texts that replace values, as `limits.rate=10/s`.
        provider: replaces provider.name; another provider's base_url, keys and options are dropped, and its
            api, or with the simulator (which speaks it) its price.
        out: replaces output.dir.
        environ: where `${NAME}` is looked up; the process's environment when None.
        offers: what APIs can carry, one for each call style of each. Given, the provider's API, style and options are
            checked, and a manifest with faults is expanded too as far as it is sound, so that the faults of its rows
            and jobs come in the same go.

    Raises:
        ManifestError: with every fault.
    """
    display = os.fspath(path)
    faults = Faults(display)
    data = _read(Path(display), display)
    root = _tree(data, display, faults)
    if not isinstance(root, Table):
        faults.add(root.line, (), f"found {found(root)}; {_EXAMPLE}")
        raise ManifestError(faults.found)
    apply_overrides(root, sets, provider, faults)
    expand_environment(root, os.environ if environ is None else environ, faults)
    manifest = _Loader(Path(display), root, faults, offers).manifest(data.decode("utf-8-sig"), out)
    if faults.found:
        if offers is not None:
            note_expansion(manifest, offers, faults)
        raise ManifestError(faults.in_order())
    return manifest


def _tree(data: bytes, display: str, faults: Faults) -> Node:
    try:
        return read_tree(data, display, faults.note)
    except ManifestError as error:
        # With what was noted before it ended.
        raise ManifestError([*dict.fromkeys([*faults.found, *error.faults])]) from None


def _read(path: Path, display: str) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except OSError as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise ManifestError([Fault(file=display, line=None, where="", message=f"the manifest {reason}")]) from None
    except ValueError:
        fault = Fault(file=quoted(display), line=None, where="", message="this is not a path")
        raise ManifestError([fault]) from None


class _Loader:
    def __init__(self, path: Path, root: Table, faults: Faults, offers: Sequence[Capabilities] | None) -> None:
        self._offers = offers
        self._path = path
        self._root = root
        self._faults = faults

    def manifest(self, text: str, out: str | None) -> Manifest:
        self._top()
        name = self._name()
        provider = provider_config(self._root, self._part("provider", ProviderConfig), self._offers, self._faults)
        limits = self._limits(provider)
        output = self._output(name, out)
        defaults = self._part("defaults", Defaults)
        entries = read_entries(self._root, defaults, self._faults)
        path = self._path.absolute()
        manifest = Manifest(
            path=path,
            base=path.parent,
            display=self._faults.file,
            name=name,
            provider=provider,
            limits=limits,
            output=output,
            text=text,
            entries=entries,
            file_name_line=self._line("output", "file_name"),
            keys_line=self._line("provider", "keys"),
        )
        compile_all(manifest, self._faults)
        return manifest

    def _top(self) -> None:
        """Unknown keys and the version."""
        known = key_names(Document)
        for key in self._root.pairs:
            if key not in known:
                self._faults.add(self._root.lines[key], (key,), unknown_key(key, (), known))
        node = self._root.pairs.get("version")
        if node is None or is_nothing(node):
            self._faults.add(self._root.line, ("version",), 'is missing; add "version: 1"')
        elif not isinstance(node, Scalar) or node.text != "1":
            self._faults.add(node.line, ("version",), f"found {found(node)}; allowed is 1")

    def _name(self) -> str:
        stem = self._path.stem
        node = self._root.pairs.get("name")
        if node is None or is_nothing(node):
            return _safe_name(stem) or "manifest"
        name = _safe_name(node.text) if isinstance(node, Scalar) else None
        if name is None:
            allowed = "allowed is text that can name a folder, of at most 100 characters, without a slash"
            self._faults.add(node.line, ("name",), f"found {found(node)}; {allowed}")
        return name or "manifest"

    def _part(self, key: str, model: type[Model]) -> Model:
        node = self._root.pairs.get(key)
        return model() if node is None else check_sound(model, node, (key,), self._faults)[0]

    def _line(self, *keys: str) -> int:
        return line_at(self._root, keys)

    def _limits(self, provider: ProviderConfig) -> LimitsConfig:
        limits = self._part("limits", LimitsConfig)
        priced = provider.price is not None or provider.simulated
        unsure = {"", "name", "api", "base_url", "price"} & self._faults.below("provider").keys()
        if limits.budget is not None and not priced and not unsure:
            message = "a budget needs the price of one image; add provider.price"
            self._faults.add(self._line("limits", "budget"), ("limits", "budget"), message)
        return limits

    def _output(self, name: str, out: str | None) -> OutputConfig:
        output = self._part("output", OutputConfig)
        named = "dir" in output.model_fields_set and is_written(self._root, "output", "dir")
        folder = Path(out) if out else output.dir if named else output.dir / name
        update: dict[str, object] = {"dir": folder.absolute()}
        try:
            compile_template(output.file_name, file_name=True)
        except ValueError as error:
            self._faults.add(self._line("output", "file_name"), ("output", "file_name"), str(error))
            update["file_name"] = DEFAULT_FILE_NAME
        return output.model_copy(update=update)


def _safe_name(text: str) -> str | None:
    try:
        name = job_id(text)
    except ValueError:
        return None
    return None if name is None or len(name) > MAX_NAME or name.startswith(".") else name


# --- the command line -------------------------------------------------------------------------------------------------


def apply_overrides(root: Table, sets: Sequence[str], provider: str | None, faults: Faults) -> None:
    """Change the tree as the command line says, `--set PATH=VALUE` and `--provider NAME`; note what cannot be.

    A path names keys and list positions with dots; mappings on its way are made when missing, list positions must
    exist. Another provider takes nothing of the manifest's that would lead to the wrong place, unless it is set here
    too. The simulator speaks the API that is written, and takes no price, for nothing is spent there.
    """
    section = _provider_section(root)
    if provider is not None:
        name = section.pairs.get("name")
        current = name.text if isinstance(name, Scalar) and not name.is_null else SIMULATOR
        if provider != current:
            for key in (*_OF_ONE_PROVIDER, "price" if provider == SIMULATOR else "api"):
                section.pairs.pop(key, None)
                section.lines.pop(key, None)
        _put(section, "name", Scalar(provider, plain=False, line=OVERRIDE))
        _put(root, "provider", section)
    for text in sets:
        path, equals, value = text.partition("=")
        if not equals or not path:
            faults.add(OVERRIDE, (), f"found {quoted(path)}; allowed is PATH=VALUE, as limits.rate=10/s")
            continue
        node = _value(value, faults)
        if node is not None:
            _walk(root, path, node, faults)
    _provider_section(root)  # --set provider=NAME may have put a bare name there


def _provider_section(root: Table) -> Table:
    """The provider as a mapping; a bare name becomes one. What is neither stays for the check to refuse."""
    node = root.pairs.get("provider")
    if isinstance(node, Table):
        return node
    section = Table(OVERRIDE if node is None else node.line)
    if isinstance(node, Scalar):
        if not node.is_null:
            section.pairs["name"] = node
            section.lines["name"] = node.line
        root.pairs["provider"] = section
        root.lines.setdefault("provider", section.line)
    return section


def _put(table: Table, key: str, node: Node) -> None:
    table.pairs[key] = node
    table.lines[key] = OVERRIDE


def _value(text: str, faults: Faults) -> Node | None:
    stripped = text.strip()
    if not stripped.startswith(_FLOW):
        return Scalar(stripped, plain=True, line=OVERRIDE)
    try:
        node = read_tree(stripped.encode("utf-8", "surrogateescape"), OVERRIDE_FILE, faults.note)
    except ManifestError as error:
        for fault in error.faults:
            faults.add(OVERRIDE, (), fault.message)
        return None
    _relabel(node)
    return node


def _relabel(node: Node) -> None:
    node.line = OVERRIDE
    if isinstance(node, Table):
        node.lines = dict.fromkeys(node.pairs, OVERRIDE)
        for child in node.pairs.values():
            _relabel(child)
    elif isinstance(node, Items):
        for child in node.items:
            _relabel(child)


def _walk(root: Table, path: str, node: Node, faults: Faults) -> None:
    at: Node = root
    part = ""
    parts = path.split(".")
    if len(parts) > MAX_PARTS:
        faults.add(OVERRIDE, (), f"found a path of {len(parts)} parts; allowed are at most {MAX_PARTS}")
        return
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        if isinstance(at, Table) and part:
            if last:
                _put(at, part, node)
                return
            if part not in at.pairs or is_nothing(at.pairs[part]):
                _put(at, part, Table(OVERRIDE))
            at.pairs[part] = child = _own(at.pairs[part])
        elif isinstance(at, Items) and _POSITION.fullmatch(part) and int(part) < len(at.items):
            if last:
                at.items[int(part)] = node
                return
            at.items[int(part)] = child = _own(at.items[int(part)])
        else:
            break
        at = child
    faults.add(OVERRIDE, (), f"found the path {quoted(path)}; {_reason(at, part)}")


def _own(node: Node) -> Node:
    """A copy that is changed here only, for an alias may have put the node in other places too."""
    if isinstance(node, Table):
        return Table(node.line, dict(node.pairs), dict(node.lines))
    return Items(node.line, list(node.items)) if isinstance(node, Items) else node


def _reason(at: Node, part: str) -> str:
    if isinstance(at, Items):
        return f"allowed in place of {quoted(part)} is a position from 0 to {len(at.items) - 1}"
    if isinstance(at, Table):
        return "allowed is a path of names and positions, as jobs.0.seed"
    return "there is nothing below it, for a single value stands there"


# --- the environment --------------------------------------------------------------------------------------------------


def expand_environment(root: Table, environ: Mapping[str, str], faults: Faults) -> None:
    """Put the environment's values into the tree; note variables that are not set, and secrets written out.

    `${NAME}` is looked up in `provider` and `webhook_secret`. A message shows the name, never the value.
    """
    _refuse_keys(root, faults)
    if "provider" in root.pairs:
        root.pairs["provider"] = _expanded(root.pairs["provider"], ("provider",), environ, faults)
    tables: list[tuple[KeyPath, Node]] = []
    if "defaults" in root.pairs:
        tables.append((("defaults",), root.pairs["defaults"]))
    jobs = root.pairs.get("jobs")
    if isinstance(jobs, Items):
        tables.extend((("jobs", index), item) for index, item in enumerate(jobs.items))
    for path, table in tables:
        if isinstance(table, Table) and "webhook_secret" in table.pairs:
            _webhook_secret(table, path, environ, faults)


def _refuse_keys(root: Table, faults: Faults) -> None:
    """A key is known by its first letters, wherever it stands; keys of the provider have their own check."""
    stack: list[tuple[KeyPath, Node]] = [((), root)]
    while stack:
        path, node = stack.pop()
        if isinstance(node, Table):
            stack.extend(((*path, key), child) for key, child in reversed(node.pairs.items()))
        elif isinstance(node, Items):
            stack.extend(((*path, index), child) for index, child in reversed(list(enumerate(node.items))))
        elif "sk-" in node.text and not _checked_elsewhere(path) and _KEY.fullmatch(node.text):
            name = "name it under provider.keys" if path[:1] != ("provider",) else "name it under keys"
            faults.add(node.line, path, f"this looks like an API key; {_ADVICE} and {name}")


def _checked_elsewhere(path: KeyPath) -> bool:
    """Whether the schema says the same of whatever stands there."""
    return path[:1] == ("provider",) and len(path) > 1 and (path[1] == "keys" or is_key_name(str(path[1])))


def _expanded(node: Node, path: KeyPath, environ: Mapping[str, str], faults: Faults) -> Node:
    if isinstance(node, Table):
        pairs = {key: _expanded(child, (*path, key), environ, faults) for key, child in node.pairs.items()}
        return Table(node.line, pairs, node.lines)
    if isinstance(node, Items):
        items = [_expanded(child, (*path, index), environ, faults) for index, child in enumerate(node.items)]
        return Items(node.line, items)
    if "${" not in node.text:
        return node
    missing: list[str] = []

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if _VARIABLE.fullmatch(name) is None:
            missing.append(f"found {quoted(match[0])}; allowed is ${{NAME}} with the name of an environment variable")
        elif name not in environ:
            missing.append(f"the environment variable {name} is not set; set it")
        return environ.get(name, "")

    text = _REFERENCE.sub(value, node.text)
    for message in missing:
        faults.add(node.line, path, message)
    if missing:  # nothing stands there then, so that the field is not found wrong too
        return Scalar("", plain=True, line=node.line, shown=node.text)
    return Scalar(text, node.plain, node.line, shown=node.text)


def _webhook_secret(table: Table, path: KeyPath, environ: Mapping[str, str], faults: Faults) -> None:
    node = table.pairs["webhook_secret"]
    if isinstance(node, Scalar) and node.is_null:
        return
    at = (*path, "webhook_secret")
    if not isinstance(node, Scalar) or _REFERENCE.fullmatch(node.text) is None:
        message = f"a secret does not belong in a manifest; {_ADVICE} and write ${{NAME}} here"
        faults.add(table.lines["webhook_secret"], at, message)
        table.pairs["webhook_secret"] = Scalar("", True, node.line)
        return
    table.pairs["webhook_secret"] = _expanded(node, at, environ, faults)
