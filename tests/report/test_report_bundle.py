"""The page's modules become one script, or it is said why they cannot."""

from __future__ import annotations

import re

import pytest

from batchflux.report.page import ENTRY, join_modules, script

USE = 'import { told } from "./told.js";\n'


def joined(**modules: str) -> str:
    return join_modules("main.js", lambda name: modules[name.removesuffix(".js")])


def test_a_module_stands_behind_those_that_it_imports_and_once() -> None:
    text = joined(
        main=f'// First.\nimport {{\n  one,\n  two,\n}} from "./both.js";\n{USE}\nsay(one, two, told);\n',
        both=f"{USE}\nexport const one = told;\nexport async function two() {{}}\n",
        told="export let told = 1;\n",
    )
    assert text.count("let told = 1;") == 1
    assert text.index("let told") < text.index("const one = told;") < text.index("say(one, two, told);")
    assert re.search(r"\b(import|export)\b", text) is None
    assert "async function two()" in text


@pytest.mark.parametrize(
    ("modules", "says"),
    [
        ({"main": USE, "told": 'import { x } from "./main.js";\nexport let told;\n'}, "main.js -> told.js -> main.js"),
        ({"main": f"{USE}const told = 1;\n", "told": "export let told;\n"}, "both declare told"),
        ({"main": 'import { a as b } from "./told.js";\n', "told": ""}, "cannot be joined"),
        ({"main": 'import a, { b } from "./told.js";\n'}, "cannot be joined"),
        ({"main": 'import * as told from "./told.js";\n'}, "cannot be joined"),
        ({"main": "export default 1;\n"}, "cannot be joined"),
        ({"main": "export { a };\n"}, "cannot be joined"),
        ({"main": "const { a } = window;\n"}, "cannot be joined"),
        ({"main": "var a;\n"}, "cannot be joined"),
    ],
)
def test_what_cannot_be_joined_is_said_so(modules: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        joined(**modules)


def test_the_pages_own_modules_can_be_joined() -> None:
    assert ENTRY == "main.js"
    assert re.search(r"^(import|export) ", script(), re.MULTILINE) is None
