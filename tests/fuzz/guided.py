"""`python -m tests.fuzz.guided TARGET SECONDS FOLDER`: atheris on one target. The only place that imports it."""

from __future__ import annotations

import sys
from pathlib import Path

try:
    import atheris
except ImportError:
    sys.exit("atheris is not installed; run: pip install -e '.[fuzz]' (Linux on x86_64), or use --runs")

with atheris.instrument_imports(include=["batchflux"]):
    from tests.fuzz.targets import TARGETS

LONGEST_INPUT = 20_000


def main() -> None:
    """Fuzz until the time is over; libFuzzer ends the process, with a code that is not 0 when it found something."""
    name, seconds, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    target = TARGETS[name]
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    words = folder / "words"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words), encoding="ascii")
    options = [f"-max_total_time={seconds}", "-timeout=10", f"-max_len={LONGEST_INPUT}", "-rss_limit_mb=2048"]
    options += [f"-dict={words}", f"-artifact_prefix={folder}/", "-print_final_stats=1", "-verbosity=1"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], lambda data: (target.check(data), None)[1])
    atheris.Fuzz()


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


if __name__ == "__main__":
    main()
