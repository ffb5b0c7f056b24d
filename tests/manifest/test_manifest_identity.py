"""Keys, ids and file names: what changes them, and what must not."""

from __future__ import annotations

import json
import os
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.manifest.identity import checked_name, default_id, folded, former_key, key_of, on_windows
from batchflux.manifest.templates import slug
from batchflux.models import Reference

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchflux.errors import Fault
    from batchflux.manifest import Expansion
    from batchflux.models import Job

    Jobs = Callable[[str], list[Job]]

HEAD = "version: 1\nprovider: {params: drop}\n"


def one(fields: str, head: str = HEAD) -> str:
    return f"{head}jobs:\n  - {{prompt: x, {fields}}}\n"


@pytest.mark.parametrize(
    "fields",
    ["seed: 1", "seed: 2", "aspect_ratio: 1:1", "output_format: png", "output_format: jpeg", "safety_tolerance: 0",
     "prompt_upsampling: false", "prompt_upsampling: true", "variant: 2", "model: other", "style: chat",
     "image: photos/mug.jpg", "image: photos/cup.png", "image: https://h.example/a.png"],
)  # fmt: skip
def test_what_changes_the_picture_changes_the_key(fields: str, jobs: Jobs) -> None:
    (plain,), (other,) = jobs(one("tags: {}")), jobs(one(fields))
    assert plain.key != other.key


@pytest.mark.parametrize(
    "text",
    [one("id: a"), one("tags: {a: 1}"), one("webhook_url: https://h.example"), one("variant: 1"),
     one("tags: {}", 'version: 1\noutput: {file_name: "x{{ id }}"}\n'), one("model: flux-kontext-pro"),
     one("tags: {}", "version: 1\nlimits: {rate: 1/s}\n"), one("aspect_ratio: null")],
)  # fmt: skip
def test_what_does_not_change_the_picture_leaves_the_key(text: str, jobs: Jobs) -> None:
    (plain,), (other,) = jobs(one("tags: {}")), jobs(text)
    assert plain.key == other.key


def test_who_makes_it_counts_by_its_api(jobs: Jobs) -> None:
    providers = (
        "{name: simulator, style: standard}",
        "{name: tuzi, style: standard}",
        "{name: tuzi, style: chat}",
        "bfl",
    )
    keys = [jobs(one("tags: {}", f"version: 1\nprovider: {provider}\n"))[0].key for provider in providers]
    assert len(set(keys)) == len(keys)
    (renamed,) = jobs(one("tags: {}", "version: 1\nprovider: {name: shop, base_url: 'https://h.example'}\n"))
    assert renamed.key == keys[1]
    (simulated,) = jobs(one("tags: {}", "version: 1\nprovider: {name: mine, api: simulator, style: standard}\n"))
    assert simulated.key == keys[0]


def test_keys_are_the_same_in_every_version_of_the_program() -> None:
    scalars = {"seed": 1, "aspect_ratio": "16:9", "output_format": "png", "safety_tolerance": 2}
    fields = {**scalars, "prompt_upsampling": True, "variant": 1}
    images = (Reference(source="a.png", sha256="a" * 64), Reference(source="https://x", url="https://x"))
    asked = {"model": "flux-kontext-pro", "style": "standard", "prompt": ' Ein "Bär"\r\n', "images": images, **fields}
    canonical = [
        1,
        "flux-relay",
        "flux-kontext-pro",
        "standard",
        'Ein "Bär"',
        ["a" * 64, "https://x"],
        *fields.values(),
    ]
    assert key_of(asked, "flux-relay") == sha256(json.dumps(canonical, separators=(",", ":")).encode()).hexdigest()
    before = former_key(asked, "tuzi", 'Ein "Bär"\n', images)
    assert before == "1f60743a7307adc426db18057ca65e41c9c63016a1dd8837ee709da0f7a3ceb8"
    canonical.append({"options": {"a": 1, "b": [True]}})
    options = (("b", [True]), ("a", 1))
    key = sha256(json.dumps(canonical, separators=(",", ":")).encode()).hexdigest()
    assert key_of({**asked, "options": options}, "flux-relay") == key
    assert key_of({**asked, "options": ()}, "flux-relay") == key_of(asked, "flux-relay")


def test_keys_hold_bytes_not_names(folder: Path, jobs: Jobs) -> None:
    (first,) = jobs(one("image: photos/mug.jpg"))
    (folder / "photos/mug.jpg").rename(folder / "photos/moved.jpg")
    (moved,) = jobs(one("image: photos/moved.jpg"))
    (folder / "photos/moved.jpg").write_bytes((folder / "photos/moved.jpg").read_bytes() + b"x")
    (changed,) = jobs(one("image: photos/moved.jpg"))
    assert first.key == moved.key != changed.key


def test_a_file_is_read_again_when_its_time_says_so(folder: Path, jobs: Jobs) -> None:
    path = folder / "photos/mug.jpg"
    (first,) = jobs(one("image: photos/mug.jpg"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(1, 1))
    (second,) = jobs(one("image: photos/mug.jpg"))
    assert first.key != second.key


def test_ids_and_keys_are_stable_under_edits(jobs: Jobs) -> None:
    lines = ["  - {prompt: A red mug, seed: 1}", "  - {prompt: A blue mug}", "  - {prompt: '你好', id: hi}"]
    names = {job.prompt: (job.id, job.key) for job in jobs(HEAD + "jobs:\n" + "\n".join(lines))}
    edited = ["  - {prompt: New}", lines[2], lines[0].replace("}", ", tags: {a: 1}}")]
    for job in jobs(HEAD + "jobs:\n" + "\n".join(edited)):
        assert job.prompt == "New" or names[job.prompt] == (job.id, job.key)


def test_equal_jobs_are_merged_and_variants_kept(expansion: Callable[[str], tuple[Expansion, list[Fault]]]) -> None:
    entries = "  - {prompt: x}\n  - {prompt: x, tags: {a: 1}}\n  - {prompt: x, variant: 2}\n  - {prompt: x, id: cup}\n"
    made, faults = expansion("version: 1\njobs:\n" + entries)
    assert [job.variant for job in made] == [1, 2]
    assert made.merged == 2
    assert [job.position for job in made] == [0, 1]
    assert (made.merged, faults) == (2, [])
    assert made.same == ["jobs[1]", "cup"], "who looks for the picture of a cup is told that it has none of its own"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Make the mug red!", "make-the-mug-red"),
        ("你好", "你好"),
        ("Café crème", "cafe-creme"),
        ("a" * 60, "a" * 48),
        ("word " * 20, "word-word-word-word-word-word-word-word-word"),
        ("--- ???", ""),
    ],
)
def test_slugs(prompt: str, expected: str) -> None:
    assert slug(prompt) == expected
    assert default_id(prompt, "0123456789abcdef" * 4) == f"{expected or 'job'}-01234567"


@settings(max_examples=60)
@given(st.text(max_size=60))
def test_no_name_leaves_the_folder(name: str) -> None:
    try:
        made = checked_name(name)
    except ValueError:
        return
    path = os.path.normpath(os.path.join("/out", made))  # noqa: PTH118  as text, nothing is resolved
    assert path == f"/out/{made}" == f"/out/images/{on_windows(name)}"
    assert all(part and not part.startswith(".") and len(part.encode()) <= 240 for part in name.split("/"))
    for part in made.split("/"):
        assert not set(part) & set('<>:"|?*\\')
        assert part[-1] not in ". "
        assert part.partition(".")[0].rstrip().upper() not in {"CON", "PRN", "AUX", "NUL", "COM1", "LPT9", "COM¹"}


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("SKU:12*3?.png", "SKU_12_3_.png"),
        ('a<b>"c"|d\\e.png', "a_b__c__d_e.png"),
        ("night. /x..jpg", "night__/x..jpg"),
        ("con.png", "_con.png"),
        ("a/COM1", "a/_COM1"),
        ("lpt².tar.gz", "_lpt².tar.gz"),
        ("console.png", "console.png"),
        ("中文.png", "中文.png"),
    ],
)
def test_names_that_windows_has_not_are_changed(name: str, made: str) -> None:
    assert checked_name(name) == f"images/{made}"


def test_no_two_jobs_share_a_changed_file_name(jobs: Jobs) -> None:
    ids = ["a:b", "a?b", "a_b", "A|B", "x_y", "x:y"]
    made = jobs(
        "version: 1\njobs:\n" + "".join(f"  - {{id: '{name}', prompt: {name[0]}{n}}}\n" for n, name in enumerate(ids))
    )
    assert [job.id for job in made] == ids
    assert made[0].file_name == "images/a_b.jpg"
    assert made[4].file_name == "images/x_y.jpg"
    assert len({folded(job.file_name) for job in made}) == len(ids)


@settings(max_examples=60)
@given(st.text(max_size=8), st.text(max_size=8), st.sampled_from([".jpg", ".png"]), st.sampled_from([".jpg", ".png"]))
def test_default_file_names_clash_only_where_ids_do(a: str, b: str, x: str, y: str) -> None:
    if folded(a + x) == folded(b + y):
        assert folded(a) == folded(b)


def test_an_id_that_meets_another_by_chance_takes_more_of_its_key(monkeypatch: pytest.MonkeyPatch, jobs: Jobs) -> None:
    monkeypatch.setattr("batchflux.manifest.identity._SHORT", 0)
    made = jobs("version: 1\njobs:\n  - {prompt: x, seed: 1}\n  - {prompt: x, seed: 2}\n")
    assert [job.id for job in made] == ["x-", f"x-{made[1].key[:16]}"]


def named(template: str, *jobs: str, params: str = "drop") -> str:
    entries = "\n".join(f"  - {{{job}}}" for job in jobs)
    return f"version: 1\nprovider: {{params: {params}}}\noutput: {{file_name: '{template}'}}\njobs:\n{entries}\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (named("{{ prompt }}", "prompt: a.jpg", "prompt: a.png"), "a.png"),
        (named("{{ prompt }}", "prompt: a.jpg", "prompt: A.JPEG, output_format: jpeg"), "A.JPEG"),
        (named("{{ prompt }}", "prompt: a.webp, output_format: jpeg", "prompt: a.png"), "a.png"),
        (named("a.{{ ext }}", "prompt: x, output_format: jpeg", "prompt: x, output_format: png, style: chat"), "a.png"),
        (named("{{ prompt }}", "prompt: a.png, output_format: jpeg", "prompt: a.jpg, output_format: jpeg"), "a.jpg"),
    ],
    ids=["neither", "the second", "the first", "dropped", "a wrong suffix"],
)
def test_names_that_the_bytes_can_make_equal_clash(
    text: str, shown: str, expansion: Callable[[str], tuple[Expansion, list[Fault]]]
) -> None:
    made, faults = expansion(text)
    assert len(list(made)) == 1
    why = "differs only in its suffix from one used by jobs[0] on line 5, and the suffix follows the picture that comes"
    (fault,) = faults
    assert fault.message == f'the file name "{shown}" {why}; add {{{{ id }}}} to output.file_name'


@pytest.mark.parametrize(
    "text",
    [
        named("{{ prompt }}", "prompt: a.jpg", "prompt: A.jpg"),
        named("{{ prompt }}", "prompt: a.jpg, output_format: jpeg", "prompt: A.jpg, output_format: jpeg"),
        named("{{ prompt }}", "prompt: a.tif", "prompt: A.tif, output_format: jpeg"),
        named("{{ prompt }}", "prompt: a", "prompt: A"),
    ],
)
def test_equal_names_are_called_equal(text: str, expansion: Callable[[str], tuple[Expansion, list[Fault]]]) -> None:
    made, faults = expansion(text)
    assert len(list(made)) == 1
    assert [fault.message.split(";")[0].split(" ", 4)[4] for fault in faults] == ["is used by jobs[0] on line 5 too"]


@pytest.mark.parametrize(
    "text",
    [
        named("{{ prompt }}.{{ ext }}", "prompt: x, output_format: jpeg", "prompt: x, output_format: png"),
        named("{{ id }}-{{ output_format }}.{{ ext }}", "prompt: x, matrix: {output_format: [jpeg, png]}"),
        named("{{ prompt }}", "prompt: a.jpg", "prompt: a", "prompt: a.b.jpg", "prompt: a.svg"),
        named("{{ prompt }}", "prompt: a.jpg", "prompt: a.jpg.png", "prompt: a.png.jpg"),
    ],
    ids=["two formats", "formats in the name", "other names", "suffixes in the middle"],
)
def test_other_names_do_not_clash(text: str, jobs: Jobs) -> None:
    assert len({job.file_name for job in jobs(text)}) == len(jobs(text)) > 1
