"""Change the SQL of the ledger, one small thing at a time, and list the changes that no test of it notices.

For .ci/mutation, which runs it in a copy: mutmut leaves alone what stands outside of functions.
Usage: python .ci/mutate-sql.py FILE TEST...
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

CHANGES = (
    (r"COALESCE\((excluded\.)?(\w+|\?), (excluded\.)?(\w+)\)", r"\1\2"),  # what a NULL would do
    (r"COALESCE\((excluded\.)?(\w+|\?), (excluded\.)?(\w+)\)", r"\3\4"),  # the fallback, always
    (r" \+ ", " - "),
    (r" - (?=[?\d])", " + "),
    (r"(\w+) = \1 [+-] ", r"\1 = "),
    (r"(?<= )1\b", "2"),
    (r"\b0\)", "1)"),
    (r"(\w+) = NULL", r"\1 = \1"),
    (r"'(pending|unknown|done|authorized|captured)'", "'failed'"),
    (r"'(yes|maybe)'", "'no'"),
    (r"IS NOT NULL", "IS NULL"),
    (r"IS NULL", "IS NOT NULL"),
    (r" AND [a-z_ ]+ IS NOT NULL", ""),
    (r"WHERE key = \?", "WHERE key >= ?"),
    (r"WHERE billed IS NULL AND", "WHERE"),
    (r"DO UPDATE SET", "DO NOTHING --"),
    (r" UNIQUE", ""),
)


def statements(source: str) -> Iterator[tuple[int, int]]:
    """Yield where the strings that are SQL stand, as offsets."""
    lines = [0]
    for line in source.encode().splitlines(keepends=True):
        lines.append(lines[-1] + len(line))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant | ast.JoinedStr) and node.end_lineno is not None:
            begin = lines[node.lineno - 1] + node.col_offset
            end = lines[node.end_lineno - 1] + (node.end_col_offset or 0)
            if re.search(r"\b(INSERT|UPDATE|SELECT|CREATE)\b", source.encode()[begin:end].decode()):
                yield begin, end


def mutants(source: str) -> Iterator[tuple[str, str]]:
    """Yield each changed source, with what was changed."""
    data, seen = source.encode(), {source}
    for begin, end in statements(source):
        sql = data[begin:end].decode()
        for pattern, replacement in CHANGES:
            for match in re.finditer(pattern, sql):
                changed = sql[: match.start()] + match.expand(replacement) + sql[match.end() :]
                whole = (data[:begin] + changed.encode() + data[end:]).decode()
                if whole not in seen:
                    seen.add(whole)
                    line = source.encode()[:begin].count(b"\n") + 1 + sql[: match.start()].count("\n")
                    yield whole, f"line {line}: {match.group().strip()!r} -> {match.expand(replacement).strip()!r}"


def main() -> None:
    """Run the tests on every mutant; the file is put back."""
    path, tests = Path(sys.argv[1]), sys.argv[2:]
    source, killed, survived = path.read_text(encoding="utf-8"), 0, []
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--timeout", "60", *tests]
    try:
        for changed, what in mutants(source):
            path.write_text(changed, encoding="utf-8")
            if subprocess.run(command, capture_output=True, check=False).returncode:  # noqa: S603  our own tests
                killed += 1
            else:
                survived.append(what)
    finally:
        path.write_text(source, encoding="utf-8")
    sys.stdout.write(f"SQL of {path}: {killed} killed, {len(survived)} survived\n")
    sys.stdout.writelines(f"    {what}\n" for what in survived)


if __name__ == "__main__":
    main()
