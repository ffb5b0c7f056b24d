"""TLS that cannot be trusted: no byte of the request leaves, so no key leaks and nothing is paid."""

from __future__ import annotations

import io
import ssl
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING

import pytest
import trustme
from PIL import Image

from batchflux.errors import Code, JobError
from batchflux.transport import Transport, TransportOptions

if TYPE_CHECKING:
    import asyncio
    from pathlib import Path

    from tests.chaos.net.conftest import Net, Program

WRONG = {
    "stranger": "its TLS certificate is not trusted (unable to get local issuer certificate): if your network",
    "garbage": "ca.pem, in which no certificate (PEM) can be read",
    "name": "its TLS certificate is not trusted (Hostname mismatch",
    "expired": "its TLS certificate is not trusted (certificate has expired)",
    "old": "was not reached",
    "plain": "the TLS handshake failed (",
}


def context(authority: trustme.CA, how: str) -> ssl.SSLContext:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    issuer = trustme.CA() if how == "stranger" else authority
    certificate = issuer.issue_cert(
        "other.example" if how == "name" else "localhost", not_after=yesterday if how == "expired" else None
    )
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(made)
    if how == "old":
        made.set_ciphers("ALL:@SECLEVEL=0")
        made.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        made.maximum_version = ssl.TLSVersion.TLSv1_1
    return made


async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server that expected no TLS."""
    await reader.read(100)
    writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    writer.close()


@pytest.fixture
def authority(program: Program) -> trustme.CA:
    """Who signs certificates that the program trusts."""
    made = trustme.CA()
    path = program.folder / "ca.pem"
    made.cert_pem.write_to_path(str(path))
    program.environ["SSL_CERT_FILE"] = str(path)
    program.apart = True
    return made


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")  # old is what this is about
@pytest.mark.parametrize("how", WRONG)
def test_tls_that_cannot_be_trusted_gets_nothing(net: Net, program: Program, authority: trustme.CA, how: str) -> None:
    port = net.listen(plain) if how == "plain" else net.tls(context(authority, how))
    if how == "garbage":
        (program.folder / "ca.pem").write_bytes(b"\x30\x82 no PEM")
    ended = program.run(f"https://localhost:{port}", ["cat"], attempts=2, patience="1s")
    met = program.held(ended, 1)
    assert met
    for error in met:
        assert WRONG[how] in error
        assert how in {"old", "plain"} or "SSL_CERT_FILE" in error
        assert "nothing was sent" in error
    assert net.origin.asked == []
    assert program.run(net.url, ["cat"], attempts=2).code == 0
    assert program.rows()[0]["attempts"] == "1", "no attempt was lost"


def test_tls_that_can_be_trusted_is(net: Net, program: Program, authority: trustme.CA) -> None:
    port = net.tls(context(authority, "right"))
    net.origin.front = f"https://localhost:{port}"
    assert program.run(f"https://localhost:{port}", ["cat"]).code == 0
    assert program.images()[0].read_bytes() == net.picture()


def test_large_pictures_land_through_tls(net: Net, program: Program, authority: trustme.CA) -> None:
    """On the program's own loop (uvloop): each comes in many records, and several over one connection."""
    port = net.tls(context(authority, "right"))
    net.origin.front = front = f"https://localhost:{port}"
    names = [f"p{number}" for number in range(24)]
    for number, name in enumerate(names):
        file = io.BytesIO()
        Image.frombytes("RGB", (400, 250), Random(number).randbytes(300_000)).save(file, "PNG")
        net.links(name, f"{front}/files/{name}")
        net.origin.files[name] = file.getvalue()
    assert program.run(front, [f"#{name}" for name in names]).code == 0
    found = {path.read_bytes() for path in program.images()}
    assert found == {net.origin.files[name] for name in names}


async def test_a_picture_behind_tls_that_cannot_be_trusted_is_not_taken(
    net: Net, authority: trustme.CA, tmp_path: Path
) -> None:
    port = net.tls(context(authority, "right"))
    options = TransportOptions(
        base_url=net.url,
        timeout=5,
        connections=1,
        max_bytes=1 << 20,
        spool_dir=str(tmp_path),
        resolve={"cdn.example": ("127.0.0.1", port)},
    )
    async with Transport(options) as transport:
        with pytest.raises(JobError, match="its TLS certificate is not trusted") as caught:
            await transport.fetch("https://cdn.example/files/p.png")
    assert (caught.value.code, caught.value.dead) == (Code.DOWNLOAD, False)
    assert net.origin.fetched.total() == 0
