"""Tables, as people and their programs write them: csv, tsv, json, jsonl, Parquet and Excel files, row by row.

A row is a mapping of column names to cells; a bad row is reported with its line and skipped, a file that cannot be read
further ends with a ReadError. Nothing holds more than a row or a batch of them. What is certain is read as it is meant
(byte order marks, other encodings, delimiters that the header proves); what is not is a fault that says what to write.
"""

from batchflux.tables.reader import FORMATS, Given, Opened, Source, opened, table_format

__all__ = ["FORMATS", "Given", "Opened", "Source", "opened", "table_format"]
