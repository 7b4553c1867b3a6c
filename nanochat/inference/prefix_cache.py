"""Keys and values of tokens that were computed before, in blocks of 16 tokens.

    hash of block 0 = H(salt, ids 0…15)      hash of block n = H(hash of block n - 1, its ids)

So a hash stands for a whole prefix, and a lookup walks along a prompt until a hash is unknown. At a boundary, nothing
else is needed to continue: smear needs the id of the previous token, which is in the prompt. The least recently used
blocks are dropped first, and of one prefix the last ones, since a block is of no use without those before it.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence

from nanochat.inference.decoder import Block

BLOCK_TOKENS = 16


class Prefix:
    """The hashes of the first blocks of a row of tokens."""

    def __init__(self, salt: str = "") -> None:
        self._root = _digest(salt.encode())
        self.chain: list[bytes] = []

    def copy(self) -> Prefix:
        other = Prefix()
        other._root, other.chain = self._root, list(self.chain)
        return other

    @property
    def tokens(self) -> int:
        """Tokens in the blocks."""
        return len(self.chain) * BLOCK_TOKENS

    def next(self, ids: Sequence[int]) -> bytes:
        """The hash of the next block of the row `ids`."""
        content = array("q", ids[self.tokens : self.tokens + BLOCK_TOKENS]).tobytes()
        return _digest((self.chain[-1] if self.chain else self._root) + content)


class PrefixCache:
    """Blocks by hash, at most `limit_tokens` tokens; 0 keeps nothing."""

    def __init__(self, limit_tokens: int) -> None:
        self._limit_blocks = limit_tokens // BLOCK_TOKENS
        self._blocks: OrderedDict[bytes, Block] = OrderedDict()
        """The least recently used first."""

    @property
    def enabled(self) -> bool:
        return self._limit_blocks > 0

    @property
    def tokens(self) -> int:
        return len(self._blocks) * BLOCK_TOKENS

    def find(self, prefix: Prefix, ids: Sequence[int]) -> list[Block]:
        """Extends a prefix by the known blocks of `ids`, and returns these.

        The last token is never taken from a block: its output is needed.
        """
        found: list[Block] = []
        while prefix.tokens + BLOCK_TOKENS < len(ids):
            digest = prefix.next(ids)
            block = self._blocks.get(digest)
            if block is None:
                break
            prefix.chain.append(digest)
            found.append(block)
        self._touch(prefix)
        return found

    def get(self, digest: bytes) -> Block | None:
        return self._blocks.get(digest)

    def put(self, prefix: Prefix, block: Block) -> None:
        """Adds the last block of a prefix."""
        if self.enabled:
            self._blocks[prefix.chain[-1]] = block
            self._touch(prefix)
            while len(self._blocks) > self._limit_blocks:
                self._blocks.popitem(last=False)

    def clear(self) -> None:
        self._blocks.clear()

    def _touch(self, prefix: Prefix) -> None:
        """Marks the blocks of a prefix as used just now; the first one last, so that it stays the longest."""
        for digest in reversed(prefix.chain):
            if digest in self._blocks:
                self._blocks.move_to_end(digest)


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()
