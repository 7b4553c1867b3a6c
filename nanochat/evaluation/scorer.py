"""Scores continuations with the slots of a decoder.

    contexts → chains of rows (a context with one of its continuations, but for its last token) → slots
    pass     the next tokens of the row of each slot; what earlier rows of the chain computed is not computed again
    head     only where a token is scored, for many rows at once

A context is computed once: its second continuation overwrites the first one in the slot, from the end of the context
on. So does a context that begins as the one before it. A token has the same output in any pass (`decoder.py`), so
scores do not depend on what is computed together.

Shapes: N outputs · C channels · V vocabulary
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nanochat.evaluation.language_model import Context, Score
from nanochat.inference.decoder import Decoder, Rows
from nanochat.inference.threads import one_torch_thread

HEAD_ROWS = 64
"""Outputs for which the head is computed at once: its matrix is the largest, and is read once for all of them."""
CHAIN_CONTEXTS = 8
"""Most contexts that are computed one after another in one slot because they begin alike."""


@dataclass
class _Row:
    """Tokens to compute in a slot, and which of their outputs are needed."""

    context: int
    ids: list[int]
    shared: int
    """First tokens that the row before it in the slot has too."""
    continuation: int


@dataclass
class _Slot:
    """What a slot computes."""

    number: int
    rows: deque[_Row]
    position: int = 0
    written: int = 0
    """One more than the last position that has been written."""


@dataclass
class _Pending:
    """The scores of a context, while they are computed."""

    nats: list[list[float]]
    most_likely: list[list[int]]
    left: int
    """Tokens that have no score yet."""


@dataclass
class _Outputs:
    """Outputs that wait for the head, and the tokens that each of them scores."""

    hidden: list[Tensor] = field(default_factory=list)
    rows: int = 0
    targets: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    """Row, context, continuation, place in it, token."""


class Scorer:
    """Scores with all `slots` of a decoder."""

    def __init__(self, decoder: Decoder, slots: int) -> None:
        self._decoder, self._slots = decoder, slots

    def score(self, contexts: Sequence[Context]) -> Iterator[list[Score]]:
        """The scores of each context's continuations, in the order of the contexts; those begin first too."""
        chains = deque(_chains(contexts))
        pending = {number: _pending(context) for number, context in enumerate(contexts)}
        free, busy, outputs, following = list(range(self._slots)), list[_Slot](), _Outputs(), 0
        while chains or busy:
            while chains and free:
                busy.append(_Slot(free.pop(), deque(chains.popleft())))
                self._begin(busy[-1])
            with one_torch_thread():
                self._pass(contexts, busy, outputs)
            free += [slot.number for slot in busy if not slot.rows]
            busy = [slot for slot in busy if slot.rows]
            if outputs.rows >= HEAD_ROWS or not (chains or busy):
                with one_torch_thread():
                    self._head(outputs, pending)
                outputs = _Outputs()
            while following in pending and not pending[following].left:
                yield _scores(contexts[following], pending.pop(following))
                following += 1

    def _begin(self, slot: _Slot) -> None:
        """Begins a row where it differs from the one before it, unless a ring has lost what that position needs."""
        row = slot.rows[0]
        kept = slot.written <= self._decoder.kept_tokens
        near = slot.written - row.shared <= self._decoder.longest_run_tokens
        slot.position = row.shared if kept or near else 0

    def _pass(self, contexts: Sequence[Context], busy: Sequence[_Slot], outputs: _Outputs) -> None:
        rows = Rows()
        runs: list[tuple[_Slot, int, int]] = []
        for slot in busy:
            ids, start = slot.rows[0].ids, slot.position
            stop = min(len(ids), start + self._decoder.longest_run_tokens)
            runs.append((slot, len(rows), stop))
            rows.add(slot.number, start, ids[start:stop], ids[start - 1] if start else None)
        hidden_NC = self._decoder.forward(rows)
        for slot, first, stop in runs:
            row = slot.rows[0]
            _keep(contexts[row.context], row, (slot.position, stop), hidden_NC[first:], outputs)
            slot.position = stop
            slot.written = max(slot.written, stop)
            if stop == len(row.ids):
                slot.rows.popleft()
                if slot.rows:
                    self._begin(slot)

    def _head(self, outputs: _Outputs, pending: dict[int, _Pending]) -> None:
        hidden_NC = torch.cat(outputs.hidden)
        targets = iter(outputs.targets)
        target = next(targets, None)
        for start in range(0, len(hidden_NC), HEAD_ROWS):
            logits_NV = self._decoder.logits(hidden_NC[start : start + HEAD_ROWS])
            best_N = logits_NV.argmax(-1).tolist()
            logprobs_NV = logits_NV.log_softmax(-1)
            here: list[tuple[int, int, int, int, int]] = []
            while target is not None and target[0] < start + HEAD_ROWS:
                here.append(target)
                target = next(targets, None)
            index = torch.tensor([(row - start, token) for row, *_, token in here], device=logits_NV.device).T
            nats = (-logprobs_NV[index[0], index[1]]).tolist()
            for (row, context, continuation, place, _), nat in zip(here, nats, strict=True):
                scores = pending[context]
                scores.nats[continuation][place] = nat
                scores.most_likely[continuation][place] = best_N[row - start]
                scores.left -= 1


def _pending(context: Context) -> _Pending:
    lengths = [len(ids) for ids in context.continuations]
    return _Pending([[0.0] * length for length in lengths], [[0] * length for length in lengths], sum(lengths))


def _scores(context: Context, pending: _Pending) -> list[Score]:
    return [
        Score(tuple(nats), tuple(best), tuple(best) == ids)
        for nats, best, ids in zip(pending.nats, pending.most_likely, context.continuations, strict=True)
    ]


def _keep(context: Context, row: _Row, span: tuple[int, int], hidden_NC: Tensor, outputs: _Outputs) -> None:
    """Keeps those of a row's outputs at the positions of `span` that score a token."""
    start, stop = span
    after = len(context.ids)
    whole = row.shared < after  # the row computes the end of its context, which scores all first tokens
    first = max(start, after - 1 if whole else after)
    if first >= stop:
        return
    for position in range(first, stop):
        at = outputs.rows + position - first
        place = position - after + 1
        if place == 0:
            outputs.targets += [
                (at, row.context, number, 0, ids[0]) for number, ids in enumerate(context.continuations)
            ]
        else:
            ids = context.continuations[row.continuation]
            outputs.targets.append((at, row.context, row.continuation, place, ids[place]))
    outputs.hidden.append(hidden_NC[first - start : stop - start])
    outputs.rows += stop - first


def _chains(contexts: Sequence[Context]) -> list[list[_Row]]:
    """The rows of the contexts; contexts that mostly begin as the one before them are in one chain."""
    chains: list[list[_Row]] = []
    before: tuple[int, ...] = ()
    length = 0
    for number, context in enumerate(contexts):
        shared = min(_common(before, context.ids), len(context.ids) - 1)
        if not chains or 2 * shared < len(context.ids) or length == CHAIN_CONTEXTS:
            chains.append([])
            shared = length = 0
        chains[-1] += _rows(number, context, shared)
        before = context.ids
        length += 1
    return chains


def _rows(number: int, context: Context, shared: int) -> list[_Row]:
    """A row for each continuation of more than one token; there is one at least, which computes the context."""
    longer = [index for index, ids in enumerate(context.continuations) if len(ids) > 1] or [0]
    return [
        _Row(number, [*context.ids, *context.continuations[index][:-1]], len(context.ids) if later else shared, index)
        for later, index in enumerate(longer)
    ]


def _common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    for length, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return length
    return min(len(one), len(other))
