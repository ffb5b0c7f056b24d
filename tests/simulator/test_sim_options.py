from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from batchflux.errors import UsageError
from batchflux.simulator import FAULTS, load_options, parse_options
from batchflux.simulator.faults import Rule

if TYPE_CHECKING:
    from pathlib import Path


def test_defaults_need_nothing() -> None:
    options = parse_options({})
    assert options.latency == (0.05, 0.25)
    assert options.rate is None
    assert options.keys is None
    assert options.size == 512


def test_every_option_is_read(tmp_path: Path) -> None:
    options = parse_options(
        {
            "latency": [0, 1],
            "download_latency": 0.5,
            "rate": "300/min",
            "burst": 3,
            "concurrency": 4,
            "active_tasks": 6,
            "seed": 7,
            "size": 64,
            "keys": ["k1", "k2"],
            "faults": {"server_500": 0.25, "reset": {"rate": 0.5, "times": 2}, "cut": {"times": 1}},
            "script": [{"match": "mug", "fault": "hang"}, {"match": "", "fault": "quota", "times": 2}],
            "cache_dir": str(tmp_path),
            "fetch": True,
        }
    )
    assert options.fetch
    assert options.latency == (0, 1)
    assert options.download_latency == (0.5, 0.5)
    assert options.rate == 5
    assert (options.burst, options.concurrency, options.active_tasks) == (3, 4, 6)
    assert options.keys == frozenset({"k1", "k2"})
    assert options.faults == (
        Rule(fault="server_500", rate=0.25),
        Rule(fault="reset", rate=0.5, times=2),
        Rule(fault="cut", rate=1, times=1),
    )
    assert options.script == (Rule(match="mug", fault="hang"), Rule(match="", fault="quota", times=2))
    assert "k1" not in repr(options)


def test_a_script_may_stand_among_the_faults() -> None:
    options = parse_options({"faults": {"script": [{"match": "mug", "fault": "hang"}], "auth": 1}})
    assert options.script == (Rule(match="mug", fault="hang"),)
    assert options.faults == (Rule(fault="auth"),)


BAD = [
    ({"latncy": 1}, "The simulator has no option 'latncy'; did you mean latency?"),
    ({7: 1}, "The simulator has no option 7; it knows latency, download_latency, rate, burst"),
    ({"latency": "fast"}, "The simulator's option latency must be a number from 0 to 86400, found 'fast'."),
    ({"latency": True}, "The simulator's option latency must be a number from 0 to 86400, found True."),
    ({"latency": [2, 1]}, "The simulator's option latency must be [low, high] with low first, found [2, 1]."),
    ({"latency": [1]}, "The simulator's option latency must be seconds, or two of them: [low, high]; found [1]."),
    ({"latency": -1}, "The simulator's option latency must be from 0 to 86400, found -1."),
    ({"latency": float("nan")}, "The simulator's option latency must be a number from 0 to 86400, found nan."),
    ({"rate": "10/d"}, "The simulator's option rate must be like 10/s, 300/min or 100/h, found '10/d'."),
    ({"rate": "0/s"}, "The simulator's option rate must be like 10/s, 300/min or 100/h, found '0/s'."),
    ({"rate": 10}, "The simulator's option rate must be like 10/s, 300/min or 100/h, found 10."),
    ({"burst": 0}, "The simulator's option burst must be at least 1, found 0."),
    ({"active_tasks": 0}, "The simulator's option active_tasks must be at least 1, found 0."),
    ({"concurrency": 1.5}, "The simulator's option concurrency must be a whole number, found 1.5."),
    ({"seed": "x"}, "The simulator's option seed must be a whole number, found 'x'."),
    ({"size": 9000}, "The simulator's option size must be from 40 to 2048, found 9000."),
    ({"keys": []}, "The simulator's option keys must be a list of the accepted keys, each a text."),
    ({"faults": ["hang"]}, "The simulator's option faults must map names of faults to probabilities, found ['hang']."),
    (
        {"faults": {"serve_500": 1}},
        "The simulator's option faults names 'serve_500', which is no fault of the simulator; did you mean server_500?",
    ),
    ({"faults": {"hang": 2}}, "The simulator's option faults.hang must be from 0 to 1, found 2."),
    ({"faults": {"hang": {"rate": "x"}}}, "The simulator's option faults.hang.rate must be a number from 0 to 1"),
    ({"faults": {"hang": {"time": 1}}}, "The simulator's option faults.hang has an unknown key 'time'; allowed are"),
    ({"faults": {"hang": {"times": 0}}}, "The simulator's option faults.hang.times must be at least 1, found 0."),
    ({"script": {}}, "The simulator's option script must be a list of {match, fault, times}, found {}."),
    ({"script": [3]}, "The simulator's option script[0] must be a mapping with match and fault, found 3."),
    (
        {"script": [{"fault": "hang"}]},
        "The simulator's option script[0].match must be a part of the prompt, found None.",
    ),
    ({"script": [{"match": "x"}]}, "The simulator's option script[0] names None, which is no fault of the simulator;"),
    ({"fetch": "yes"}, "The simulator's option fetch must be true or false, found 'yes'."),
    ({"cache_dir": ""}, "The simulator's option cache_dir must be the path of a folder, found ''."),
]


@pytest.mark.parametrize(("data", "message"), BAD, ids=[str(data) for data, _ in BAD])
def test_a_wrong_option_is_one_clear_sentence(data: dict[Any, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_options(data)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("f.yaml", "faults:\n  hang: 0.5\nsize: 64\n"),
        ("f.json", '{\t"faults": {"hang": 0.5},\n\t"size": 64}'),
        ("f.yml", '{"faults": {"hang": 0.5}, "size": 64}'),
    ],
)
def test_options_come_from_a_file(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    options = load_options(tmp_path / name)
    assert options.faults == (Rule(fault="hang", rate=0.5),)
    assert options.size == 64


def test_an_empty_file_means_defaults(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text("")
    assert load_options(tmp_path / "f.yaml").faults == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"faults: [", "is neither YAML nor JSON that can be read"),
        (b"\xff\xfe\x00", "is neither YAML nor JSON that can be read"),
        (b"[" * 2_000, "is neither YAML nor JSON that can be read"),
        (b"- a", "must be a mapping of options"),
        (b"latncy: 1", "The simulator has no option 'latncy'; did you mean latency?"),
        (b"#" * 1_048_577, "is larger than 1,048,576 bytes"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "faults.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        load_options(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_every_fault_says_what_it_does() -> None:
    assert len(FAULTS) >= 36
    assert all(info.doc and info.name == name for name, info in FAULTS.items())
