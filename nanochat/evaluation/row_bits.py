"""How many bits a base model needs for each held-out row: what an interval of bits per byte is computed from.

`rows.parquet` of an evaluation has a line for each row, in the order of the rows: `bits`, and `bytes` of its text.

Rows are taken as independent. Those of a document that is longer than a row are not quite: where most documents are,
the intervals are too narrow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nanochat.evaluation.distributions import t_quantile
from nanochat.evaluation.statistics import CONFIDENCE, Interval

FILE_NAME = "rows.parquet"


@dataclass(frozen=True)
class RowBits:
    """What a model needs for rows of text."""

    bits: NDArray[np.float64]
    """(N,)."""
    text_bytes: NDArray[np.int64]
    """(N,): UTF-8 bytes of the text of each row."""

    def per_byte(self) -> tuple[float, Interval | None]:
        """Bits per byte of all rows together, with its 95% interval; None for fewer than two rows."""
        return _ratio(self.bits, self.text_bytes)

    def above(self, other: RowBits) -> tuple[float, Interval | None] | None:
        """By how many bits per byte this model needs more than another one, row by row; None if the rows differ."""
        if not np.array_equal(self.text_bytes, other.text_bytes):
            return None
        return _ratio(self.bits - other.bits, self.text_bytes)

    def write(self, folder: Path) -> None:
        """Writes `rows.parquet`; bits are rounded to float32."""
        table = pa.table({"bits": self.bits.astype(np.float32), "bytes": self.text_bytes.astype(np.int32)})
        pq.write_table(table, folder / FILE_NAME, compression="zstd")

    @classmethod
    def read(cls, folder: Path) -> RowBits:
        """Reads what `write` wrote."""
        table = pq.read_table(folder / FILE_NAME)
        bits, text_bytes = (table.column(name).to_numpy() for name in ("bits", "bytes"))
        return cls(bits.astype(np.float64), text_bytes.astype(np.int64))


def _ratio(values: NDArray[np.float64], weights: NDArray[np.int64]) -> tuple[float, Interval | None]:
    """The ratio of two sums over rows, and its interval by linearization, with Student's t."""
    count, total = len(values), int(weights.sum())
    ratio = math.fsum(values) / total
    squares = math.fsum((values - ratio * weights) ** 2)
    if count < 2 or not math.isfinite(squares):
        return ratio, None
    half = t_quantile((1 + CONFIDENCE) / 2, count - 1) * math.sqrt(squares * count / (count - 1)) / total
    return ratio, Interval(ratio - half, ratio + half)
