"""Parquet tables, the only place that imports pyarrow; it is heavy, so the extra `parquet` brings it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from batchflux.manifest.tables import Unreadable
from batchflux.manifest.yaml_nodes import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

BATCH = 1024  # rows held at a time


def columns_of(path: Path) -> tuple[str, ...]:
    """The columns of the file's schema.

    Raises:
        Unreadable: pyarrow is missing, or the file cannot be read.
    """
    with _opened(path) as file:
        return tuple(file.schema_arrow.names)


def rows_of(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Each row with its number, from 1.

    Raises:
        Unreadable: pyarrow is missing, or the file cannot be read.
    """
    number = 0
    with _opened(path) as file:
        batches = file.iter_batches(batch_size=BATCH)
        while True:
            try:
                batch = next(batches, None)
            except (ValueError, OSError) as error:  # pyarrow's own errors are kinds of these two
                raise Unreadable(number + 1, f"cannot be read further: {error}") from None
            if batch is None:
                return
            for row in batch.to_pylist():
                number += 1
                yield number, row


def _opened(path: Path) -> Any:
    try:
        from pyarrow import parquet  # noqa: PLC0415  an extra
    except ImportError:
        message = "needs pyarrow, which is not installed; run: pip install 'batchflux[parquet]'"
        raise Unreadable(None, message) from None
    try:
        if not path.is_file():
            raise Unreadable(None, "is not a file" if path.exists() else "does not exist")
        file = parquet.ParquetFile(path)
    except (ValueError, OSError) as error:
        raise Unreadable(None, f"is no Parquet file that can be read: {error}") from None
    names = file.schema_arrow.names
    if len(set(names)) != len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise Unreadable(None, f"has the column {quoted(twice)} twice")
    return file
