"""Continuous batching: which requests have slots, and what one step computes.

    step   1. admit: waiting requests get free slots, and what the prefix cache has of their prompts is loaded
           2. one pass over the last token of each running answer and the next tokens of prompts, at most
              `prefill_chunk_tokens` of these together, so that running answers do not wait long
           3. sampling; answers that end leave their slots

Requests start in the order of arrival. The prompt of several answers is computed once: its blocks are loaded into the
slots of the others.

Shapes: N rows of a pass · B running answers · T tokens of a chunk · C channels · V vocabulary
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

import torch
from torch import Tensor

from nanochat.inference.decoder import Block, Decoder, Rows
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


@dataclass(frozen=True)
class _Chunk:
    """The next tokens of a prompt in a pass."""

    group: _Group
    row: int
    """Its first row."""
    length: int

    @property
    def stop(self) -> int:
        """Tokens of the prompt that are computed after it."""
        return self.group.computed + self.length


class Scheduler:
    """Requests, slots and the prefix cache of one decoder."""

    def __init__(
        self, decoder: Decoder, language: Language, slots: int, chunk_tokens: int, prefix_cache_tokens: int
    ) -> None:
        self.decoder = decoder
        self.cache = PrefixCache(prefix_cache_tokens)
        self.statistics = EngineStatistics(slots=slots)
        self._language = language
        self._chunk_tokens = chunk_tokens
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
        """One pass over a token of each running answer and the next tokens of prompts; what is now certain."""
        deltas, self._deltas = self._deltas, []
        rows = self._last_tokens()
        chunks = self._next_chunks(rows)
        logits: list[Tensor] = []
        if len(rows):
            hidden_NC = self.decoder.forward(rows)
            self._save_answers()
            logits.append(self._logits(hidden_NC, chunks))
        started = self._start(deltas)
        self._running += [generation for generation, _ in started]
        if self._running:
            if started:
                logits = [torch.cat([*logits, *(logits_V[None] for _, logits_V in started)])]
            deltas += self._sample(logits[0])
        if started:
            self._running.sort(key=lambda generation: generation.slot)
        self._count()
        return deltas

    # --- prompts ------------------------------------------------------------------------------------------------------

    def _next_chunks(self, rows: Rows) -> list[_Chunk]:
        """Adds the next tokens of prompts, in the order of arrival, as far as there are slots and the budget lasts."""
        chunks: list[_Chunk] = []
        budget_tokens, promised_slots = self._chunk_tokens, 0
        computing: set[bytes] = set()
        for group in self._waiting:
            if group.logits_V is None:
                if budget_tokens <= 0 or not self._admitted(group, len(self._free) - promised_slots, computing):
                    break
                assert group.slot is not None
                start = group.computed
                length = min(budget_tokens, self.decoder.longest_run_tokens, len(group.prompt) - start)
                chunks.append(_Chunk(group, len(rows), length))
                rows.add(
                    group.slot, start, group.prompt[start : start + length], group.prompt[start - 1] if start else None
                )
                budget_tokens -= length
            promised_slots += group.request.answers - group.started - (group.slot is not None)
        return chunks

    def _admitted(self, group: _Group, free_slots: int, computing: set[bytes]) -> bool:
        """Gives a prompt a slot with what the prefix cache has of it, unless it has one.

        Not if a prompt before it computes the next block too: a step later, that block is in the cache.
        """
        if group.slot is None:
            if free_slots <= 0:
                return False
            group.prefix = Prefix(group.request.cache_salt)
            if group.request.sampling.prompt_logprobs is None:
                group.blocks = self.cache.find(group.prefix, group.prompt)
        digest = b""
        if self.cache.enabled and len(group.prompt) >= group.prefix.tokens + BLOCK_TOKENS:
            digest = group.prefix.next(group.prompt)
        if group.slot is None:
            if digest in computing:
                return False
            group.slot = heappop(self._free)
            self._load(group.slot, group.blocks)
            group.computed = group.prefix.tokens
            self.statistics.prompt_tokens_cached += group.computed
        if digest:
            computing.add(digest)
        return True

    def _logits(self, hidden_NC: Tensor, chunks: Sequence[_Chunk]) -> Tensor:
        """Logits of the running answers, (B, V). Prompts that are complete get theirs."""
        complete = [chunk for chunk in chunks if chunk.stop == len(chunk.group.prompt)]
        answers = len(self._running)
        last = [*range(answers), *(chunk.row + chunk.length - 1 for chunk in complete)]
        logits_BV = self.decoder.logits(hidden_NC[last])
        for chunk, logits_V in zip(complete, logits_BV[answers:], strict=True):
            chunk.group.logits_V = logits_V
        for chunk in chunks:
            self._computed(chunk, hidden_NC[chunk.row : chunk.row + chunk.length])
        return logits_BV[:answers]

    def _computed(self, chunk: _Chunk, hidden_TC: Tensor) -> None:
        """Keeps what a chunk of a prompt gave."""
        group, start, stop = chunk.group, chunk.group.computed, chunk.stop
        prompt, logprobs = group.prompt, group.request.sampling.prompt_logprobs
        group.computed = stop
        self.statistics.prompt_tokens_computed += chunk.length
        if self.cache.enabled or group.request.answers > 1:
            assert group.slot is not None
            group.blocks += self._save(group.slot, group.prefix, prompt, stop)
            if stop == len(prompt) and group.request.answers > 1 and group.prefix.tokens < stop:
                group.blocks.append(self.decoder.save(group.slot, group.prefix.tokens, stop))
        following = prompt[start + 1 : stop + 1]
        if logprobs is not None and following:
            logits_TV = self.decoder.logits(hidden_TC[: len(following)])
            group.prompt_logprobs += token_logprobs(logits_TV, following, logprobs)

    def _start(self, deltas: list[Delta]) -> list[tuple[Generation, Tensor]]:
        """New answers of prompts that are computed, with the logits after the prompt, (V,)."""
        started: list[tuple[Generation, Tensor]] = []
        for group in [group for group in self._waiting if group.logits_V is not None]:
            assert group.logits_V is not None
            if not group.started and group.request.sampling.prompt_logprobs is not None:
                logprobs = tuple(group.prompt_logprobs)
                deltas.append(Delta(request=group.number, answer=0, prompt_logprobs=logprobs))
            if not group.request.sampling.max_tokens:
                deltas += self._finish_empty(group)
                continue
            while group.started < group.request.answers and (group.slot is not None or self._free):
                started.append((self._generation(group), group.logits_V))
            if group.started < group.request.answers:
                break
            self._waiting.remove(group)
            group.blocks = []
        return started

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
        self._waiting.remove(group)
        assert group.slot is not None
        heappush(self._free, group.slot)
        del self._groups[group.number]
        return [
            Delta(request=group.number, answer=answer, finish="length") for answer in range(group.request.answers)
        ]  # fmt: skip

    # --- answers ------------------------------------------------------------------------------------------------------

    def _last_tokens(self) -> Rows:
        """The last token of each running answer."""
        rows = Rows()
        for generation in self._running:
            last, previous = generation.last_two()
            rows.add(generation.slot, generation.tokens - 1, [last], previous)
        return rows

    def _save_answers(self) -> None:
        """Saves the blocks of answers that are complete now."""
        for generation in self._running:
            if generation.prefix is not None and not generation.tokens % BLOCK_TOKENS:
                ids = generation.prompt + generation.row.answer
                self._save(generation.slot, generation.prefix, ids, generation.tokens)

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
