"""The speed of the data plane, from raw shards to batches, in one table; every ratio is measured in this run.

    python benchmarks/data.py [folder of Parquet shards with a `text` column]

Its parts can be run alone: `data_tokens.py` (raw shards to token shards), `data_rows.py` (packing, loading, streaming).
"""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import data_rows, data_tokens


def main(*folders: Path) -> None:
    table = Table("what", "figure", "compared with")
    for part in (data_tokens, data_rows):
        for line in part.measure(*folders):
            table.add_row(*line)
    Console(width=None if sys.stdout.isatty() else 200).print(table)


if __name__ == "__main__":
    main(*[Path(folder) for folder in sys.argv[1:2]])
