"""Who is not let in: each way in is tried by itself, with everything else as it should be."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from aiohttp import ClientSession, CookieJar

from batchflux.review.listen import serve
from tests.review.conftest import Folder, Page, opened

if TYPE_CHECKING:
    from pathlib import Path

PLACES = ["/", "/api/rows", "/api/events", "/images/mug.png", "/thumbs/x.jpg", "/thumbs/references/x.jpg", "/nowhere"]


async def status(page: Page, path: str = "/", **headers: str) -> tuple[int, str]:
    async with page.get(path, headers=headers) as response:
        return response.status, (await response.read())[:2000].decode(errors="replace")


async def verdict(page: Page, folder: Folder, **headers: str | None) -> tuple[int, str]:
    """Post a sound verdict with some headers changed (None: left out); return status and error."""
    job = await folder.add("mug")
    sent = {name: value for name, value in (page.headers | headers).items() if value is not None}
    async with page.post({"keys": [job.key], "review": "accept"}, sent) as response:
        return response.status, (await response.json()).get("error", "")


async def raw(page: Page, request: str) -> str:
    """Send a request as it stands, and return the first line and the body of the answer."""
    where = urlsplit(page.base)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    writer.write(request.replace("\n", "\r\n").encode(errors="surrogateescape"))
    answer = (await asyncio.wait_for(reader.read(), 30)).decode(errors="replace")
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.fixture
def cookie(page: Page) -> str:
    return "; ".join(f"{found.key}={found.value}" for found in page.session.cookie_jar)


async def test_the_address_with_the_token_lets_in(page: Page, folder: Folder) -> None:
    await folder.add("mug")
    async with page.get(f"/?token={page.token}") as response:
        assert response.status == 200
        assert "a mug" in await response.text()
        set_cookie = response.headers["Set-Cookie"]
    assert all(word in set_cookie for word in ("HttpOnly", "SameSite=Strict", "Path=/"))
    assert page.token not in set_cookie
    assert (await status(page))[0] == 200


@pytest.mark.parametrize("path", PLACES)
async def test_without_the_cookie_nothing_is_given(page: Page, folder: Folder, path: str) -> None:
    await folder.add("mug")
    page.session.cookie_jar.clear()
    code, text = await status(page, path)
    assert code == 403
    assert "address" in text
    assert "a mug" not in text


@pytest.mark.parametrize("token", ["", "x", "é", "%ED%A0%80", "{token}x", "{short}"])
async def test_another_token_lets_nobody_in(page: Page, token: str) -> None:
    page.session.cookie_jar.clear()
    given = token.format(token=page.token, short=page.token[:-1])
    async with page.get(f"/?token={given}") as response:
        assert response.status == 403
        assert "Set-Cookie" not in response.headers


async def test_a_cookie_of_another_review_lets_nobody_in(page: Page, cookie: str) -> None:
    page.session.cookie_jar.clear()
    name, _, value = cookie.partition("=")
    for wrong in (f"{name}={page.token}", f"{name}={value[:-1]}", f"{name}=", f"other={value}"):
        assert (await status(page, Cookie=wrong))[0] == 403
    assert (await status(page, Cookie=cookie))[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "localhost:1", "", "127.0.0.1.:{port}"]
)
async def test_a_name_that_was_made_to_point_here_is_refused(page: Page, host: str) -> None:
    """DNS rebinding: the browser believes that it talks to the attacker's name, and sends that as Host."""
    port = urlsplit(page.base).port
    name = host.format(port=port)
    for path in ("/", f"/?token={page.token}", "/api/rows"):
        code, text = await status(page, path, Host=name)
        assert code == 403, path
        assert "name" in text


async def test_without_a_host_nothing_is_given(page: Page, cookie: str) -> None:
    answer = await raw(page, f"GET /api/rows HTTP/1.0\nCookie: {cookie}\n\n")
    assert " 403 " in answer.splitlines()[0] + " "


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LocalHost", "[::1]"])
async def test_names_of_this_machine_are_ours(page: Page, cookie: str, host: str) -> None:
    code, _ = await status(page, Host=f"{host}:{urlsplit(page.base).port}", Cookie=cookie)
    assert code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site", "anything"])
@pytest.mark.parametrize("path", ["/", "/?token=", "/api/rows", "/api/events", "/images/mug.png"])
async def test_what_another_site_leads_to_is_refused(page: Page, folder: Folder, path: str, site: str) -> None:
    """Also same-site: that is another port of this machine."""
    await folder.add("mug")
    where = path + page.token if path.endswith("=") else path
    code, text = await status(page, where, **{"Sec-Fetch-Site": site})
    assert code == 403
    assert "Another site" in text


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "", None])
async def test_a_post_of_another_origin_is_refused(page: Page, folder: Folder, origin: str | None) -> None:
    code, error = await verdict(page, folder, Origin=origin)
    assert (code, "other pages" in error) == (403, True)
    assert (await page.rows())["rows"][0]["review"] == ""


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_a_post_from_another_site_is_refused(page: Page, folder: Folder, site: str) -> None:
    assert (await verdict(page, folder, **{"Sec-Fetch-Site": site}))[0] == 403


@pytest.mark.parametrize("token", [None, "", "x"])
async def test_a_post_without_the_pages_token_is_refused(page: Page, folder: Folder, token: str | None) -> None:
    code, error = await verdict(page, folder, **{"X-Batchflux-Token": token})
    assert (code, "token" in error) == (403, True)
    assert (await page.rows())["rows"][0]["review"] == ""


async def test_the_cookie_is_no_token(page: Page, folder: Folder, cookie: str) -> None:
    """Another server of this machine sees our cookie; it can do nothing with it."""
    assert (await verdict(page, folder, **{"X-Batchflux-Token": cookie.partition("=")[2]}))[0] == 403


@pytest.mark.parametrize("place", ["Cookie: {name}=", "Cookie: {cookie}\nX-Batchflux-Token: "])
async def test_a_secret_that_is_no_text_is_refused_like_any_other(page: Page, cookie: str, place: str) -> None:
    """Bytes that are no UTF-8 come as lone surrogates, which must not be what ends the comparison."""
    where = urlsplit(page.base)
    head = f"POST /api/verdicts HTTP/1.1\nHost: {where.netloc}\nOrigin: {page.base}\nConnection: close\n"
    secret = place.format(cookie=cookie, name=cookie.partition("=")[0]) + "\udcff\udcfe"
    answer = await raw(page, f"{head}{secret}\nContent-Length: 0\n\n")
    assert answer.startswith("HTTP/1.1 403 ")


async def test_a_post_needs_no_cookie(page: Page, folder: Folder) -> None:
    page.session.cookie_jar.clear()
    assert (await verdict(page, folder))[0] == 200


async def test_a_post_with_the_token_in_the_address_only_is_refused(page: Page, folder: Folder) -> None:
    """A link or a form may hold an address; a header it cannot set."""
    job = await folder.add("mug")
    headers = {name: value for name, value in page.headers.items() if name != "X-Batchflux-Token"}
    body = json.dumps({"keys": [job.key], "review": "accept"})
    url = f"{page.base}/api/verdicts?token={page.token}"
    async with page.session.post(url, data=body.encode(), headers=headers) as response:
        assert response.status == 403
    assert (await page.rows())["rows"][0]["review"] == ""


@pytest.mark.parametrize("path", ["/", "/api/rows", "/api/events", "/images/mug.png", "/nowhere"])
async def test_a_program_without_cookies_looks_with_the_token(page: Page, folder: Folder, path: str) -> None:
    await folder.add("mug")
    page.session.cookie_jar.clear()
    right = 404 if path == "/nowhere" else 200
    for where, headers in ((f"{path}?token={page.token}", {}), (path, {"X-Batchflux-Token": page.token})):
        async with page.session.get(page.base + where, headers=headers) as response:
            assert response.status == right
            assert "no-store" in response.headers["Cache-Control"] or not urlsplit(where).query
        page.session.cookie_jar.clear()
    for wrong in ("", "x", page.token[:-1]):
        assert (await status(page, f"{path}?token={wrong}"))[0] == 403
        assert (await status(page, path, **{"X-Batchflux-Token": wrong}))[0] == 403


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None])
async def test_a_post_that_a_form_could_send_is_refused(page: Page, folder: Folder, kind: str | None) -> None:
    code, error = await verdict(page, folder, **{"Content-Type": kind or "application/octet-stream"})
    assert (code, "application/json" in error) == (400, True)


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
async def test_the_stream_is_not_for_other_origins(page: Page, origin: str) -> None:
    assert (await status(page, "/api/events", Origin=origin))[0] == 403


async def test_no_answer_may_be_read_from_elsewhere(page: Page, folder: Folder) -> None:
    """No CORS headers, to a preflight neither."""
    await folder.add("mug")
    asked = {"Origin": page.base, "Access-Control-Request-Method": "POST"}
    async with page.session.options(f"{page.base}/api/verdicts", headers=asked) as response:
        assert response.status in {403, 405}
        assert not [name for name in response.headers if name.lower().startswith("access-control")]
    for path in PLACES:
        if path == "/api/events":
            continue
        async with page.get(path) as response:
            assert not [name for name in response.headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize("path", PLACES)
async def test_every_answer_is_wrapped_up(page: Page, folder: Folder, path: str) -> None:
    await folder.add("mug")
    for headers in ({}, {"Host": "evil.example"}):
        async with page.get(path, headers=headers) as response:
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["Referrer-Policy"] == "no-referrer"
            assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"
            policy = response.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "base-uri 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            if response.status != 200 or not path.startswith("/images"):
                assert response.headers["Cache-Control"] == "no-store"
            assert "Server" not in response.headers


async def test_the_page_may_run_its_own_script_only(page: Page, folder: Folder) -> None:
    await folder.add("mug", prompt="</script><script>alert(1)</script>")
    async with page.get("/") as response:
        policy = response.headers["Content-Security-Policy"]
        text = await response.text()
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/]{43}='(;|$)", policy)
    assert re.search(r"style-src 'sha256-[A-Za-z0-9+/]{43}='(;|$)", policy)
    assert "connect-src 'self'" in policy
    assert "img-src 'self' data:" in policy
    assert "<script>alert(1)" not in text
    assert f'name="batchflux-token" content="{page.token}"' in text


async def test_the_token_stands_in_no_log_and_no_file(
    page: Page, folder: Folder, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    job = await folder.add("mug")
    async with opened(page.site) as other:
        await other.judge([job], "redo")
        assert (await status(other))[0] == 200
        await status(other, "/?token=wrong")
        await status(other, "/images/..%2fledger.db")
        for place in ("/", "/api/rows", "/images/mug.png", "/nowhere", "/api/rows?since=x&"):
            await status(other, f"{place}{'' if place.endswith('&') else '?'}token={other.token}")
        for line in (
            "GET /?token={} HTTP/9.x",
            "GET /?token={}",
            "GE/T /?token={} HTTP/1.1",
            "GET /?token={}\x01 x HTTP/1.1",
        ):
            await raw(other, f"{line.format(other.token)}\nHost: {urlsplit(other.base).netloc}\nConnection: close\n\n")
    assert page.token not in caplog.text
    assert page.token not in "".join(capsys.readouterr())
    files = [path for path in folder.root.rglob("*") if path.is_file()]
    assert folder.root / "ledger.db" in files
    for path in files:
        assert page.token.encode() not in path.read_bytes(), path


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/"), ("PUT", "/api/verdicts"), ("GET", "/api/verdicts"), ("DELETE", "/images/mug.png")],
)
async def test_other_methods_do_nothing(page: Page, folder: Folder, method: str, path: str) -> None:
    await folder.add("mug")
    async with page.session.request(method, page.base + path, headers=page.headers) as response:
        assert response.status == 405
    assert (folder.root / "images/mug.png").exists()


async def test_bodies_are_bounded(page: Page, folder: Folder) -> None:
    job = await folder.add("mug")
    async with page.post({"keys": [job.key], "review": "accept", "note": "x" * (8 << 20)}) as response:
        assert response.status == 413
        assert "error" in await response.json()
    assert (await page.rows())["rows"][0]["note"] == ""


async def test_reviews_of_two_folders_do_not_get_in_each_others_way(page: Page, tmp_path: Path) -> None:
    """One browser, one host, two ports: cookies are shared, and each page still has its own."""
    other = await serve(tmp_path / "other", "127.0.0.1", 0, print)
    try:
        async with page.session.get(other.url) as response:
            assert response.status == 200
        assert (await status(page))[0] == 200
        port, mine = urlsplit(other.url).port, urlsplit(page.base).port
        value = next(found.value for found in page.session.cookie_jar if str(mine) in found.key)
        async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as stranger:
            headers = {"Cookie": f"batchflux_review_{port}={value}"}
            async with stranger.get(f"http://127.0.0.1:{port}/", headers=headers) as response:
                assert response.status == 403
    finally:
        await other.stop()


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])  # noqa: S104  what is tested is what that opens
async def test_open_to_the_network_it_says_so_and_takes_only_addresses(folder: Folder, host: str) -> None:
    job = await folder.add("mug")
    site = await serve(folder.root, host, 0, print)
    try:
        assert site.opens is not None
        assert "Everyone who can reach any address of this machine" in site.opens
        assert "token" in site.opens
        async with opened(site) as page:
            port = urlsplit(page.base).port
            await page.judge([job], "accept")
            assert (await status(page, Host=f"evil.example:{port}"))[0] == 403
            assert (await status(page, Host=f"10.1.2.3:{port}"))[0] == 403
            cookies = "; ".join(f"{found.key}={found.value}" for found in page.session.cookie_jar)
            async with page.session.get(f"http://127.0.0.2:{port}/api/rows", headers={"Cookie": cookies}) as response:
                # The address that it arrived at is ours, though nobody could name it before.
                assert response.status == (200 if host == "0.0.0.0" else 403)  # noqa: S104  compared only
    finally:
        await site.stop()


async def test_on_loopback_there_is_nothing_to_say(page: Page) -> None:
    assert page.site.opens is None
    where = urlsplit(page.site.url)
    assert where.hostname == "127.0.0.1"
    assert len(page.token) >= 43
    assert json.dumps(page.token).isascii()
