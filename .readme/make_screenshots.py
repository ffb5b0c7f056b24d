"""Make the README's pictures of the report and the review: python .readme/make_screenshots.py.

Runs `jobs/products.yaml` anew in a temporary folder and judges some of its pictures. Needs chromium and playwright.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).parent
MANIFEST = "jobs/products.yaml"
FLAGS = ("--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync")


def batchflux(*arguments: str | Path) -> list[str]:
    """Return the command line of the program."""
    return [sys.executable, "-u", "-m", "batchflux", *map(str, arguments)]


def main() -> None:
    """Take the pictures."""
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        out = Path(place) / "products"
        subprocess.run(batchflux("run", MANIFEST, "--out", out, "--quiet"), check=True)  # noqa: S603  our own program
        subprocess.run(batchflux("report", out), check=True)  # noqa: S603  our own program
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(FLAGS))
        page = browser.new_page(viewport={"width": 1280, "height": 800}, locale="en-GB")
        shot(page, (out / "report.html").as_uri(), "report.jpg")
        review = batchflux("review", out)
        with subprocess.Popen(review, stdout=subprocess.PIPE, text=True) as server:  # noqa: S603  our own program
            address = server.stdout.readline().strip() if server.stdout is not None else ""
            page.goto(address)
            page.wait_for_selector(".tile img")
            judge(page)
            page.screenshot(path=HERE / "review.jpg", type="jpeg", quality=85)
            server.terminate()
        browser.close()


def shot(page: Page, address: str, name: str) -> None:
    """Take a picture of a page once its own are there."""
    page.goto(address)
    page.wait_for_selector("html[data-ready]", state="attached")
    page.evaluate("Promise.all([...document.images].map(image => image.decode()))")
    page.screenshot(path=HERE / name, type="jpeg", quality=85)


def judge(page: Page) -> None:
    """Accept one picture, reject one, and open a third with its reference beside it."""
    page.locator("#gallery").focus()
    for key in ("a", "ArrowRight", "r", "ArrowRight", "ArrowRight", "Space"):
        page.keyboard.press(key)
    page.wait_for_selector("#large .stage img")
    page.keyboard.press("3")
    page.keyboard.press("a")
    page.wait_for_selector('#large [data-for="verdict-accept"][aria-pressed="true"]')
    page.evaluate("Promise.all([...document.querySelectorAll('#large img')].map(image => image.decode()))")


if __name__ == "__main__":
    main()
