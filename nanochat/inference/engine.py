"""Generation for a batch of prompts with one cache; rows stop independently, and the model can use the calculator.

When the model closes a python block, the engine evaluates the expression in it and appends the result between output
tokens; the model continues after it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from nanochat.errors import BadConfig
from nanochat.inference.kv_cache import KVCache
from nanochat.inference.sampling import sample
from nanochat.model.fused import norm
from nanochat.model.gpt import GPT
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.tools.calculator import calculate


@dataclass
class _Row:
    """The state of one prompt's generation."""

    answer: list[int] = field(default_factory=list)
    forced: list[int] = field(default_factory=list)
    """Tokens to append before sampling continues: the calculator's result."""
    block: list[int] | None = None
    """Tokens of the open python block."""
    done: bool = False


class Engine:
    """Generates tokens with one model."""

    def __init__(self, model: GPT, tokenizer: Tokenizer) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.stops = {tokenizer.special("<|assistant_end|>"), tokenizer.bos}
        self._python = tokenizer.special("<|python_start|>"), tokenizer.special("<|python_end|>")
        self._output = tokenizer.special("<|output_start|>"), tokenizer.special("<|output_end|>")

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_tokens: int,
        temperature: float = 0.0,
        top_k: int = 0,
        seed: int = 42,
        stop: bool = True,
    ) -> list[list[int]]:
        """The generated ids of each prompt, without the stop token; `stop=False` ignores stop tokens."""
        rows = [_Row() for _ in prompts]
        for _ in self._run(prompts, rows, max_tokens, temperature, top_k, seed, stop):
            pass
        return [row.answer for row in rows]

    def stream(
        self, prompt: Sequence[int], max_tokens: int, temperature: float = 0.0, top_k: int = 0, seed: int = 42
    ) -> Iterator[int]:
        """The generated ids of one prompt, as they are generated."""
        rows = [_Row()]
        shown = 0
        for _ in self._run([prompt], rows, max_tokens, temperature, top_k, seed, True):
            yield from rows[0].answer[shown:]
            shown = len(rows[0].answer)

    @torch.inference_mode()
    def _run(
        self,
        prompts: Sequence[Sequence[int]],
        rows: list[_Row],
        max_tokens: int,
        temperature: float,
        top_k: int,
        seed: int,
        stop: bool,
    ) -> Iterator[None]:
        """Appends a token to each row that is not done, and yields; ends when all are done."""
        if any(not prompt for prompt in prompts):
            raise BadConfig("A prompt has no tokens.", hint="Begin it with BOS.")
        device = self.model.embedding.weight.device
        generator = torch.Generator(device=device).manual_seed(seed)
        longest = max(len(prompt) for prompt in prompts)
        dtype = self.model.activation_dtype
        cache = KVCache(self.model.architecture, len(prompts), longest + max_tokens, dtype, device)
        lengths_B = torch.tensor([len(prompt) for prompt in prompts], device=device)
        # right padding; later tokens overwrite its cache entries before a row attends to their positions
        padded = [[*prompt, *[self.tokenizer.bos] * (longest - len(prompt))] for prompt in prompts]
        ids_BT = torch.tensor(padded, device=device)
        logits_BTV = self.model(ids_BT, cache=cache)
        cache.positions_B = lengths_B
        last_B1 = ids_BT.gather(1, lengths_B[:, None] - 1)
        cache.previous_embedding = norm(self.model.embedding(last_B1).to(dtype))
        logits_BV = logits_BTV[torch.arange(len(prompts), device=device), lengths_B - 1]
        for position in range(max_tokens):
            sampled = sample(logits_BV, temperature, top_k, generator).tolist()
            chosen = [self._take(row, token, stop) for row, token in zip(rows, sampled, strict=True)]
            yield
            if position == max_tokens - 1 or all(row.done for row in rows):
                return
            logits_BV = self.model(torch.tensor(chosen, device=device)[:, None], cache=cache)[:, -1]

    def _take(self, row: _Row, sampled: int, stop: bool) -> int:
        """Appends the forced token if there is one, else the sampled token; returns it."""
        token = row.forced.pop(0) if row.forced else sampled
        if row.done or (stop and token in self.stops):
            row.done = True
            return token
        row.answer.append(token)
        start, end = self._python
        if token == start:
            row.block = []
        elif token == end and row.block is not None:
            result = calculate(self.tokenizer.decode(row.block))
            if result is not None:
                row.forced = [self._output[0], *self.tokenizer.encode(result), self._output[1]]
            row.block = None
        elif row.block is not None:
            row.block.append(token)
        return token
