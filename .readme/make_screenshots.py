"""Make the README's pictures of the report and the review: python .readme/make_screenshots.py.

Runs `jobs/products.yaml` anew in a temporary folder, once as it is and once with three takes of each picture,
and judges some of them. Needs chromium and playwright.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from playwright.sync_api import Page, sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
MANIFEST = "jobs/products.yaml"
TAKES = {  # what makes three takes of each
    "scene: [marble, oak, linen]": "scene: [marble, oak, linen]\n      variant: {range: [1, 3]}",
    "{{ scene }}.{{ ext }}": "{{ scene }}-{{ variant }}.{{ ext }}",
    '"{{ sku }}-{{ scene }}"': '"{{ sku }}-{{ scene }}-{{ variant }}"',
}
NAMED = {"name": "batchflux_page", "value": '{"reviewer":"Ann"}'}
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
        with review(page, out) as address:
            page.goto(address)
            page.wait_for_selector(".tile img")
            judge(page)
            page.screenshot(path=HERE / "review.jpg", type="jpeg", quality=85)
        takes = Path(shutil.copytree(Path(MANIFEST).parent, Path(place) / "jobs")) / "products.yaml"
        text = takes.read_text(encoding="utf-8")
        for one, three in TAKES.items():
            text = text.replace(one, three)
        takes.write_text(text, encoding="utf-8")
        subprocess.run(batchflux("run", takes, "--out", out.with_name("takes"), "--quiet"), check=True)  # noqa: S603  our own program
        with review(page, out.with_name("takes")) as address:
            page.goto(f"{address}#view=sheet&rows=reference&cols=tag.scene")
            page.wait_for_selector(".shot img")
            pick(page)
            page.screenshot(path=HERE / "sheet.jpg", type="jpeg", quality=80)
        browser.close()


@contextmanager
def review(page: Page, out: Path) -> Iterator[str]:
    """Serve the review of a folder to somebody who gave their name; yield its address."""
    command = batchflux("review", out)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:  # noqa: S603  our own program
        address = server.stdout.readline().strip() if server.stdout is not None else ""
        page.context.add_cookies([NAMED | {"url": address.partition("?")[0]}])
        yield address
        server.terminate()


def shot(page: Page, address: str, name: str) -> None:
    """Take a picture of a page once its own are there."""
    page.goto(address)
    page.wait_for_selector("html[data-ready]", state="attached")
    page.evaluate("Promise.all([...document.images].map(image => image.decode()))")
    page.screenshot(path=HERE / name, type="jpeg", quality=85)


def judge(page: Page) -> None:
    """Accept one picture, reject one, and open a third with its reference beside it."""
    page.locator("#gallery").focus()
    for key in ("a", "r", "ArrowRight", "ArrowRight", "Space"):
        page.keyboard.press(key)
    page.wait_for_selector("#large .stage img")
    page.keyboard.press("3")
    page.keyboard.press("a")
    page.wait_for_selector("#news button")
    page.keyboard.press("ArrowLeft")
    page.evaluate("document.querySelector('#news').hidePopover()")
    page.wait_for_selector('#large [data-for="verdict-accept"][aria-pressed="true"]')
    page.evaluate("Promise.all([...document.querySelectorAll('#large img')].map(image => image.decode()))")


def pick(page: Page) -> None:
    """Pick one of the takes of some cells, and ask for another of one."""
    for name in ("CUP-104-marble-2", "CUP-104-oak-1", "DAH-220-linen-3"):
        page.locator(".shot", has=page.get_by_role("button", name=f"Open {name}:")).locator(".open").focus()
        page.keyboard.press("p")
        page.wait_for_selector(f"#news p:has-text('{name}')")
    page.wait_for_selector("#header dd:text-is('3')")
    page.evaluate("document.querySelector('#news').hidePopover(); scrollTo(0, 0)")
    page.evaluate("Promise.all([...document.images].map(image => image.decode()))")


if __name__ == "__main__":
    main()
