"""The report as a person uses it: from disk, without a server, with mouse and keyboard."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import batchflux, drawn, reloaded

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import Page

    from tests.browser.conftest import Made, Opener


def state(page: Page) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(page.evaluate("location.hash").removeprefix("#")).items()}


def ids(page: Page) -> list[str]:
    return page.locator(".tile .caption b").all_inner_texts()


def figures(page: Page) -> dict[str, str]:
    names = page.locator("#header dt").all_inner_texts()
    return dict(zip(names, page.locator("#header dd").all_inner_texts(), strict=True))


def test_opens_from_disk_and_says_how_the_run_stands(rich: Made, opened: Opener) -> None:
    page = opened(rich.url)
    jobs = rich.summary["jobs"]
    assert page.locator("h1").inner_text() == "rich"
    said = figures(page)
    assert said["Pictures"] == f"{jobs['done']} of {jobs['total']}"
    assert said["Failed"] == str(jobs["failed"])
    assert said["Spent"].startswith(f"{float(rich.summary['spent']):.2f} CNY of 20.00")
    assert said["Attempts"].startswith(str(rich.summary["attempts"]))
    made = rich.summary["this_run"]
    assert said["Made"] == f"{made['done']} {made['failed']} failed"
    assert said["Cost"] == f"{float(rich.summary['spent_this_run']):.2f} CNY"
    assert re.search(r"\d\d:\d\d:\d\d \u2013 .*\d\d:\d\d:\d\d", page.locator("#header .state").nth(1).inner_text())
    codes = page.locator(".failures button").all_inner_texts()
    assert codes == [f"{code} {count}" for code, count in rich.summary["failures"].items()]
    assert all(url.startswith(("file://", "data:")) for url in opened.asked)


def test_every_job_has_a_tile_and_every_picture_its_prompt_as_text(rich: Made, opened: Opener) -> None:
    page = opened(rich.url, height=4000)
    assert ids(page) == [row["id"] for row in rich.rows]
    drawn(page.locator(".tile img"))
    done = [row for row in rich.rows if row["status"] == "done"]
    assert page.locator(".tile img").evaluate_all("all => all.map(one => one.alt)") == [row["prompt"] for row in done]
    assert page.locator(".tile.failed").count() == rich.summary["jobs"]["failed"]


def test_filters_live_in_the_url(rich: Made, opened: Opener) -> None:
    page = opened(rich.url, height=4000)
    page.get_by_role("group", name="Status").get_by_role("button", name="Failed").click()
    assert state(page) == {"status": "failed"}
    assert ids(page) == [row["id"] for row in rich.rows if row["status"] == "failed"]
    page.get_by_role("button", name="Clear filters").click()
    page.get_by_label("Ratio").select_option("16:9")
    page.get_by_label("Seed").select_option("3")
    page.get_by_label("light").select_option("at night")
    page.get_by_label("Search prompts").fill("FOX snow")
    page.wait_for_url(re.compile("q="))
    wanted = {"ratio": "16:9", "seed": "3", "tag.light": "at night", "q": "FOX snow"}
    assert state(page) == wanted
    expected = [
        row["id"]
        for row in rich.rows
        if (row["aspect_ratio"], row["seed"], row["tags.light"]) == ("16:9", "3", "at night") and "fox" in row["prompt"]
    ]
    assert len(expected) == 1
    assert ids(page) == expected
    reloaded(page)
    assert state(page) == wanted
    assert ids(page) == expected
    assert page.get_by_label("Ratio").input_value() == "16:9"
    assert page.get_by_label("Search prompts").input_value() == "FOX snow"


def test_a_link_with_a_filter_shows_just_that(rich: Made, opened: Opener) -> None:
    code, last = next(iter(rich.summary["failures"])), rich.rows[-1]
    for name, column, value in (
        ("code", "error_code", code),
        ("style", "style", last["style"]),
        ("model", "model", last["model"]),
    ):
        page = opened(f"{rich.url}#{name}={value}", height=4000)
        assert ids(page) == [row["id"] for row in rich.rows if row[column] == value]
    page.get_by_label("Seed").select_option("(none)")  # jobs without a value can be asked for, too
    assert ids(page) == [row["id"] for row in rich.rows if row["model"] == last["model"] and row["seed"] == ""]
    page.get_by_label("Search prompts").fill("nowhere")
    expect(page.locator("#empty")).to_have_text("No picture passes these filters.")
    expect(page.locator("#count")).to_have_text("0 of 44 jobs")


def test_sorts(rich: Made, opened: Opener) -> None:
    page = opened(rich.url, height=4000)
    page.get_by_label("Sort").select_option("Newest first")
    newest = sorted(rich.rows, key=lambda row: row["finished_at"], reverse=True)
    found = {row["id"]: row["finished_at"] for row in rich.rows}
    assert [found[name] for name in ids(page)] == [row["finished_at"] for row in newest]
    page.get_by_label("Sort").select_option("Slowest first")
    seconds = {row["id"]: float(row["api_seconds"] or -1) for row in rich.rows}
    assert [seconds[name] for name in ids(page)] == sorted(seconds.values(), reverse=True)


def test_groups_by_prompt_reference_and_seed_with_ratio(rich: Made, opened: Opener) -> None:
    page = opened(rich.url, height=5000)
    page.get_by_label("Group").select_option("prompt")
    labels = page.locator(".heading .label").all_inner_texts()
    assert labels == list(dict.fromkeys(row["prompt"] for row in rich.rows))
    page.get_by_label("Group").select_option("reference")
    assert page.locator(".heading .label").count() == 1 + len({row["images"] for row in rich.rows if row["images"]})
    assert page.locator(".heading").first.inner_text().split("\n")[0] == "no reference"
    page.get_by_label("Group").select_option("seed_ratio")
    assert page.locator(".heading .label").first.inner_text() == "seed 1, 1:1"
    assert state(page) == {"group": "seed_ratio"}


def test_keys_move_open_close_search_and_explain_themselves(rich: Made, opened: Opener) -> None:
    page = opened(rich.url)
    rows = [row["id"] for row in rich.rows]
    across = int(page.locator("#gallery").get_attribute("aria-colcount") or 0)

    def current() -> str:
        return page.locator(".tile.current .caption b").inner_text()

    page.keyboard.press("ArrowRight")
    assert current() == rows[1]
    page.keyboard.press("ArrowDown")
    assert current() == rows[1 + across]
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    assert current() == rows[0]
    page.keyboard.press("End")
    assert current() == rows[-1]
    page.keyboard.press("Home")
    page.keyboard.press("Space")
    dialog = page.locator("#large")
    dialog.get_by_role("heading", name=rows[0]).wait_for()
    page.keyboard.press("ArrowRight")
    dialog.get_by_role("heading", name=rows[1]).wait_for()
    page.keyboard.press("Space")
    dialog.wait_for(state="hidden")
    assert current() == rows[1]
    page.keyboard.press("/")
    page.keyboard.type("fox?")
    assert page.get_by_label("Search prompts").input_value() == "fox?"  # keys that write are not commands
    page.get_by_label("Search prompts").fill("")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    keys = page.get_by_role("dialog", name="Keys")
    keys.wait_for()
    assert {"/", "?", "Space, Enter"} <= set(keys.locator("kbd").all_inner_texts())
    page.keyboard.press("Escape")
    keys.wait_for(state="hidden")


@pytest.mark.parametrize("closing", [" ", "Escape"])
def test_a_key_pressed_right_behind_closing_finds_the_picture_closed(rich: Made, opened: Opener, closing: str) -> None:
    page = opened(f"{rich.url}#open={rich.rows[1]['id']}")
    page.get_by_role("dialog").get_by_role("heading", name=rich.rows[1]["id"]).wait_for()
    page.evaluate(
        """async closing => {
            const press = key => document.activeElement.dispatchEvent(new KeyboardEvent("keydown",
                {key, bubbles: true, cancelable: true}));
            if (closing === "Escape") document.querySelector("#large").dispatchEvent(new Event("cancel"));
            else press(closing);
            press("/");
            await new Promise(done => setTimeout(done, 50));  // by now the dialog's own event of closing has come
        }""",
        closing,
    )
    assert page.evaluate("document.activeElement.id") == "search"
    assert state(page) == {}


COMPARED = """
version: 1
name: compared
providers:
  relay: {api: flux-relay, base_url: simulator, model: flux-kontext-pro, price: 0.02, currency: CNY}
  bfl: {api: bfl, base_url: simulator, model: flux-kontext-max, price: 0.08, currency: CNY}
jobs:
  - prompt: "{{ thing }}"
    matrix: {thing: [cup, bowl], seed: [1, 2], provider: [relay, bfl]}
"""


@pytest.mark.slow
def test_the_contact_sheet_compares_providers(
    tmp_path: Path, report_of: Callable[[Path], Made], opened: Opener
) -> None:
    (tmp_path / "compared.yaml").write_text(COMPARED, encoding="utf-8")
    batchflux("run", "compared.yaml", "--out", "out", "--quiet", "--yes", cwd=tmp_path, codes=(0,))
    made = report_of(tmp_path / "out")
    page = opened(f"{made.url}#view=sheet")
    assert page.get_by_role("columnheader").all_inner_texts()[1:] == [
        "relay \u00b7 flux-kontext-pro",
        "bfl \u00b7 flux-kontext-max",
    ]
    assert page.get_by_role("rowheader").all_inner_texts() == ["cup", "bowl"]
    said = figures(page)
    assert (said["relay"], said["bfl"]) == ("0.08 CNY \u00b7 4 pictures", "0.32 CNY \u00b7 4 pictures")
    page.get_by_label("Provider", exact=True).select_option("bfl")
    assert state(page)["provider"] == "bfl"
    assert page.get_by_role("cell").get_by_role("button").count() == 4
    assert opened(f"{made.url}?lang=zh#view=sheet").get_by_role("group", name="\u5404\u670d\u52a1\u5546").is_visible()


def test_the_contact_sheet_lays_two_fields_out(rich: Made, opened: Opener) -> None:
    page = opened(f"{rich.url}#view=sheet&rows=prompt&cols=seed&ratio=1:1", height=3000)
    scenes = [row for row in rich.rows if row["aspect_ratio"] == "1:1"]
    assert page.get_by_role("columnheader").all_inner_texts()[1:] == ["1", "2", "3", "4", "5"]
    prompts = list(dict.fromkeys(row["prompt"] for row in scenes))
    assert page.get_by_role("rowheader").all_inner_texts() == prompts
    assert page.get_by_role("cell").count() == len(prompts) * 5
    cell = page.get_by_role("row").nth(2).get_by_role("cell").nth(3)
    wanted = next(row for row in scenes if row["prompt"] == prompts[1] and row["seed"] == "4")
    cell.get_by_role("button").click()
    page.get_by_role("dialog").get_by_role("heading", name=wanted["id"]).wait_for()
    page.keyboard.press("Escape")
    page.get_by_label("Down").select_option("tag.light")
    assert page.get_by_role("rowheader").all_inner_texts() == ["morning light", "at night"]
    assert state(page)["rows"] == "tag.light"
    assert page.get_by_role("row").nth(1).get_by_role("cell").nth(0).get_by_role("button").count() == 2
