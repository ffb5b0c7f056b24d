"""The charts' numbers, against the same numbers worked out here from results.csv."""

from __future__ import annotations

import math
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import Page

    from tests.browser.conftest import Made, Opener


def table(page: Page, name: str) -> list[list[str]]:
    chart = page.locator(f'[data-chart="{name}"]')
    chart.locator("summary").click()
    rows = chart.locator("tbody tr")
    return [rows.nth(k).locator("th, td").all_inner_texts() for k in range(rows.count())]


def ended(row: dict[str, str]) -> float:
    return datetime.fromisoformat(row["finished_at"]).timestamp()


def rank(values: list[float], percent: int) -> float:
    """Return the percentile by nearest rank."""
    return sorted(values)[math.ceil(percent / 100 * len(values)) - 1]


def test_the_charts_say_what_results_say(rich: Made, opened: Opener) -> None:
    page = opened(f"{rich.url}#view=charts")
    images_per_minute(page, rich)
    latency_percentiles_and_distribution(page, rich)
    spend_over_time_ends_at_what_was_spent_and_knows_the_budget(page, rich)
    failures_by_code(page, rich)


def images_per_minute(page: Page, rich: Made) -> None:
    rows = table(page, "speed")
    times = Counter(math.floor(ended(row)) for row in rich.rows if row["status"] == "done")
    first, last = min(times), max(times)  # the run takes seconds, so a bar is one second
    clock = [datetime.fromtimestamp(second, UTC).strftime("%H:%M:%S") for second in range(first, last + 1)]
    assert [row[0] for row in rows] == clock
    assert [int(row[1]) for row in rows] == [times[second] for second in range(first, last + 1)]
    assert [row[2].replace(",", "") for row in rows] == [str(times[second] * 60) for second in range(first, last + 1)]
    bars = page.locator('[data-chart="speed"] rect')
    heights = [float(value) for value in bars.evaluate_all("all => all.map(one => one.getAttribute('height'))")]
    counts = [times[second] for second in range(first, last + 1) if times[second]]
    assert [round(height / heights[0], 3) for height in heights] == [round(count / counts[0], 3) for count in counts]


def latency_percentiles_and_distribution(page: Page, rich: Made) -> None:
    rows = table(page, "latency")
    seconds = [float(row["api_seconds"]) for row in rich.rows if row["api_seconds"]]
    assert rows[:3] == [[f"p{p}", f"{rank(seconds, p):.3f} s"] for p in (50, 95, 99)]
    counts = [int(count) for _, count in rows[3:]]
    assert sum(counts) == len(seconds)
    width = float(rows[3][0].split(" to ")[1].removesuffix(" s"))
    expected = Counter(math.floor(value / width + 1e-9) for value in seconds)
    assert counts == [expected[k] for k in range(max(expected) + 1)]


def spend_over_time_ends_at_what_was_spent_and_knows_the_budget(page: Page, rich: Made) -> None:
    rows = table(page, "spend")
    spent = float(rich.summary["spent"])
    sums = [float(row[1].replace(",", "")) for row in rows]
    assert sums == sorted(sums)
    assert math.isclose(sums[-1], spent)
    says = page.locator('[data-chart="spend"] .says').inner_text()
    assert says == f"{spent:.2f} CNY spent; of a budget of 20.00 CNY, {spent / 20 * 100:.1f} %.".replace(".0 %", " %")
    assert page.locator('[data-chart="spend"] .limit').count() == 1


def failures_by_code(page: Page, rich: Made) -> None:
    chart = page.locator('[data-chart="failures"]')
    codes = chart.locator(".legend li").all_inner_texts()
    assert sorted(codes) == sorted(rich.summary["failures"])
    rows = table(page, "failures")
    sums = [sum(int(row[1 + k]) for row in rows) for k in range(len(codes))]
    assert dict(zip(codes, sums, strict=True)) == rich.summary["failures"]
    assert chart.locator("svg[role=img]").get_attribute("aria-label") == (
        f"Failures by code. {chart.locator('.says').inner_text()}"
    )


def test_the_time_between_the_parts_of_a_run_is_left_out(
    opened: Opener, report_of: Callable[[Path], Made], filled: Callable[..., Path], tmp_path: Path
) -> None:
    def next_day(number: int, row: dict[str, Any], _spec: dict[str, Any]) -> None:
        if number >= 60:
            row["started_at"] += 86_400
            row["finished_at"] += 86_400

    made = report_of(filled(tmp_path / "days", count=100, failing=0, change=next_day))
    page = opened(f"{made.url}#view=charts")
    assert "in 2 parts; the time between them is left out" in page.locator('[data-chart="speed"] .says').inner_text()
    assert page.locator('[data-chart="speed"] .cut').count() == 1
    rows = table(page, "speed")
    assert len(rows) <= 60
    assert sum(int(row[1]) for row in rows) == 100
    spend = table(page, "spend")
    assert spend[-1][1] == "14.00"


def test_a_latency_on_an_edge_is_in_the_bin_that_begins_there(
    opened: Opener, report_of: Callable[[Path], Made], filled: Callable[..., Path], tmp_path: Path
) -> None:
    seconds = (0.15, 0.3, 0.6, 1.0)  # the first three are a little less than 3, 6 and 12 times 0.05

    def take(number: int, row: dict[str, Any], _spec: dict[str, Any]) -> None:
        row["api_seconds"] = seconds[number]

    made = report_of(filled(tmp_path / "edges", count=4, failing=0, change=take))
    rows = table(opened(f"{made.url}#view=charts"), "latency")[3:]
    assert [says for says, count in rows if count == "1"] == [
        "0.15 to 0.2 s",
        "0.3 to 0.35 s",
        "0.6 to 0.65 s",
        "1 to 1.05 s",
    ]


def test_a_folder_without_money_or_failures_says_so(
    opened: Opener, report_of: Callable[[Path], Made], filled: Callable[..., Path], tmp_path: Path
) -> None:
    def free(_number: int, row: dict[str, Any], _spec: dict[str, Any]) -> None:
        row["cost"] = 0

    page = opened(f"{report_of(filled(tmp_path / 'free', count=5, failing=0, change=free)).url}#view=charts")
    assert page.locator('[data-chart="spend"] .says').inner_text() == "Nothing has been spent."
    assert page.locator('[data-chart="failures"] .says').inner_text() == "No job has failed."
