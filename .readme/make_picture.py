"""Make the README's picture from a finished `batchflux run jobs/quickstart.yaml`: python .readme/make_picture.py."""

from __future__ import annotations

import csv
from pathlib import Path

from PIL import Image, ImageOps

OUT = Path("out/quickstart")
COLUMNS, CELL, GAP = 6, 200, 8


def main() -> None:
    """Put the pictures of results.csv on one sheet, in order."""
    with (OUT / "results.csv").open(encoding="utf-8", newline="") as file:
        names = [row["file_name"] for row in csv.DictReader(file)]
    rows = -(-len(names) // COLUMNS)
    step = CELL + GAP
    sheet = Image.new("RGB", (COLUMNS * step + GAP, rows * step + GAP), "#f4f2ee")
    for number, name in enumerate(names):
        with Image.open(OUT / name) as picture:
            cell = ImageOps.pad(picture.convert("RGB"), (CELL, CELL), color="#f4f2ee")
        sheet.paste(cell, (GAP + number % COLUMNS * step, GAP + number // COLUMNS * step))
    sheet.save(Path(__file__).with_name("quickstart.jpg"), quality=85, optimize=True)


if __name__ == "__main__":
    main()
