"""What pictures say of their origin, in a real browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from batchflux.provenance import marked
from batchflux.report.report import write_report
from tests.exports.folders import folder, job, put
from tests.provenance.pictures import about, picture, signed

if TYPE_CHECKING:
    from pathlib import Path

    from tests.browser.conftest import Opener


@pytest.mark.slow
def test_a_report_says_it_in_its_header_and_beside_each_picture(tmp_path: Path, opened: Opener) -> None:
    out = folder(tmp_path / "out", map(job, range(3)), side=400)
    put(out, "images/j1.jpg", signed("jpeg"))
    put(out, "images/j2.jpg", marked(picture("jpeg"), ("iptc",), about()).data)
    write_report(out)
    page = opened(f"file://{out}/report.html")
    group = page.get_by_role("group", name="Provenance")
    expect(group).to_contain_text("Signed by the provider (C2PA)")
    expect(group.locator(".figure")).to_have_count(2)
    for place, said in ((1, "Signed by the provider (C2PA)"), (2, "IPTC source type")):
        page.locator(".tile").nth(place).click()
        expect(page.locator("#large [data-field=carries]")).to_have_text(said)
        page.keyboard.press("Escape")
    page.goto(f"file://{out}/report.html?lang=zh")
    expect(page.get_by_role("group", name="来源标识")).to_contain_text("服务商签名（C2PA）")  # noqa: RUF001  as typeset
