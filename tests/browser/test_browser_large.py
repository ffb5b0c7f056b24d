"""One picture large: its row, its references, the slider, and pictures that are not there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import ROOT, drawn, reloaded, serving
from tests.browser.test_browser_report import state

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.browser.conftest import Made, Opener, Reviewed


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
    drawn(images)
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
    drawn(page.locator(".pair img"))
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


def test_several_references_stand_beside_and_remote_ones_are_links_that_nobody_follows(
    opened: Opener, report_of: Callable[[Path], Made], filled: Callable[..., Path], tmp_path: Path
) -> None:
    sources = [
        "photos/dahlia.jpg",
        "https://example.org/cup.jpg?X-Amz-Signature=c0ffeec0ffeec0ffee",
        "photos/rocket-print.jpg",
    ]

    def refer(_number: int, _row: dict[str, Any], spec: dict[str, Any]) -> None:
        spec["images"] = sources

    meta = (("base", str(ROOT / "jobs")),)
    made = report_of(filled(tmp_path / "many", count=2, failing=0, change=refer, meta=meta))
    page = opened(f"{made.url}#open=job-000000")
    names = page.locator(".stage figcaption")
    expect(names).to_have_text(
        ["Reference · photos/dahlia.jpg", "Reference · photos/rocket-print.jpg", "120 × 80 · images/job-000000.jpg"]  # noqa: RUF001  as typeset
    )
    drawn(page.locator(".stage img"))
    assert page.get_by_role("button", name="Slider").count() == 0
    link = page.locator(".reference-list a")
    expect(link).to_have_text("https://example.org/cup.jpg")
    assert link.get_attribute("rel") == "noopener noreferrer"


def test_how_a_picture_is_shown_is_in_the_address(rich: Made, opened: Opener) -> None:
    edits = [row["id"] for row in rich.rows if row["images"] and row["status"] == "done"]
    page = opened(f"{rich.url}#open={edits[0]}")
    page.get_by_role("button", name="Slider").click()
    slider = page.get_by_role("slider")
    slider.wait_for()
    assert state(page) == {"open": edits[0], "mode": "slider"}
    reloaded(page)
    slider.wait_for()
    page.keyboard.press("1")
    expect(slider).to_have_count(0)
    page.keyboard.press("Escape")
    expect(page).to_have_url(f"{rich.url}#")
    page.locator(".tile", has_text=edits[1]).click()
    page.get_by_role("dialog").get_by_role("heading", name=edits[1]).wait_for()
    assert state(page) == {"open": edits[1], "mode": "picture"}
    assert page.locator(".stage img").count() == 1


def test_references_stand_beside_a_picture_that_failed_or_is_missing(
    opened: Opener, report_of: Callable[[Path], Made], filled: Callable[..., Path], tmp_path: Path
) -> None:
    def refer(_number: int, _row: dict[str, Any], spec: dict[str, Any]) -> None:
        spec["images"] = ["photos/dahlia.jpg"]

    meta = (("base", str(ROOT / "jobs")),)
    folder = filled(tmp_path / "out", count=4, failing=4, change=refer, meta=meta)
    (folder / "images/job-000001.jpg").unlink()
    page = opened(f"{report_of(folder).url}#open=job-000003")
    stage = page.locator(".stage")
    expect(stage).to_contain_text("Failed: ")
    expect(stage.get_by_role("img", name="Reference: photos/dahlia.jpg")).to_be_visible()
    page.goto(f"{page.url.partition('#')[0]}#open=job-000001")
    expect(stage).to_contain_text("The picture's file is missing")
    expect(stage.get_by_role("img")).to_have_count(1)
    expect(page.get_by_role("button", name="Slider")).to_have_count(0)


@pytest.mark.parametrize(("opens", "drawn_by"), [(("Home", "Enter"), "#large .panel"), (("Control+a", "c"), ".side")])
def test_a_key_pressed_before_the_picture_is_drawn_is_for_it(
    reviewed: Reviewed, opened: Opener, opens: tuple[str, ...], drawn_by: str
) -> None:
    """Its fields are unpacked some time after it was opened: a form lies above it then, too, and Escape closes it."""
    page = opened(reviewed.url)
    unpack = page.evaluate_handle(
        """() => {
            const json = Response.prototype.json;
            const gate = Promise.withResolvers();
            Response.prototype.json = async function () {
                await gate.promise;
                return json.call(this);
            };
            return gate;
        }"""
    )
    page.locator("#gallery").focus()
    for key in (*opens, "Escape", *opens, "e"):
        page.keyboard.press(key)
    expect(page.locator("#redo-prompt")).to_be_focused()
    assert page.locator(drawn_by).count() == 0
    unpack.evaluate("gate => gate.resolve()")
    page.locator(drawn_by).first.wait_for()
    expect(page.locator("#redo-prompt")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#redo")).to_be_hidden()
    expect(page.locator(drawn_by).first).to_be_visible()


def test_a_picture_that_is_missing_is_not_asked_for_again(
    opened: Opener, filled: Callable[..., Path], tmp_path: Path
) -> None:
    def refer(_number: int, _row: dict[str, Any], spec: dict[str, Any]) -> None:
        spec["images"] = ["photos/dahlia.jpg"]

    meta = (("base", str(ROOT / "jobs")),)
    folder = filled(tmp_path / "out", count=3, failing=0, change=refer, meta=meta)
    asked: list[int] = []
    with serving(tmp_path) as url:
        page = opened(f"{url}#mode=slider&open=job-000000")
        heading = page.get_by_role("dialog").locator(".top h2")
        expect(page.get_by_role("slider")).to_be_visible()
        (folder / "images/job-000002.jpg").unlink()
        for key, name in (("Right", "1"), ("Right", "2"), ("Left", "1"), ("Left", "0"), ("Right", "1"), ("Right", "2")):
            page.keyboard.press(f"Arrow{key}")
            expect(heading).to_have_text(f"job-00000{name}")
            if name == "2":  # whoever leaves before the answer asks again, and so does what is drawn anew before it
                expect(page.locator(".stage")).to_contain_text("Preview only, the file is missing")
                asked.append(sum(one.endswith("/images/job-000002.jpg") for one in opened.asked))
        expect(page.locator(".stage img")).to_have_count(2)  # with the reference
        page.context.close()
    assert 1 <= asked[0] == asked[1]
    assert [line.partition(" (")[0][-3:] for line in opened.said] == ["404"] * asked[0]
    opened.said.clear()


def test_other_makings_are_found_whatever_their_ids(
    opened: Opener, report_of: Callable[[Path], Made], filled: Callable[..., Path], tmp_path: Path
) -> None:
    ids = ["mug", "mug-redo1", "mug-redo1-347fa2a9", "mug-redo2"]

    def rename(number: int, row: dict[str, Any], _spec: dict[str, Any]) -> None:
        # The second is a job of its own that had the name first.
        row.update(id=ids[number], position=1 if number == 1 else 0)

    page = opened(f"{report_of(filled(tmp_path / 'out', count=4, failing=0, change=rename)).url}#open=mug")
    others = page.locator(".panel section", has=page.get_by_role("heading", name="Other makings")).get_by_role("button")
    expect(others).to_have_text(["mug-redo1-347fa2a9", "mug-redo2"])
    others.first.click()
    expect(page.locator(".top h2")).to_have_text("mug-redo1-347fa2a9")
    expect(others).to_have_text(["mug", "mug-redo2"])
