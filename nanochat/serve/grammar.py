"""`response_format`: answers that must be JSON, enforced by the package `llguidance`.

    make = grammar({"type": "json_schema", "json_schema": {"schema": {"type": "object", …}}}, tokenizer)
    Request(prompt=ids, grammar=make)

A schema is compiled once. Each answer has a copy of the result, which follows its tokens byte by byte and lists those
that may come next (10 to 100 µs for 16,384 ids). Special tokens are never text; end tokens are allowed where the JSON
is complete. Space between values is limited, so that a model cannot fill its answer with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from nanochat.errors import BadConfig
from nanochat.inference.request import Grammar
from nanochat.serve.schema_limits import check_schema
from nanochat.tokenizer.bpe import Tokenizer

ENDS = ("<|assistant_end|>", "<|bos|>")
"""The tokens that end an answer."""
JSON_OBJECT = {"type": "object"}
OPTIONS: Any = {
    "whitespace_pattern": r"( |\n {0,16})",
    "lenient": False,  # or unsupported keywords would be ignored
    "coerce_one_of": False,  # or `oneOf` would be enforced as `anyOf`
}
"""They precede those that a schema sets with `x-guidance`."""
CACHED_SCHEMAS, CACHED_VOCABULARIES = 64, 8
MAX_LEXER_STATES = 50_000
"""About 2 kB each; ordinary schemas need some hundred."""
TRIAL_TOKENS = 8


def grammar(response_format: Mapping[str, Any], tokenizer: Tokenizer) -> Callable[[], Grammar] | None:
    """Makes the grammar of one answer; None for ordinary text.

    `response_format` is OpenAI's: `{"type": "text" | "json_object" | "json_schema", "json_schema": {"schema": …}}`. A
    schema is enforced whether or not it is `strict`. Raises `BadConfig` with the reason if a schema is invalid, too
    large, not satisfiable, or has a keyword that cannot be enforced.
    """
    kind = response_format.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        schema: Any = JSON_OBJECT
    elif kind == "json_schema":
        described = response_format.get("json_schema")
        schema = described.get("schema") if isinstance(described, Mapping) else None
        if not isinstance(schema, Mapping):
            raise BadConfig("`response_format.json_schema.schema` must be a JSON schema, which is an object.")
    else:
        raise BadConfig("`response_format.type` must be `text`, `json_object` or `json_schema`.")
    compiled = _compile(check_schema(schema), tokenizer)
    return lambda: JsonGrammar(compiled, tokenizer)


class JsonGrammar:
    """The state of one answer: `Grammar` of `inference/request.py`.

    A schema may exceed llguidance's limits in the middle of an answer. Then only end tokens are allowed, although the
    answer is not `complete`.
    """

    def __init__(self, compiled: LLMatcher, tokenizer: Tokenizer) -> None:
        self._matcher = compiled.deep_copy()
        self._vocab_size = tokenizer.vocab_size
        self._ends = _end_ids(tokenizer)

    @property
    def complete(self) -> bool:
        """Whether the answer is JSON that the schema accepts."""
        return self._matcher.is_accepting() and not self.error

    @property
    def error(self) -> str:
        """The limit that the schema exceeds, or an empty string."""
        return self._matcher.get_error()

    def allowed(self) -> np.ndarray:
        """(V,) bool: whether each id may come next."""
        allowed = np.zeros(self._vocab_size, bool)
        if not self.error:
            bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
            allowed = np.unpackbits(bits, count=self._vocab_size, bitorder="little").view(bool)
        if self.error or not allowed.any():
            allowed[list(self._ends)] = True
        return allowed

    def accept(self, token: int) -> None:
        """The answer continues with an allowed id."""
        if token not in self._ends:
            self._matcher.consume_token(token)


@lru_cache(CACHED_SCHEMAS)
def _compile(schema: str, tokenizer: Tokenizer) -> LLMatcher:
    """The matcher before an answer's first token. Raises `BadConfig`."""
    try:
        text = LLMatcher.grammar_from_json_schema(schema, overrides=OPTIONS)
    except ValueError as error:
        raise _refused(str(error)) from error
    limits = LLParserLimits(max_lexer_states=MAX_LEXER_STATES, verbose_errors=False)
    compiled = LLMatcher(_vocabulary(tokenizer), text, log_level=0, limits=limits)
    if compiled.is_error():
        raise _refused(compiled.get_error())
    _try(JsonGrammar(compiled, tokenizer))
    return compiled


def _try(answer: JsonGrammar) -> None:
    """Raises `BadConfig` for a schema that no answer satisfies, or that exceeds a limit at the first tokens."""
    for _ in range(TRIAL_TOKENS):
        answer.accept(int(answer.allowed().argmax()))
        if answer.error:
            raise _refused(answer.error)


@lru_cache(CACHED_VOCABULARIES)
def _vocabulary(tokenizer: Tokenizer) -> LLTokenizer:
    """Our vocabulary in llguidance's form. An id without text has the name of its special token, or none."""
    names = {number: name for name, number in tokenizer.special_tokens.items()}
    tokens = tokenizer.token_bytes()
    unused = {number for number, token in enumerate(tokens) if token is None}

    class Vocabulary:
        eos_token_id = min(_end_ids(tokenizer))
        bos_token_id = None
        special_token_ids = sorted(unused)

        def __init__(self) -> None:
            self.tokens = [
                names.get(number, f"<|unused_{number}|>").encode() if token is None else token
                for number, token in enumerate(tokens)
            ]

        def __call__(self, text: str) -> list[int]:
            return tokenizer.encode(text)

    return LLTokenizer(
        TokenizerWrapper(Vocabulary()),
        n_vocab=tokenizer.vocab_size,
        eos_token=sorted(_end_ids(tokenizer)),
        slices=LLTokenizer.json_slices(),
    )


def _end_ids(tokenizer: Tokenizer) -> frozenset[int]:
    return frozenset(tokenizer.special_tokens[name] for name in ENDS if name in tokenizer.special_tokens)


def _refused(reason: str) -> BadConfig:
    first = reason.strip().splitlines()[0][:300] if reason.strip() else "no reason is known"
    return BadConfig(f"`response_format`: this schema cannot be enforced: {first.rstrip('.')}.")
