"""Every fault with its whole message. The cases stand in faults/*.txt: a manifest, then what is found in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from batchflux.errors import Fault, ManifestError
from batchflux.manifest import load_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FILES = sorted((Path(__file__).parent / "faults").glob("*.txt"))


def cases() -> Iterator[tuple[str, str, list[str]]]:
    for file in FILES:
        for part in re.split(r"^=== ", file.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
            name, _, rest = part.partition("\n")
            text, _, found = rest.partition("--- found\n")
            yield f"{file.stem}-{name}", text, found.splitlines()


CASES = {name: (text, found) for name, text, found in cases()}


def test_there_are_at_least_forty() -> None:
    assert len(CASES) >= 40


@pytest.mark.parametrize("name", CASES)
def test_fault(name: str, faults: Callable[[str | bytes], list[str]]) -> None:
    text, expected = CASES[name]
    assert faults(text) == expected


BOMB = "version: 1\na: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", 'm.yaml: the file is empty; a manifest starts with "version: 1"'),
        (b"# only a remark\n", 'm.yaml: the file is empty; a manifest starts with "version: 1"'),
        (b"version: 1\nname: \xff\n", "m.yaml:2: the byte 0xff is not UTF-8; save the file as UTF-8"),
        (b"version: 1\nname: a\x00b\n", "m.yaml:2: the control character 0x00 is not allowed; remove it"),
        ("version: 1".encode("utf-16"), "m.yaml:1: the byte 0xff is not UTF-8; save the file as UTF-8"),
        (BOMB, "m.yaml:6: the aliases stand for more than 100000 values; write them out or use a table"),
        ("version: 1\njobs: " + "[" * 100_000, "m.yaml:2: nested more than 64 levels deep"),
        ("version: 1\njobs: " + "{a: " * 100_000, "m.yaml:2: nested more than 64 levels deep"),
        ("version: 1\njobs:\n" + "".join(" " * n + "-\n" for n in range(1, 100)), "m.yaml:66: nested more than 64 "),
        (b"#" * ((64 << 20) + 1), "m.yaml: the file has 67108865 bytes; at most 67108864 are read. Put the jobs in a"),
    ],
    ids=["empty", "remark", "latin", "nul", "utf16", "bomb", "brackets", "braces", "indents", "huge"],
)
def test_a_text_that_is_refused_as_a_whole(
    text: str | bytes, expected: str, faults: Callable[[str | bytes], list[str]]
) -> None:
    (found,) = faults(text)
    assert found.startswith(expected)


def test_at_most_twenty_faults_are_shown(faults: Callable[[str | bytes], list[str]]) -> None:

    text = "version: 1\njobs:\n" + "  - {prompt: x, seed: a}\n" * 25
    found = faults(text)
    assert len(found) == 25
    error = ManifestError([Fault(file="m.yaml", line=1, where="", message="x")] * 25)
    assert str(error).splitlines()[20:] == ["... and 5 more faults"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("none.yaml", "the manifest does not exist; correct the path, or write one with: batchflux init"),
        ("shop.csv", "this is a table; write a manifest for it with: batchflux init --from shop.csv"),
        (".", "this is a folder; name the manifest, a YAML file"),
    ],
)
def test_a_manifest_that_cannot_be_opened(path: str, message: str, folder: Path) -> None:

    assert folder.is_dir()
    with pytest.raises(ManifestError) as caught:
        load_manifest(path)
    assert str(caught.value) == f"{path}: {message}"
