"""The report as a person uses it: from disk, without a server, with mouse and keyboard."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import expect

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import Page

    from tests.browser.conftest import Made, Opener


def state(page: Page) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).fragment).items()}


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
    codes = page.locator(".failures button").all_inner_texts()
    assert codes == [f"{code} {count}" for code, count in rich.summary["failures"].items()]
    assert all(url.startswith(("file://", "data:")) for url in opened.asked)


def test_every_job_has_a_tile_and_every_picture_its_prompt_as_text(rich: Made, opened: Opener) -> None:
    page = opened(rich.url, height=4000)
    assert ids(page) == [row["id"] for row in rich.rows]
    page.evaluate("Promise.all([...document.querySelectorAll('.tile img')].map(image => image.decode()))")
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
    page.reload()
    page.wait_for_selector("html[data-ready]", state="attached")
    assert state(page) == wanted
    assert ids(page) == expected
    assert page.get_by_label("Ratio").input_value() == "16:9"
    assert page.get_by_label("Search prompts").input_value() == "FOX snow"


@pytest.mark.parametrize("name", ["code", "style", "model"])
def test_a_link_with_a_filter_shows_just_that(name: str, rich: Made, opened: Opener) -> None:
    column = {"code": "error_code"}.get(name, name)
    value = rich.rows[-1][column] if name != "code" else next(iter(rich.summary["failures"]))
    page = opened(f"{rich.url}#{name}={value}", height=4000)
    assert ids(page) == [row["id"] for row in rich.rows if row[column] == value]


def test_jobs_without_a_value_can_be_asked_for(rich: Made, opened: Opener) -> None:
    page = opened(rich.url, height=4000)
    page.get_by_label("Seed").select_option("(none)")
    assert ids(page) == [row["id"] for row in rich.rows if row["seed"] == ""]


def test_a_filter_that_nothing_passes_says_so(rich: Made, opened: Opener) -> None:
    page = opened(f"{rich.url}#seed=999&q=nowhere")
    assert page.locator("#empty").inner_text() == "No picture passes these filters."
    assert page.locator("#count").inner_text() == "0 of 44 jobs"


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


def test_a_picture_opens_large_with_every_field_of_its_row(rich: Made, opened: Opener) -> None:
    page = opened(rich.url)
    row = next(row for row in rich.rows if row["images"] and row["status"] == "done")
    page.get_by_label("Search prompts").fill(row["id"])
    expect(page.locator("#count")).to_have_text("1 of 44 jobs")
    page.locator(".tile").first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("heading", name=row["id"]).wait_for()
    assert state(page)["open"] == row["id"]
    shown = {
        name: dialog.locator(f'[data-field="{name}"]') for name in row if name not in {"width", "height", "prompt"}
    }
    for name, value in row.items():
        if not value or name.startswith("tags.") or name not in shown:
            continue
        text = shown[name].inner_text()
        plain = text.replace(",", "").removesuffix(" CNY").removesuffix(" bytes").removesuffix(" s")
        same = (
            float(plain) == float(value) if name in {"cost", "bytes"} else text in (value, f"{value} s", value.title())
        )
        assert same, (name, text, value)
    assert dialog.locator('[data-field="size"]').inner_text() == f"{row['width']} × {row['height']} px"  # noqa: RUF001  as typeset
    assert dialog.locator(".prompt").inner_text() == row["prompt"]
    assert dialog.locator("dd", has_text="edit").count() == 1
    images = dialog.locator(".stage img")
    images.last.evaluate("async image => { await image.decode() }")
    assert images.evaluate_all("all => all.map(one => one.naturalWidth > 0)") == [True, True]
    assert images.nth(0).get_attribute("alt") == f"Reference: {row['images']}"
    assert images.nth(1).get_attribute("alt") == row["prompt"]
    page.go_back()
    dialog.wait_for(state="hidden")
    assert "open" not in state(page)


def test_a_slow_click_right_after_a_search_opens_the_picture(rich: Made, opened: Opener) -> None:
    page = opened(rich.url)
    page.get_by_label("Search prompts").fill("fox")
    expect(page.locator("#count")).to_have_text("20 of 44 jobs")
    box = page.locator(".tile").first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.mouse.down()  # takes the focus from the search, which is a reason to build the controls anew
    for _ in range(5):
        page.evaluate("new Promise(done => requestAnimationFrame(done))")
    page.mouse.up()
    expect(page.locator("#large .panel")).to_be_visible()


def test_the_slider_moves_by_keyboard_and_by_mouse(rich: Made, opened: Opener) -> None:
    row = next(row for row in rich.rows if row["images"] and row["status"] == "done")
    page = opened(f"{rich.url}#open={row['id']}")
    page.keyboard.press("3")
    slider = page.get_by_role("slider", name="Edge between the reference and the picture")
    slider.focus()
    assert slider.input_value() == "50"
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
    assert slider.input_value() == "45"
    assert (
        page.locator(".pair .after").evaluate("image => getComputedStyle(image).clipPath") == "inset(0px 0px 0px 45%)"
    )
    assert state(page)["open"] == row["id"]  # the arrows moved the edge, not the picture
    page.keyboard.press("End")
    assert (
        page.locator(".pair .after").evaluate("image => getComputedStyle(image).clipPath") == "inset(0px 0px 0px 100%)"
    )
    box = slider.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] * 0.25, box["y"] + 40)
    assert 20 <= int(slider.input_value()) <= 30
    assert "reference up to" in (slider.get_attribute("aria-valuetext") or "")


def test_the_slider_is_for_one_reference_only(rich: Made, opened: Opener) -> None:
    row = next(row for row in rich.rows if not row["images"] and row["status"] == "done")
    page = opened(f"{rich.url}#open={row['id']}")
    page.locator(".stage img").wait_for()
    assert page.get_by_role("group", name="How to show it").count() == 0
    page.keyboard.press("3")
    assert page.get_by_role("slider").count() == 0


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


def test_missing_and_damaged_pictures_are_said_so_and_stop_nothing(
    opened: Opener, report_of: Callable[[Path], Made], filled: Callable[..., Path], tmp_path: Path
) -> None:
    folder = filled(tmp_path / "broken", count=12, failing=0)
    (folder / "images/job-000002.jpg").unlink()
    (folder / "images/job-000003.jpg").unlink()
    (folder / "images/job-000003.jpg").write_bytes(b"\xff\xd8\xff\xe0 broken")
    made = report_of(folder)
    page = opened(made.url)
    assert page.locator(".tile", has_text="No preview").locator("b").all_inner_texts()[1::2] == [
        "job-000002",
        "job-000003",
    ]
    assert page.locator(".tile img").count() == 10
    page.locator(".tile").nth(2).click()
    page.get_by_role("dialog").get_by_text("The picture's file is missing").wait_for()
