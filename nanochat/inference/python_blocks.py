"""The calculator inside an answer, and the tokens that end an answer.

    text <|python_start|>3+4<|python_end|><|output_start|>7<|output_end|> text <|assistant_end|>
    sampled ··························· | forced ······················ | sampled

The model writes the expression, the engine its value. Nothing else is evaluated, and no signal or timer is needed: the
calculator limits lengths and numbers instead. All other special tokens belong to the chat template. If the model
samples one, its turn is over: in particular, the model cannot write an output itself.
"""

from __future__ import annotations

from nanochat.inference.request import PartKind
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.tools.calculator import MAX_CHARACTERS, calculate

MAX_BLOCK_TOKENS = MAX_CHARACTERS
"""A longer block is not evaluated: a token has one character or more, except in the middle of one."""


class Markers:
    """The special tokens that mean something to the engine, of one vocabulary.

    Raises `NoSuchToken` if the vocabulary lacks one of the chat template.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        special = tokenizer.special
        self.python_start, self.python_end = special("<|python_start|>"), special("<|python_end|>")
        self.output_start, self.output_end = special("<|output_start|>"), special("<|output_end|>")
        self.end = frozenset({special("<|assistant_end|>"), tokenizer.bos})
        """Tokens that end an answer as intended."""
        self.output = frozenset({self.output_start, self.output_end})
        self.turn = frozenset({special("<|user_start|>"), special("<|user_end|>"), special("<|assistant_start|>")})
        self.parts: dict[int, PartKind] = {
            self.python_start: "python",
            self.python_end: "text",
            self.output_start: "python_output",
            self.output_end: "text",
        }
        """The kind of part that begins at each marker."""


class PythonBlocks:
    """Follows the tokens of one answer, and evaluates its python blocks."""

    def __init__(self, tokenizer: Tokenizer, markers: Markers) -> None:
        self._tokenizer, self._markers = tokenizer, markers
        self._block: list[int] | None = None

    def step(self, token: int) -> list[int]:
        """The tokens that follow `token` without sampling: the output of the block that it ends, or none.

        A block begins again at a second start marker. An end marker without a start, and a block that is not an
        expression, have no output.
        """
        if token == self._markers.python_start:
            self._block = []
        elif self._block is not None:
            if token != self._markers.python_end:
                if len(self._block) <= MAX_BLOCK_TOKENS:
                    self._block.append(token)
                return []
            block, self._block = self._block, None
            result = calculate(self._tokenizer.decode(block)) if len(block) <= MAX_BLOCK_TOKENS else None
            if result is not None:
                return [self._markers.output_start, *self._tokenizer.encode(result), self._markers.output_end]
        return []
