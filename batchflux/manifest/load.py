"""The file on disk → a Manifest, or all that is wrong with it in one go.

The rule: reading stops at what cannot be read (one fault); from there on every part is checked, whatever the others
are like: values, then what needs two of them (budget and price), then tables, axes and templates. When there are
faults, rows and jobs are looked at too, as far as they can be.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from batchflux.errors import Fault, ManifestError
from batchflux.manifest import fields
from batchflux.manifest.diagnostics import Faults
from batchflux.manifest.check import check_sound, key_names, unknown_key
from batchflux.manifest.schema import LimitsConfig, Manifest, OutputConfig, ProviderConfig
from batchflux.manifest.entries import read_entries
from batchflux.manifest.loader import expand_environment
from batchflux.manifest.loader import apply_overrides
from batchflux.manifest.providers import provider_config
from batchflux.manifest.yaml_nodes import MAX_BYTES, read_tree
from batchflux.manifest.salvage import compile_all, note_expansion
from batchflux.manifest.schema import Defaults, Document, Limits, Output, Provider
from batchflux.manifest.templates import compile_template
from batchflux.manifest.yaml_nodes import Node, Scalar, Table, found, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchflux.models import Capabilities

Model = TypeVar("Model", bound=BaseModel)
_EXAMPLE = 'a manifest starts with "version: 1"'


def load_manifest(
    path: str | os.PathLike[str],
    *,
    sets: Sequence[str] = (),
    provider: str | None = None,
    out: str | None = None,
    environ: Mapping[str, str] | None = None,
    styles: Mapping[str, Capabilities] | None = None,
) -> Manifest:
    """Read a manifest and check all that needs no row of a table.

    Args:
        path: the YAML file.
        sets: `PATH=VALUE` texts that replace values, as `limits.rate=10/s`.
        provider: replaces provider.name; another provider's base_url, keys and options are dropped, and
            with the simulator its price.
        out: replaces output.dir.
        environ: where `${NAME}` is looked up; the process's environment when None.
        styles: what each call style can carry. Given, a manifest with faults is expanded too as far as it is sound,
            so that the faults of its rows and jobs are told in the same go (see salvage).

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
    manifest = _Loader(Path(display), root, faults).manifest(data.decode("utf-8-sig"), out)
    if faults.found:
        if styles is not None:
            note_expansion(manifest, styles, faults)
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
    def __init__(self, path: Path, root: Table, faults: Faults) -> None:
        self._path = path
        self._root = root
        self._faults = faults

    def manifest(self, text: str, out: str | None) -> Manifest:
        self._top()
        name = self._name()
        provider = provider_config(self._root, self._part("provider", Provider), self._faults)
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
        if node is None or (isinstance(node, Scalar) and node.is_null):
            self._faults.add(self._root.line, ("version",), 'is missing; add "version: 1"')
        elif not isinstance(node, Scalar) or node.text != "1":
            self._faults.add(node.line, ("version",), f"found {found(node)}; allowed is 1")

    def _name(self) -> str:
        stem = self._path.stem
        node = self._root.pairs.get("name")
        if node is None or (isinstance(node, Scalar) and node.is_null):
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
        node: Node = self._root
        line = node.line
        for key in keys:
            if isinstance(node, Table) and key in node.pairs:
                line, node = node.lines[key], node.pairs[key]
        return line

    def _limits(self, provider: ProviderConfig) -> LimitsConfig:
        model = self._part("limits", Limits)
        priced = provider.price is not None or provider.name == "simulator"
        unsure = {"", "name", "price"} & self._faults.below("provider").keys()
        if model.budget is not None and not priced and not unsure:
            message = "a budget needs the price of one image; add provider.price"
            self._faults.add(self._line("limits", "budget"), ("limits", "budget"), message)
        return LimitsConfig(**_given(model))

    def _output(self, name: str, out: str | None) -> OutputConfig:
        model = self._part("output", Output)
        given = _given(model)
        folder = out or given.pop("dir", None) or str(Path("out") / name)
        given.pop("dir", None)
        at = self._line("output", "file_name")
        try:
            compile_template(model.file_name, file_name=True)
        except ValueError as error:
            self._faults.add(at, ("output", "file_name"), str(error))
            given.pop("file_name", None)
        return OutputConfig(dir=Path(folder).absolute(), **given)


def _safe_name(text: str) -> str | None:
    try:
        name = fields.job_id(text)
    except ValueError:
        return None
    return None if name is None or len(name) > 100 or name.startswith(".") else name  # noqa: PLR2004  as the message says


def _given(model: BaseModel) -> dict[str, Any]:
    """What was given; what was given as nothing has its default."""
    return {key: value for key in model.model_fields_set if (value := getattr(model, key)) is not None}
