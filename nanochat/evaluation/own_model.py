"""Our own models as evaluations use them: scores through a decoder, answers through the engine."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from nanochat.config.base import MAX_INTEGER
from nanochat.errors import BadConfig, Diverged
from nanochat.evaluation.language_model import Context, Generated, Report, Score
from nanochat.evaluation.scorer import Scorer
from nanochat.inference.engine import Engine, EngineSettings, make_decoder
from nanochat.inference.request import Request, SamplingParameters
from nanochat.model.architecture import Architecture
from nanochat.model.files import load_model
from nanochat.model.gpt import GPT
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.tokenizer.chat import render_prompt

SLOTS = 8
"""Contexts that are computed at once."""
SLOTS_BYTES = 4 << 30
"""Memory for the keys and values of the slots: less than `SLOTS` if they need more."""
SIZE_TOKENS = 512
"""Slots have a multiple of this number of positions, so that a decoder serves many calls."""


class OwnModel:
    """A model that was trained here, with its tokenizer. See `LanguageModel`."""

    def __init__(
        self, model: GPT, tokenizer: Tokenizer, name: str = "", *, context_tokens: int | None = None,
        slots: int = SLOTS, threads: int = 0,
    ) -> None:  # fmt: skip
        """`context_tokens` limits what the model reads; it could read more. `threads` of 0 uses all cores."""
        self.name = name
        self.context_tokens = context_tokens
        self.bos: int | None = tokenizer.bos
        self.separator: int | None = tokenizer.bos
        self.vocabulary_size = tokenizer.vocab_size
        self._model, self._tokenizer = model, tokenizer
        self._most_slots, self._threads = slots, threads
        self._scorer: Scorer | None = None
        self._scorer_tokens = 0

    @classmethod
    def load(
        cls, folder: Path, device: torch.device | str = "cpu", *, crop: bool = False, threads: int = 0
    ) -> OwnModel:
        """Loads a model. With `crop`, it reads no more than the rows it was trained on.

        Raises `Diverged` if a weight is not finite: generated answers would not show it.
        """
        on_gpu = torch.device(device).type == "cuda"
        model = load_model(folder, device, torch.bfloat16 if on_gpu else torch.float32).eval()
        for name, weight in model.named_parameters():
            if not weight.isfinite().all():
                raise Diverged(f"`{name}` of the model in {folder} is not finite.", hint="Train it again.")
        tokenizer = Tokenizer.load(folder / "vocabulary.json")
        limit = model.architecture.sequence_len if crop else None
        return cls(model, tokenizer, context_tokens=limit, threads=threads)

    @classmethod
    def of_training(cls, model: GPT, tokenizer: Tokenizer, threads: int = 0) -> OwnModel:
        """A model that is being trained, as `load` would read it: it shares the weights and changes nothing."""
        device = model.embedding.weight.device
        with torch.device("meta"):
            same = GPT(model.architecture, torch.bfloat16 if device.type == "cuda" else torch.float32)
        same.load_state_dict(model.state_dict(), assign=True)
        same.cos = same.sin = torch.empty(0, device=device)
        return cls(same.eval(), tokenizer, threads=threads)

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without special tokens."""
        return self._tokenizer.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; special tokens become their names."""
        return self._tokenizer.decode(ids)

    def chat_prompt(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """The ids of a conversation up to the beginning of the assistant's answer."""
        return render_prompt(self._tokenizer, messages)

    def score(self, contexts: Sequence[Context], report: Report | None = None) -> Iterator[list[Score]]:
        """The score of each continuation of each context, in the order of the contexts."""
        if not contexts:
            return
        longest = max(len(context.ids) + max(map(len, context.continuations)) for context in contexts)
        if self.context_tokens is not None and longest > self.context_tokens:
            raise BadConfig(f"A context has {longest} tokens, but the model reads {self.context_tokens}.")
        for done, scores in enumerate(self._with_slots(longest - 1).score(contexts), 1):
            if report is not None:
                report(done)
            yield scores

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: SamplingParameters, answers: int = 1,
        report: Report | None = None,
    ) -> Iterator[list[Generated]]:  # fmt: skip
        """The answers to each prompt, in the order of the prompts. Raises `BadConfig` for one that is too long.

        The text is what the assistant writes to the user: without python blocks and their outputs.
        """
        if not prompts:
            return
        needed = max(map(len, prompts)) + sampling.max_tokens
        if self.context_tokens is not None and needed > self.context_tokens:
            raise BadConfig(
                f"A prompt of {needed - sampling.max_tokens} tokens and an answer of {sampling.max_tokens} do not fit "
                f"into the {self.context_tokens} tokens that the model reads.",
                hint="Allow shorter answers.",
            )
        settings = EngineSettings(context_tokens=needed, threads=self._threads)
        engine = Engine(self._model, self._tokenizer, settings)
        requests = [
            Request(prompt=prompt, sampling=_with_seed_of(prompt, sampling), answers=answers) for prompt in prompts
        ]
        for answered in engine.complete(requests, report or (lambda number: None)):
            yield [Generated(answer.ids, answer.text, answer.finish == "stop") for answer in answered]

    def _with_slots(self, tokens: int) -> Scorer:
        """A scorer for rows of so many tokens."""
        if self._scorer is None or tokens > self._scorer_tokens:
            self._scorer_tokens = -(-tokens // SIZE_TOKENS) * SIZE_TOKENS
            of_slot = _bytes_of_slot(self._model.architecture, self._scorer_tokens)
            slots = max(1, min(self._most_slots, SLOTS_BYTES // of_slot))
            self._scorer = None  # frees its memory first
            decoder = make_decoder(self._model, slots, self._scorer_tokens, threads=self._threads)
            self._scorer = Scorer(decoder, slots)
        return self._scorer


def _with_seed_of(prompt: Sequence[int], sampling: SamplingParameters) -> SamplingParameters:
    """With a seed that also depends on the prompt: from one seed, all prompts would draw the same random numbers."""
    if not sampling.temperature:
        return sampling
    digest = hashlib.blake2b(array("q", [sampling.seed, *prompt]).tobytes(), digest_size=8).digest()
    return replace(sampling, seed=int.from_bytes(digest, "little") & MAX_INTEGER)


def _bytes_of_slot(architecture: Architecture, tokens: int) -> int:
    """About the memory of a slot in fp32."""
    columns = sum(min(window + SIZE_TOKENS, tokens) for window in architecture.windows())
    return 8 * columns * architecture.kv_width
