"""Packs rendered conversations into rows: shuffled, best fit, padded.

A conversation is never split over rows. The space that is left at the end of a row is BOS with mask 0.
"""

from pathlib import Path

import numpy as np

from nanochat._rustbpe import pack_padded
from nanochat.data.mixture import RenderedConversations
from nanochat.data.rows import RowWriter
from nanochat.tasks.conversation import Split

OPEN_ROWS = 100
"""Rows with free space that are kept open; a conversation goes where it leaves the least space."""
BLOCK_ROWS = 4096
"""Rows that are filled in memory at once."""


def write_conversation_rows(
    rendered: RenderedConversations, out: Path, split: Split, row_tokens: int, bos: int, seed: int
) -> int:
    """Writes the blocks of rows (N, row_tokens) of a split into `out`; returns the number of rows N.

    The order of the conversations, with their repetitions, is a permutation that depends on `seed` alone.
    """
    order = np.repeat(np.arange(len(rendered)), rendered.repeats)
    order = np.random.default_rng(seed).permutation(order)
    # (N,) row of each conversation, (N,) its first position in that row
    row_of, start_of, rows = pack_padded(np.diff(rendered.offsets)[order], row_tokens, OPEN_ROWS)
    by_row = np.argsort(row_of, kind="stable")
    with RowWriter(out, split, row_tokens, rendered.ids.dtype, masked=True) as writer:
        for first in range(0, rows, BLOCK_ROWS):
            block = min(BLOCK_ROWS, rows - first)
            ids = np.full((block, row_tokens), bos, rendered.ids.dtype)
            mask = np.zeros((block, row_tokens), np.uint8)
            begin, end = np.searchsorted(row_of[by_row], (first, first + block))
            for placed in by_row[begin:end]:
                taken = slice(*rendered.offsets[order[placed] : order[placed] + 2])
                row, start = row_of[placed] - first, start_of[placed]
                ids[row, start : start + taken.stop - taken.start] = rendered.ids[taken]
                mask[row, start : start + taken.stop - taken.start] = rendered.mask[taken]
            writer.write(ids, mask)
    return rows
