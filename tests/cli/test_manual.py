"""What is printed for people and their tools: the manual's pages, completion, the schema that editors get."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import yaml

from batchflux.docs import TOPICS, page
from batchflux.docs.screen import fitted
from batchflux.errors import EXIT_CODES, UsageError
from batchflux.manifest import schema
from batchflux.providers import capabilities
from batchflux.testing.inside import inside
from tests.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[2]


class Core(yaml.SafeLoader):
    """YAML 1.2, as editors read it: 16:9 is text."""


Core.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rows if not tag.endswith((":int", ":float"))]
    for first, rows in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Core.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?[0-9]+$"), list("-+0123456789"))
Core.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+\.[0-9]+$"), list("-+0123456789"))


def batchflux(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess(arguments, *inside(cwd or Path.cwd(), os.environ, *arguments))


def test_pages_that_are_made_are_current() -> None:
    made = subprocess.run(
        [sys.executable, ROOT / ".readme/make_pages.py", "--check"], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr


def test_every_topic_has_a_page_and_every_page_a_topic() -> None:
    assert {path.stem for path in (ROOT / "batchflux/docs").glob("*.md")} == set(TOPICS)
    for topic in TOPICS:
        assert len(page(topic).splitlines()) > 3, topic


def test_links_between_pages_lead_somewhere() -> None:
    for path in [*(ROOT / "batchflux/docs").glob("*.md"), ROOT / "README.md", *(ROOT / ".readme").glob("*.md")]:
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text(encoding="utf-8")):
            assert (path.parent / link).exists(), f"{path.name}: {link}"


def test_paths_that_the_architecture_names_are_there() -> None:
    named = re.findall(r"`((?:\w+/)+\w+\.py)", (ROOT / "batchflux/README.md").read_text(encoding="utf-8"))
    gone = [path for path in named if not any((ROOT / top / path).exists() for top in (".", "batchflux"))]
    assert not gone
    assert len(named) > 20


def test_the_readme_has_all_exit_codes_as_they_are() -> None:
    english, chinese = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", ".readme/README.zh.md"))
    for code, meaning in EXIT_CODES.items():
        assert f"| {code} | {meaning} |" in english
        assert f"| {code} | " in chinese


def test_docs_lists_topics_and_prints_a_page() -> None:
    listed, shown, wrong = batchflux("docs"), batchflux("docs", "errors"), batchflux("docs", "erors")
    assert all(f"  {topic} " in listed.stdout for topic in TOPICS)
    assert shown.stdout == page("errors")
    assert (wrong.returncode, wrong.stderr) == (2, "There is no page 'erors'; did you mean errors?\n")
    with pytest.raises(UsageError, match="there are commands"):
        page("xyz")


CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
ASIDE = re.compile(r"^(?: {4}|#).*", re.MULTILINE)  # code without a fence, headings
MARKUP = re.compile(
    r"<!--.*-->|\]\((?!http)[^)]*\)|^\|.*\n\|[ :|-]+$", re.MULTILINE
)  # with a table's head, which may go


@pytest.mark.parametrize("topic", TOPICS)
def test_a_page_on_a_terminal_keeps_its_words_and_to_its_width(topic: str) -> None:
    plain, shown = page(topic), fitted(page(topic), 80)
    assert CODE.findall(shown) == CODE.findall(plain)
    text = ASIDE.sub("", CODE.sub("", shown))
    assert not [line for line in text.splitlines() if len(line) > 80 and " " in line.strip()]
    there, kept = (Counter(re.findall(r"\w+", one)) for one in (MARKUP.sub("", plain), shown))
    assert not there - kept


def test_a_terminal_shows_a_page_without_a_line_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    with Terminal(tmp_path, "docs", "limits") as terminal:
        code, lines = terminal.end()
    assert (code, terminal.screen.wrapped) == (0, [])
    assert lines == [line for line in fitted(page("limits"), 80).splitlines() if line.strip()]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_that_the_shell_takes(shell: str) -> None:
    made = batchflux("completion", shell)
    assert made.returncode == 0
    assert "_BATCHFLUX_COMPLETE" in made.stdout
    if (program := which(shell)) is not None:
        subprocess.run([program, "-n"], input=made.stdout, text=True, check=True)


def test_bash_completes_commands() -> None:
    words = {"COMP_WORDS": "batchflux re", "COMP_CWORD": "1", "_BATCHFLUX_COMPLETE": "bash_complete"}
    program = Path(sys.executable).with_name("batchflux")
    made = subprocess.run([program], capture_output=True, text=True, check=True, env=words)
    assert {"plain,report", "plain,review"} <= set(made.stdout.split())


def test_init_leads_editors_to_the_schema_and_overwrites_nothing(tmp_path: Path) -> None:
    assert batchflux("init", "a.yaml", cwd=tmp_path).returncode == 0
    first = (tmp_path / "a.yaml").read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=batchflux.schema.json"
    known = json.loads((tmp_path / "batchflux.schema.json").read_text())
    assert known == json.loads(batchflux("schema").stdout)
    (tmp_path / "batchflux.schema.json").write_text("mine")
    assert batchflux("init", "b.yaml", cwd=tmp_path).returncode == 0
    assert (tmp_path / "batchflux.schema.json").read_text() == "mine"


def faults(data: Any) -> Sequence[Any]:
    known = schema(capabilities())
    jsonschema.Draft202012Validator.check_schema(known)
    return list(jsonschema.Draft202012Validator(known).iter_errors(data))


def test_editors_find_no_fault_in_manifests_that_run() -> None:
    for path in [*(ROOT / "jobs").glob("*.yaml"), ROOT / "batchflux/manifest/starter.yaml"]:
        assert not faults(Core(path.read_text(encoding="utf-8")).get_single_data()), path.name


@pytest.mark.parametrize(
    ("part", "right"),
    [
        ({"defaults": {"output_format": "jpge"}}, False),
        ({"defaults": {"output_format": "JPG"}}, True),
        ({"defaults": {"output_format": "{{ format }}"}}, True),
        ({"defaults": {"style": "chatty"}}, False),
        ({"provider": {"name": "bfl", "options": {"steps": 20}}}, True),
        ({"provider": {"name": "bfl", "options": {"stepz": 20}}}, False),
        ({"provider": {"name": "mine", "api": "bfl", "options": {"steps": 99}}}, False),
        ({"provider": {"name": "simulator", "options": {"latency": 1}}}, True),
    ],
)
def test_editors_know_words_and_each_apis_options(part: dict[str, Any], *, right: bool) -> None:
    assert (not faults({"version": 1, **part, "jobs": [{"prompt": "x"}]})) is right
