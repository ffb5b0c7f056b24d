"""Multipart bodies: as clients write them, and as nobody should."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from aiohttp import FormData
from hypothesis import given
from hypothesis import strategies as st

from batchflux.gateway.orders import RefusalError
from batchflux.gateway.reading.forms import MOST_PARTS, parts_of
from batchflux.gateway.reading.images import Part

if TYPE_CHECKING:
    from tests.gateway.conftest import Gateways

KIND = "multipart/form-data; boundary=x"


def part(head: str, data: bytes) -> bytes:
    return b"--x\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n"


def body(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--x--\r\n"


PROMPT = part('Content-Disposition: form-data; name="prompt"', b"a fox")


def test_fields_and_files() -> None:
    picture = bytes(range(256)) * 3 + b"\r\n--\r\n--y\r\n"
    file = part(
        'content-disposition: form-data; name="image[]"; filename="ö \\"x\\".png"\r\nContent-Type: image/png', picture
    )
    assert parts_of(KIND, body(PROMPT, file)) == [
        Part(name="prompt", data=b"a fox"),
        Part(name="image[]", data=picture, filename='ö "x".png'),
    ]
    assert parts_of('multipart/form-data; boundary="x"', b"preamble\r\n" + body(PROMPT) + b"epilogue") == [
        Part(name="prompt", data=b"a fox")
    ]
    assert parts_of(KIND, b"--x--") == []
    assert parts_of(KIND, body(part('Content-Disposition: form-data; name=n; filename=""', b""))) == [
        Part(name="n", data=b"", filename="")
    ]


@pytest.mark.parametrize(
    ("kind", "sent", "says"),
    [
        ("multipart/form-data", body(PROMPT), "names no boundary"),
        ("multipart/form-data; boundary=", body(PROMPT), "names no boundary"),
        (f"multipart/form-data; boundary={'x' * 201}", body(PROMPT), "names no boundary"),
        ("multipart/form-data; boundary=y", body(PROMPT), "its end is missing"),
        (KIND, b"", "its end is missing"),
        (KIND, PROMPT, "its end is missing"),
        (KIND, body(PROMPT)[:-6], "its end is missing"),
        (KIND, body(b"--x\r\nno end\r\n"), "no end of its headers"),
        (KIND, body(b"--xy\r\n\r\n\r\n"), "no end of its headers"),
        (KIND, body(part(f"Content-Disposition: form-data; name={'n' * 9000}", b"")), "no end of its headers"),
        (KIND, body(part("Content-Type: image/png", b"")), "a part of it has no name"),
        (KIND, body(part("Content-Disposition: attachment; name=n", b"")), "a part of it has no name"),
        (KIND, body(part("Content-Disposition: form-data", b"")), "a part of it has no name"),
        (
            KIND,
            body(part("Content-Disposition: form-data; name=n\r\nContent-Transfer-Encoding: base64", b"YQ==")),
            "is encoded",
        ),
        (KIND, body(part("Content-Disposition: form-data; name=n\r\nContent-Encoding: gzip", b"")), "is encoded"),
        (KIND, body(*[PROMPT] * (MOST_PARTS + 1)), f"more than {MOST_PARTS} parts"),
    ],
)
def test_what_is_no_form(kind: str, sent: bytes, says: str) -> None:
    with pytest.raises(RefusalError, match=says) as caught:
        parts_of(kind, sent)
    assert (caught.value.status, caught.value.code) == (400, "invalid_form")


def test_so_many_parts_are_taken() -> None:
    assert len(parts_of(KIND, body(*[PROMPT] * MOST_PARTS))) == MOST_PARTS


@given(st.text(max_size=30), st.binary(max_size=300))
def test_whatever_is_sent_it_is_split_or_refused(kind: str, sent: bytes) -> None:
    for said in (KIND, f"multipart/form-data; boundary={kind}"):
        for data in (sent, b"--x\r\n" + sent + b"\r\n--x--"):
            try:
                parts_of(said, data)
            except RefusalError as error:
                assert error.status == 400  # noqa: PT017  nothing else may come


@given(
    st.lists(
        st.tuples(st.from_regex(r"[a-z\[\]äß ]{1,9}", fullmatch=True), st.binary(max_size=40)), min_size=1, max_size=5
    )
)
async def test_what_aiohttps_client_writes(fields: list[tuple[str, bytes]]) -> None:
    form = FormData(quote_fields=False)
    for name, data in fields:
        form.add_field(name, data, filename="f.png")
    made = form()
    written = b""

    class Writer:
        async def write(self, chunk: bytes) -> None:
            nonlocal written
            written += chunk

    await made.write(Writer())  # type: ignore[arg-type]  # as much of a writer as it uses
    assert [(one.name, one.data) for one in parts_of(made.headers["Content-Type"], written)] == fields


@pytest.mark.parametrize("path", ["/images/generations", "/chat/completions"])
async def test_a_form_where_none_is_taken_is_told_where_it_goes(gateways: Gateways, path: str) -> None:
    form = FormData({"prompt": "job a"}, default_to_multipart=True)
    async with gateways.opened() as front, front.http.post(f"{front.url}{path}", data=form) as answer:
        said = (await answer.json())["error"]
        assert (answer.status, said["code"]) == (415, "unsupported_media_type")
        assert "a form is taken at /v1/images/edits alone" in said["message"]
