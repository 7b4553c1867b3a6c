"""Continuous batching: which requests have slots, and what one step computes.

    step   1. prefill: the oldest waiting request that fits a free slot; what the prefix cache has is loaded, the rest
              is computed in chunks, of `prefill_chunk_tokens` tokens a step together, so that running answers go on
           2. decode: one token of each running answer, in one batch
           3. sampling of both; answers that end leave their slots

Requests start in the order of arrival. The prompt of several answers is computed once: its blocks are loaded into the
slots of the others.

Shapes: B batch · T time · C channels · V vocabulary
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from heapq import heappop, heappush

import torch
from torch import Tensor

from nanochat.inference.decoder import Block, Decoder
from nanochat.inference.generation import Generation, Language
from nanochat.inference.prefix_cache import BLOCK_TOKENS, Prefix, PrefixCache
from nanochat.inference.request import Delta, Request, TokenLogprob
from nanochat.inference.sampling import Sampler, token_logprobs


@dataclass(kw_only=True)
class EngineStatistics:
    """Counts since the engine was made, and its state now."""

    slots: int
    running: int = 0
    """Answers that are generated now."""
    waiting: int = 0
    """Requests with answers that have no slot."""
    prompt_tokens_cached: int = 0
    """Tokens of prompts that the prefix cache had."""
    prompt_tokens_computed: int = 0
    generated_tokens: int = 0
    """Tokens that were sampled or forced, end tokens included."""
    cache_tokens: int = 0
    """Tokens in the prefix cache."""


@dataclass
class _Group:
    """A request with answers that have not finished."""

    number: int
    request: Request
    prompt: list[int]
    prefix: Prefix
    slot: int | None = None
    """The slot of its prompt, until the first answer has it."""
    computed: int = 0
    """Tokens of the prompt in that slot."""
    blocks: list[Block] = field(default_factory=list)
    """The prompt, for the slots of further answers."""
    logits_V: Tensor | None = None  # noqa: N815 - the suffix is its shape
    """Logits after the prompt, once it is computed."""
    prompt_logprobs: list[TokenLogprob | None] = field(default_factory=lambda: [None])
    started: int = 0
    """Answers that have or had slots."""
    unfinished: set[int] = field(default_factory=set)


class Scheduler:
    """Requests, slots and the prefix cache of one decoder."""

    def __init__(
        self, decoder: Decoder, language: Language, slots: int, chunk_tokens: int, prefix_cache_tokens: int
    ) -> None:
        self.decoder = decoder
        self.cache = PrefixCache(prefix_cache_tokens)
        self.statistics = EngineStatistics(slots=slots)
        self._language = language
        self._chunk_tokens = min(chunk_tokens, decoder.longest_prefill_tokens)
        self._sampler = Sampler()
        self._free = list(range(slots))  # a heap: the lowest first, so that slots in use are adjacent
        self._groups: dict[int, _Group] = {}
        self._waiting: deque[_Group] = deque()
        self._running: list[Generation] = []
        self._deltas: list[Delta] = []
        """Those of cancelled answers, until the next step."""

    @property
    def has_work(self) -> bool:
        return bool(self._groups or self._deltas)

    def add(self, number: int, request: Request) -> None:
        """Queues a valid request."""
        prompt = [int(token) for token in request.prompt]
        group = _Group(number, request, prompt, Prefix(request.cache_salt), unfinished=set(range(request.answers)))
        self._groups[number] = group
        self._waiting.append(group)
        self._count()

    def cancel(self, number: int) -> None:
        """Frees the slots of a request, if it is here; its last deltas follow in the next step."""
        group = self._groups.pop(number, None)
        if group is None:
            return
        if group in self._waiting:
            self._waiting.remove(group)
        if group.slot is not None:
            heappush(self._free, group.slot)
        stopped = [generation for generation in self._running if generation.number == number]
        self._running = [generation for generation in self._running if generation.number != number]
        for generation in stopped:
            heappush(self._free, generation.slot)
        self._deltas += [generation.cancel() for generation in stopped]
        unstarted = sorted(group.unfinished - {generation.answer for generation in stopped})
        self._deltas += [Delta(request=number, answer=answer, finish="cancelled") for answer in unstarted]
        self._count()

    def drop_deltas(self) -> None:
        """Forgets the last deltas of cancelled requests."""
        self._deltas = []

    def step(self) -> list[Delta]:
        """One prefill, one decode, and what is now certain of each answer."""
        deltas, self._deltas = self._deltas, []
        started = self._start(deltas)
        logits = [self._decode()] if self._running else []
        logits += [logits_V[None] for _, logits_V in started]
        self._running += [generation for generation, _ in started]
        if self._running:
            deltas += self._sample(torch.cat(logits))
            if started:
                self._running.sort(key=lambda generation: generation.slot)
        self._count()
        return deltas

    # --- prompts ------------------------------------------------------------------------------------------------------

    def _start(self, deltas: list[Delta]) -> list[tuple[Generation, Tensor]]:
        """Answers whose prompts are computed now or before, with the logits after the prompt, (V,)."""
        started: list[tuple[Generation, Tensor]] = []
        budget_tokens = self._chunk_tokens
        while self._waiting and (self._free or self._waiting[0].slot is not None):
            group = self._waiting[0]
            if group.logits_V is None:
                if budget_tokens <= 0:
                    break
                budget_tokens -= self._prefill(group, budget_tokens)
                if group.logits_V is None:
                    break
                if group.request.sampling.prompt_logprobs is not None:
                    logprobs = tuple(group.prompt_logprobs)
                    deltas.append(Delta(request=group.number, answer=0, prompt_logprobs=logprobs))
                if not group.request.sampling.max_tokens:
                    deltas += self._finish_empty(group)
                    continue
            while group.started < group.request.answers and (group.slot is not None or self._free):
                started.append((self._generation(group), group.logits_V))
            if group.started == group.request.answers:
                self._waiting.popleft()
                group.blocks = []
        return started

    def _prefill(self, group: _Group, budget_tokens: int) -> int:
        """Computes the next chunk of a prompt; returns its length in tokens."""
        prompt, sampling = group.prompt, group.request.sampling
        if group.slot is None:
            group.slot = heappop(self._free)
            if sampling.prompt_logprobs is None:
                group.blocks = self.cache.find(group.prefix, prompt)
            self._load(group.slot, group.blocks)
            group.computed = group.prefix.tokens
            self.statistics.prompt_tokens_cached += group.computed
        start = group.computed
        stop = min(start + budget_tokens, len(prompt))
        previous = prompt[start - 1] if start else None
        hidden_TC = self.decoder.prefill(group.slot, start, prompt[start:stop], previous)
        group.computed = stop
        self.statistics.prompt_tokens_computed += stop - start
        if self.cache.enabled or group.request.answers > 1:
            group.blocks += self._save(group.slot, group.prefix, prompt, stop)
        if sampling.prompt_logprobs is not None:
            following = prompt[start + 1 : stop + 1]
            if following:
                logits_TV = self.decoder.logits(hidden_TC[: len(following)])
                group.prompt_logprobs += token_logprobs(logits_TV, following, sampling.prompt_logprobs)
        if stop == len(prompt):
            group.logits_V = self.decoder.logits(hidden_TC[-1:])[0]
            if group.request.answers > 1 and group.prefix.tokens < stop:
                group.blocks.append(self.decoder.save(group.slot, group.prefix.tokens, stop))
        return stop - start

    def _generation(self, group: _Group) -> Generation:
        """The next answer of a computed prompt: in the slot of the prompt, or in another one."""
        slot = group.slot
        if slot is None:
            slot = heappop(self._free)
            self._load(slot, group.blocks)
        group.slot = None
        sampling = group.request.sampling
        limit = min(sampling.max_tokens, self.decoder.context_tokens - len(group.prompt))
        generation = Generation(
            self._language, group.number, group.request, group.started, group.prompt, slot, limit
        )  # fmt: skip
        if self.cache.enabled and group.request.answers == 1:
            generation.prefix = group.prefix
        group.started += 1
        return generation

    def _finish_empty(self, group: _Group) -> list[Delta]:
        """The deltas of a request that wanted nothing but its prompt."""
        self._waiting.popleft()
        assert group.slot is not None
        heappush(self._free, group.slot)
        del self._groups[group.number]
        return [
            Delta(request=group.number, answer=answer, finish="length") for answer in range(group.request.answers)
        ]  # fmt: skip

    # --- answers ------------------------------------------------------------------------------------------------------

    def _decode(self) -> Tensor:
        """Adds the last token of each running answer to its slot; returns the next logits, (B, V)."""
        running = self._running
        pairs = [generation.last_two() for generation in running]
        logits_BV = self.decoder.decode(
            [generation.slot for generation in running],
            [last for last, _ in pairs],
            [generation.tokens - 1 for generation in running],
            [previous for _, previous in pairs],
        )
        for generation in running:
            if generation.prefix is not None and not generation.tokens % BLOCK_TOKENS:
                ids = generation.prompt + generation.row.answer
                self._save(generation.slot, generation.prefix, ids, generation.tokens)
        return logits_BV

    def _sample(self, logits_BV: Tensor) -> list[Delta]:
        ids, logprobs = self._sampler.sample(logits_BV, [generation.row for generation in self._running])
        self.statistics.generated_tokens += len(ids)
        deltas: list[Delta] = []
        finished: list[Generation] = []
        for generation, token, logprob in zip(self._running, ids, logprobs, strict=True):
            delta = generation.accept(token, logprob)
            if delta is not None:
                deltas.append(delta)
                if delta.finish:
                    finished.append(generation)
        if finished:
            self._running = [generation for generation in self._running if generation not in finished]
            for generation in finished:
                heappush(self._free, generation.slot)
                group = self._groups[generation.number]
                group.unfinished.discard(generation.answer)
                if not group.unfinished:
                    del self._groups[generation.number]
        return deltas

    # --- keys and values ----------------------------------------------------------------------------------------------

    def _load(self, slot: int, blocks: list[Block]) -> None:
        for number, block in enumerate(blocks):
            self.decoder.load(slot, number * BLOCK_TOKENS, block)

    def _save(self, slot: int, prefix: Prefix, ids: list[int], stop: int) -> list[Block]:
        """Saves the blocks of a slot that end at `stop` or before it, and are not saved yet; returns these."""
        blocks: list[Block] = []
        while prefix.tokens + BLOCK_TOKENS <= stop:
            start = prefix.tokens
            digest = prefix.next(ids)
            prefix.chain.append(digest)
            block = self.cache.get(digest)
            if block is None:
                block = self.decoder.save(slot, start, start + BLOCK_TOKENS)
                self.cache.put(prefix, block)
            blocks.append(block)
        return blocks

    def _count(self) -> None:
        self.statistics.running = len(self._running)
        self.statistics.waiting = len(self._waiting)
        self.statistics.cache_tokens = self.cache.tokens
