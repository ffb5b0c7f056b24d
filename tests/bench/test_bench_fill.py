"""The folder that benchmark (e) measures on is what a real run leaves behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.bench import manifests, part_e, pictures
from tests.bench.fill import differences
from tests.bench.servers import bucket_server
from tests.bench.tools import Child, ours

if TYPE_CHECKING:
    from pathlib import Path


def test_a_filled_folder_is_as_a_run_leaves_it(tmp_path: Path) -> None:
    pictures.write_tiny(tmp_path / "tiny.png")
    with bucket_server(tmp_path / "tiny.png") as server:
        manifest = manifests.write(tmp_path, manifests.Spec(url=server.url, jobs=20))
        Child(ours("run", manifest, "--no-progress"), tmp_path / "log").wait()
        real = (tmp_path / "out").rename(tmp_path / "real")
        part_e.fill(tmp_path, manifest, server)
    assert differences(tmp_path / "out", real) == []
    (real / "images" / "item-0000003.png").write_bytes(b"another")
    assert any(what.startswith("files") for what in differences(tmp_path / "out", real))
