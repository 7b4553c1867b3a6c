"""The engine: answers requests in one running batch; for the server, the terminal, evaluation and rollouts.

    engine = Engine(model, tokenizer)
    answers = engine.complete([Request(prompt=ids, answers=8)])        # to the end
    for delta in engine.stream(Request(prompt=ids)): …                 # one request, as it is generated
    number = engine.submit(Request(prompt=ids))                        # a server: requests come and go
    while engine.has_work:
        for delta in engine.step(): …

One thread uses an engine. On a GPU, each step waits for its sampled ids.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

from nanochat.errors import BadConfig
from nanochat.inference.answer_text import joined
from nanochat.inference.decoder import Decoder, WeightFormat
from nanochat.inference.generation import Language
from nanochat.inference.native_decoder import NativeDecoder
from nanochat.inference.request import Answer, Delta, Request
from nanochat.inference.scheduler import EngineStatistics, Scheduler
from nanochat.inference.threads import one_torch_thread
from nanochat.inference.torch_decoder import TorchDecoder
from nanochat.inference.validation import validate
from nanochat.model.gpt import GPT
from nanochat.tokenizer.bpe import Tokenizer


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """Sizes and kinds of what an engine allocates; of these, only `weights` changes answers."""

    slots: int = 32
    """Answers that are generated at once."""
    context_tokens: int = 0
    """Most tokens of prompt and answer together; 0: the length of the model's training rows."""
    prefill_chunk_tokens: int = 256
    """Most tokens of prompts that one step computes, so that running answers do not wait long."""
    prefix_cache_tokens: int = 8192
    """Most tokens whose keys and values are kept for later requests; 0: none."""
    weights: WeightFormat = "fp32"
    """Format of the weights of matrix products."""
    threads: int = 0
    """Threads on a CPU; 0: one for each core."""


class Engine:
    """Answers requests with one model."""

    def __init__(self, model: GPT, tokenizer: Tokenizer, settings: EngineSettings = EngineSettings()) -> None:
        """Raises `BadConfig` if a size is not positive, or the vocabulary is not that of the model."""
        for name in ("slots", "prefill_chunk_tokens"):
            if getattr(settings, name) < 1:
                raise BadConfig(f"`{name}` is {getattr(settings, name)}.", hint="Use 1 or more.")
        self.tokenizer = tokenizer
        self.settings = settings
        self._language = Language(tokenizer)
        self._submitted = 0
        self._use(model)

    def _use(self, model: GPT) -> None:
        settings = self.settings
        self.context_tokens = settings.context_tokens or model.architecture.sequence_len
        self._vocab_size = model.architecture.vocab_size
        if self._vocab_size != self.tokenizer.vocab_size:
            raise BadConfig(
                f"The model has {self._vocab_size:,} ids, the vocabulary {self.tokenizer.vocab_size:,}.",
                hint="Load both from the same folder.",
            )
        self._scheduler = Scheduler(
            make_decoder(model, settings.slots, self.context_tokens, settings.weights, settings.threads),
            self._language,
            settings.slots,
            settings.prefill_chunk_tokens,
            settings.prefix_cache_tokens,
        )

    @property
    def has_work(self) -> bool:
        """Whether `step` has something to compute or to return."""
        return self._scheduler.has_work

    @property
    def statistics(self) -> EngineStatistics:
        """A copy, from any thread."""
        return replace(self._scheduler.statistics)

    def submit(self, request: Request) -> int:
        """Queues a request; returns its number. Raises `BadConfig` for one that cannot be answered."""
        validate(request, self.context_tokens, self._vocab_size)
        self._submitted += 1
        self._scheduler.add(self._submitted, request)
        return self._submitted

    def cancel(self, request: int) -> None:
        """Ends a request, and frees its slots at once; each of its answers gets a last delta in the next step.

        A request that has ended stays as it is.
        """
        self._scheduler.cancel(request)

    def step(self) -> list[Delta]:
        """Computes a chunk of prompts and one token of each running answer; returns what was added to answers."""
        with one_torch_thread():
            return self._scheduler.step()

    def complete(
        self, requests: Sequence[Request], finished: Callable[[int], None] = lambda number: None
    ) -> list[list[Answer]]:
        """The answers of each request. `finished` receives the number of requests that have ended.

        Raises `BadConfig` before anything is computed if one of them cannot be answered.
        """
        assert not self.has_work, "its deltas would be lost"
        for request in requests:
            validate(request, self.context_tokens, self._vocab_size)
        numbers = [self.submit(request) for request in requests]
        deltas: dict[tuple[int, int], list[Delta]] = {
            (number, answer): [] for number, request in zip(numbers, requests, strict=True)
            for answer in range(request.answers)
        }  # fmt: skip
        unfinished = {number: request.answers for number, request in zip(numbers, requests, strict=True)}
        try:
            while self.has_work:
                for delta in self.step():
                    deltas[delta.request, delta.answer].append(delta)
                    if delta.finish:
                        unfinished[delta.request] -= 1
                        if not unfinished[delta.request]:
                            del unfinished[delta.request]
                            finished(len(requests) - len(unfinished))
        finally:
            self._abandon(numbers)
        return [
            [_answer(deltas[number, answer]) for answer in range(request.answers)]
            for number, request in zip(numbers, requests, strict=True)
        ]

    def stream(self, request: Request) -> Generator[Delta]:
        """The deltas of one request. Closing the iterator cancels it. Raises `BadConfig` at the first one."""
        assert not self.has_work, "its deltas would be lost"
        number = self.submit(request)
        try:
            while self.has_work:
                yield from self.step()
        finally:
            self._abandon([number])

    def replace_model(self, model: GPT) -> None:
        """Answers with another model from now on; drops every cache. Only while nothing runs."""
        assert not self.has_work, "its answers would be of two models"
        self._use(model)

    def _abandon(self, numbers: Sequence[int]) -> None:
        """Cancels what has not ended, and drops its last deltas."""
        for number in numbers:
            self.cancel(number)
        self._scheduler.drop_deltas()


def make_decoder(
    model: GPT, slots: int, context_tokens: int, weights: WeightFormat = "fp32", threads: int = 0
) -> Decoder:
    """A decoder for the device of the model; on a CPU it has `threads` threads (0: one for each core).

    Raises `BadConfig` for weights that it does not support.
    """
    model.prepare_positions(context_tokens)  # here, not in inference mode: the model may be trained on
    if model.embedding.weight.device.type == "cpu":
        return NativeDecoder(model, slots, context_tokens, weights, threads)
    return TorchDecoder(model, slots, context_tokens, weights)


def _answer(deltas: Sequence[Delta]) -> Answer:
    """A whole answer from its deltas."""
    last = deltas[-1]
    assert last.finish is not None
    return Answer(
        ids=tuple(token for delta in deltas for token in delta.ids),
        forced=tuple(forced for delta in deltas for forced in delta.forced),
        parts=joined([part for delta in deltas for part in delta.parts]),
        finish=last.finish,
        stopped_by=last.stopped_by,
        end=last.end,
        logprobs=tuple(logprob for delta in deltas for logprob in delta.logprobs),
        prompt_logprobs=tuple(logprob for delta in deltas for logprob in delta.prompt_logprobs),
    )
