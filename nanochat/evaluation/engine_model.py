"""Our own model as a `LanguageModel`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from nanochat.data.loader import IGNORED
from nanochat.evaluation.language_model import Context, Generated, Report, Score
from nanochat.inference.engine import Engine, EngineSettings
from nanochat.inference.request import Request, SamplingParameters
from nanochat.model.gpt import GPT
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.tokenizer.chat import render_prompt

CONTEXTS_PER_PASS = 16


class EngineModel:
    """A model and its tokenizer."""

    def __init__(self, model: GPT, tokenizer: Tokenizer, name: str = "") -> None:
        self.name = name
        self.context_tokens: int | None = None
        self.bos: int | None = tokenizer.bos
        self.vocabulary_size = tokenizer.vocab_size
        self._model, self._tokenizer = model, tokenizer

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids))

    def chat_prompt(self, messages: Sequence[dict[str, str]]) -> list[int]:
        return render_prompt(self._tokenizer, messages)

    def score(self, contexts: Sequence[Context], report: Report | None = None) -> Iterator[list[Score]]:
        for begin in range(0, len(contexts), CONTEXTS_PER_PASS):
            some = contexts[begin : begin + CONTEXTS_PER_PASS]
            pairs = [(each.ids, after) for each in some for after in each.continuations]
            nats = iter(self._nats(pairs))
            for each in some:
                yield [Score(tuple(next(nats)), greedy=False) for _ in each.continuations]
            if report:
                report(begin + len(some))

    @torch.inference_mode()
    def _nats(self, pairs: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> list[list[float]]:
        longest = max(len(prompt) + len(after) for prompt, after in pairs) - 1
        assert self.bos is not None
        ids_BT = torch.full((len(pairs), longest), self.bos, dtype=torch.int64)
        targets_BT = torch.full((len(pairs), longest), IGNORED, dtype=torch.int64)
        for row, (prompt, after) in enumerate(pairs):
            whole = torch.tensor(prompt + after)
            ids_BT[row, : len(whole) - 1] = whole[:-1]
            targets_BT[row, len(prompt) - 1 : len(whole) - 1] = whole[len(prompt) :]
        device = self._model.embedding.weight.device
        nats_BT = self._model(ids_BT.to(device), targets_BT.to(device), reduction="none").cpu()
        return [nats_BT[row, len(p) - 1 : len(p) + len(a) - 1].tolist() for row, (p, a) in enumerate(pairs)]

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: SamplingParameters, answers: int = 1,
        report: Report | None = None,
    ) -> Iterator[list[Generated]]:  # fmt: skip
        if not prompts:
            return
        context_tokens = max(map(len, prompts)) + sampling.max_tokens
        engine = Engine(self._model, self._tokenizer, EngineSettings(context_tokens=context_tokens))
        requests = [Request(prompt=list(prompt), sampling=sampling, answers=answers) for prompt in prompts]
        for some in engine.complete(requests, report or (lambda _: None)):
            yield [Generated(each.ids, each.text, each.finish == "stop") for each in some]
