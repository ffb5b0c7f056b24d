"""Canaries through every path of the program: afterwards no byte of them is in the folder, on stdout or on stderr.

Looked for plainly, URL-encoded, in JSON's and in base64's clothes. The one exception is what the contract needs: the
link of a picture that has still to be fetched stands in ledger.db, which is its owner's only, until the picture is
there; and in answers/, its owner's too, where nobody has found it yet.
"""

from __future__ import annotations

import base64
import json
import stat
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.chaos.net.conftest import Ended, Net, Program

pytestmark = pytest.mark.timeout(400)  # five processes in a row, which log all they can
KEYS = {"FIRST_KEY": "cnry+K3y/of=no.known~shape", "SECOND_KEY": "sk-c4nary0fTheUsualShape77"}
HOOK = "hook c4nary/s3cret+word"
SIGNATURE = "5igCanary0badc0ffee0ddf00d/9+Q=="
CANARIES = {**KEYS, "HOOK": HOOK, "SIGNATURE": SIGNATURE}
QUERY = f"X-Amz-Credential=AKIA&X-Amz-Signature={quote(SIGNATURE, safe='')}"
AWAY = ["nobody", "weird", "page", "page200", "errorevent"]  # answers of a provider, or a host, that is not there
LEDGER = ("ledger.db", "ledger.db-journal", "ledger.db-wal")


def forms(secret: str) -> set[str]:
    """The ways in which a secret may stand in a text."""
    plain = {secret, quote(secret, safe=""), quote(secret), quote_plus(secret), json.dumps(secret)[1:-1]}
    plain |= {secret.replace("/", "\\/"), secret.lower(), secret[:12]}
    for before in range(3):  # base64 has three ways to write the same bytes, by where they begin
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            text = encode(b"x" * before + secret.encode()).decode()
            plain.add(text[-(-before * 8 // 6) + (before > 0) : len(text) // 4 * 4 - 4])
    return plain


def leaks(text: str, *names: str) -> list[tuple[str, str, str]]:
    """Which canaries stand in a text, in which form, and what is around them."""
    return [
        (name, form, text[max(0, at - 80) : at + 40])
        for name, secret in CANARIES.items()
        if not names or name in names
        for form in forms(secret)
        if (at := text.find(form)) >= 0
    ]


def files(folder: Path, *without: str) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in without:
            yield str(path.relative_to(folder)), path.read_bytes().decode("latin-1")


def test_the_forms_are_found() -> None:
    for secret in CANARIES.values():
        for before in (b"", b"a", b"ab", b"abc"):
            assert leaks("..." + base64.b64encode(before + secret.encode()).decode())
        assert leaks(f"x?y={quote(secret, safe='')}&z")
        assert leaks(json.dumps({"key": secret}))
    assert not leaks("cnry, sk-, hook and 5ig are not enough")


def told(net: Net) -> dict[str, bytes]:
    """Answers that say everything they know, in every place that an answer has."""
    said = f"{' '.join(KEYS.values())} {HOOK} {quote(HOOK)} Bearer {KEYS['FIRST_KEY']} {net.url}/f?{QUERY}"
    shaped = {name: {"error": {"message": said, "type": said, "code": name}} for name in ("moderated", "weird")}
    page = f"<html><title>{said}</title><body>{said}</body></html>".encode()
    heads = "".join(f"X-Thing-{number}: {secret}\r\n" for number, secret in enumerate(CANARIES.values()))
    answers = {
        "moderated": net.framed(json.dumps(shaped["moderated"]).encode(), status="400 Bad Request", more=heads),
        "weird": net.framed(json.dumps(shaped["weird"]).encode(), status="500 Oops"),
        "refused": net.framed(json.dumps({"error": {"message": said}}).encode(), status="422 No"),
        "inside": net.framed(json.dumps({"error": {"message": said, "code": "prompt_blocked"}}).encode()),
        "page": net.framed(page, "text/html", status="502 Bad Gateway"),
        "page200": net.framed(page, "text/html"),
        "text": net.framed(said.encode(), "text/plain"),
        "nopicture": net.framed(json.dumps({"data": [], "message": said}).encode()),
        "badlink": net.framed(json.dumps({"data": [{"url": f"weird {said}"}]}).encode()),
        "ftp": net.framed(json.dumps({"data": [{"url": f"ftp://{KEYS['FIRST_KEY']}@h/{QUERY}"}]}).encode()),
        "private": net.framed(json.dumps({"data": [{"url": f"http://10.0.0.1/x?{QUERY}"}]}).encode()),
        "nobody": net.framed(json.dumps({"data": [{"url": f"http://nowhere.invalid/x?{QUERY}"}]}).encode()),
        "base64": net.framed(json.dumps({"data": [{"b64_json": base64.b64encode(said.encode()).decode()}]}).encode()),
        "events": net.chunked([net.frame(said), net.frame("生成失败"), b"data: [DONE]\n\n"]),
        "errorevent": net.chunked([b"event: error\ndata: " + json.dumps({"message": said}).encode() + b"\n\n"]),
        "nohttp": said.encode() + b"\r\n\r\n",
        "moved": net.framed(b"", status="302 Found", more=f"Location: http://h/?{QUERY}\r\n"),
        "revised": net.framed(json.dumps({"data": [{"url": "/files/right", "revised_prompt": said}]}).encode()),
        "escaped": net.framed(json.dumps({"data": [], "note": said}).replace("/", r"\/").encode()),
    }
    net.origin.files["right"] = net.picture()
    for name, file in {
        "linkdead": net.framed(said.encode(), status="404 Gone", more=heads),
        "linkbusy": net.framed(said.encode(), status="503 Busy"),
        "linkpage": net.framed(page, "text/html"),
        "linkmoved": net.framed(b"", status="302 Found", more=f"Location: http://10.0.0.1/?{QUERY}\r\n"),
        "linkcircle": net.framed(b"", status="302 Found", more=f"Location: linkcircle?{QUERY}\r\n"),
        "right": net.picture(),
    }.items():
        net.links(name, f"{net.url}/files/{name}?{QUERY}")
        net.origin.files[f"{name}?{QUERY}"] = file
    return answers


@pytest.fixture
def noisy(program: Program) -> Program:
    """The program with all that anybody logs, and the canaries in its environment."""
    program.environ.update(KEYS, HOOK=HOOK, CHAOS_DEBUG="1", PYTHONASYNCIODEBUG="1")
    program.apart = True
    return program


def manifest(program: Program, net: Net, names: list[str], **limits: Any) -> None:
    provider = {"name": "tuzi", "base_url": net.url, "keys": list(KEYS), "price": 0.14, "currency": "CNY"}
    jobs = [{"id": name, "prompt": f"#{name} cat", "webhook_secret": "${HOOK}"} for name in names]
    defaults = {"webhook_url": "https://hooks.example/done"}
    made = {
        "version": 1,
        "name": "m",
        "provider": provider,
        "limits": {"canary": 0, **limits},
        "defaults": defaults,
        "jobs": jobs,
    }
    program.write("m.yaml", json.dumps(made))


def said_by(*calls: Ended) -> str:
    return "".join(call.out + call.err for call in calls)


@pytest.mark.parametrize("how", ["json", pytest.param("text", marks=pytest.mark.slow)])
def test_no_canary_is_seen_anywhere(net: Net, noisy: Program, how: str) -> None:
    net.origin.answers |= told(net)
    names = [name for name in net.origin.answers if name not in AWAY]
    silent = ["@cut:0 cut", "@half:0*1 half"]
    manifest(noisy, net, AWAY, patience="1s")
    held = noisy("run", "m.yaml", "--log-format", how)
    assert held.code == 3, held.err
    manifest(noisy, net, [*names, *silent], attempts=2, timeout="3s", rate="25/s", max_consecutive_failures=1000)
    calls = [
        noisy("plan", "m.yaml", *(["--json"] if how == "json" else [])),
        noisy("run", "m.yaml", "--log-format", how),
        noisy("status", "out/m", *(["--json"] if how == "json" else [])),
        noisy("report", "out/m"),
    ]
    assert calls[1].code == 1, calls[1].err
    rows = {row["id"]: row for row in noisy.rows()}
    assert {rows[name]["status"] for name in names} == {"done", "failed", "unknown"}
    assert rows["right"]["status"] == rows["revised"]["status"] == "done"
    assert rows["revised"]["revised_prompt"]
    assert any(asked.body["webhook_secret"] == HOOK for asked in net.origin.asked)
    used = {key for asked in net.origin.asked for key in KEYS.values() if f"Bearer {key}\r\n" in asked.head}
    assert used == set(KEYS.values()), "the canaries were there to be seen"
    assert not leaks(said_by(held, *calls))
    kept = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (noisy.folder / "out/m/answers").iterdir()}
    assert set(kept.values()) == {0o600}
    for name, text in files(noisy.folder / "out", *LEDGER, *kept):
        assert not leaks(text), name
    for name, text in files(noisy.folder / "out"):
        assert not leaks(text, *KEYS, "HOOK"), name


def test_a_link_is_kept_until_its_picture_is_there_and_no_longer(net: Net, noisy: Program) -> None:
    told(net)
    names = ["right", "linkbusy", "linkpage"]
    manifest(noisy, net, names, attempts=1)
    assert noisy("run", "m.yaml").code == 1
    kept = "".join(text for name, text in files(noisy.folder / "out") if name.endswith(LEDGER))
    assert leaks(kept, "SIGNATURE"), "what is paid and not fetched must be fetched with its signature"
    assert stat.S_IMODE((noisy.folder / "out/m/ledger.db").stat().st_mode) == 0o600
    for name in names:
        net.origin.files[f"{name}?{QUERY}"] = net.picture()
    again = noisy("run", "m.yaml", "--retry-failed")
    assert again.code == 0, again.err
    assert set(net.origin.posts().values()) == {1}
    for name, text in files(noisy.folder / "out"):
        assert not leaks(text), name


@pytest.mark.parametrize("answer", ["dead", "echo"])
def test_a_key_that_is_refused_is_named_and_not_shown(net: Net, noisy: Program, answer: str) -> None:
    said = f"Incorrect API key provided: {' or '.join(KEYS.values())}."
    body = {"error": {"message": "x" * 270 * (answer == "echo") + said, "code": "invalid_api_key"}}
    net.origin.answers["dead"] = net.framed(json.dumps(body).encode(), status="401 Unauthorized")
    manifest(noisy, net, ["dead"])
    ended = noisy("run", "m.yaml")
    assert ended.code == 3
    assert not leaks(said_by(ended))
    for name, text in files(noisy.folder / "out"):
        assert not leaks(text), name


def test_a_bug_shows_its_place_and_no_secret(net: Net, noisy: Program) -> None:
    manifest(noisy, net, ["right"])
    noisy.crashes = True
    ended = noisy("run", "m.yaml", CHAOS_CRASH="1")
    assert "RuntimeError: a bug" in ended.err
    assert not leaks(said_by(ended))
    for name, text in files(noisy.folder / "out"):
        assert not leaks(text), name


def test_references_are_shown_without_their_signature(net: Net, noisy: Program) -> None:
    """A signed reference is the user's own: manifest.yaml and the request hold it, what is shown does not."""
    manifest(noisy, net, ["right"])
    signed = f"https://bucket.example/photo.jpg?{QUERY}"
    noisy.write("t.csv", f"name,photo\nright,{signed}\n")
    text = json.loads((noisy.folder / "m.yaml").read_text())
    text["jobs"][0] |= {"id": "{{ name }}", "image": "{{ photo }}", "from": "t.csv"}
    noisy.write("m.yaml", json.dumps(text))
    calls = [
        noisy("plan", "m.yaml"),
        noisy("plan", "m.yaml", "--json"),
        noisy("run", "m.yaml"),
        noisy("report", "out/m"),
    ]
    assert calls[2].code == 0, calls[2].err
    assert signed in net.origin.asked[0].body["prompt"]
    assert not leaks(said_by(*calls))
    for name, found in files(noisy.folder / "out", *LEDGER):
        assert not leaks(found), name


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_what_is_private_is_so_whatever_the_umask(net: Net, program: Program, umask: int) -> None:
    net.origin.answers["busy"] = net.framed(b"{}", status="503 Busy")
    manifest(program, net, ["cat", "busy"], attempts=1)
    assert program("run", "m.yaml", umask=umask, **KEYS, HOOK=HOOK).code == 1
    modes = {
        str(path.relative_to(program.folder / "out/m")): stat.S_IMODE(path.stat().st_mode)
        for path in (program.folder / "out/m").rglob("*")
    }
    private = {name: modes.pop(name) for name in ("ledger.db", "run.log", ".lock", ".spool")}
    assert private == {"ledger.db": 0o600, "run.log": 0o600, ".lock": 0o600, ".spool": 0o700}
    assert modes.pop("images") == 0o777 & ~umask
    assert set(modes) == {"images/cat.jpg", "results.csv", "summary.json", "manifest.yaml"} or modes
    assert {name: mode for name, mode in modes.items() if mode != 0o666 & ~umask} == {}
