"""The merges that tiktoken's ranks stand for.

tiktoken has no list of merges: any two neighbours whose bytes together are a token may merge, the lowest id first.
Yet each token can come about in one way only. Its last merge saw nothing but its own bytes, for what once crosses
their border never comes back; so to encode a token's own bytes shows the one pair that yields it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise


def derived_merges(tokens: Sequence[bytes | None]) -> list[tuple[int, int]]:
    """The pair of ids that yields each token of two bytes or more, in the order of the tokens' ids.

    `tokens[id]` is bytes, or None for an id without; the single bytes are there. Tokens that no merges yield, and
    that are found as whole pieces only, have no pair.
    """
    ids = {token: number for number, token in enumerate(tokens) if token is not None}
    pairs = (_last_pair(token, ids) for token in tokens if token is not None and len(token) > 1)
    return [pair for pair in pairs if pair]


def _last_pair(token: bytes, ids: Mapping[bytes, int]) -> tuple[int, int] | None:
    parts = [token[at : at + 1] for at in range(len(token))]
    while len(parts) > 2:
        joined = [ids.get(left + right) for left, right in pairwise(parts)]
        lowest = min((number for number in joined if number is not None), default=None)
        if lowest is None:
            return None
        at = joined.index(lowest)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return ids[parts[0]], ids[parts[1]]
