"""A causal language model of Hugging Face, as evaluation uses it.

A context is computed once, alone, and its continuations follow in one batch on copies of its keys and values. So the
scores of a context do not depend on what else is computed, and no padding precedes a token. Answers are generated in
batches, padded on the left; there, rounding differs with the batch (1e-6 in fp32).

Shapes: B batch · T time · V vocabulary
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from nanochat.errors import BadConfig
from nanochat.evaluation.language_model import Context, Generated, Report, Score
from nanochat.evaluation.transformers_generation import Batch, ended
from nanochat.inference.request import SamplingParameters

CACHED_TOKENS = 1 << 15
"""Tokens of the keys and values of the continuations that are computed together."""
GENERATED_ROWS = 16
TEMPLATE_DATE = date(2024, 7, 26)
"""Some chat templates contain today's date: with a fixed one, equal questions have equal prompts every day."""
DATE_FORMATS = ("%Y", "%y", "%m", "%B", "%b", "%d", "%-d", "%A", "%a", "%H", "%M", "%S")


class TransformersModel:
    """A `LanguageModel` made of a model and a tokenizer of transformers (`Any`: its types are loose)."""

    def __init__(
        self,
        network: PreTrainedModel,
        tokenizer: Any,
        *,
        name: str,
        bos: Literal["tokenizer", "always", "never"] = "tokenizer",
    ) -> None:
        config: Any = network.config.get_text_config()
        self.network, self.tokenizer, self.name = network.eval(), tokenizer, name
        self.context_tokens: int | None = getattr(config, "max_position_embeddings", None)
        self.vocabulary_size = int(config.vocab_size)
        self.bos = bos_token(tokenizer, bos, name)
        self.separator: int | None = tokenizer.eos_token_id if self.bos is None else self.bos
        self.ends = end_tokens(network, tokenizer)
        self._device = network.device
        takes = inspect.signature(network.forward).parameters
        self._keeps_logits = "logits_to_keep" in takes
        self._takes_positions = "position_ids" in takes
        self._cache = "cache" if "cache" in takes else "past_key_values"  # its name before transformers 5.24

    # --- text -----------------------------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """The ids of a text; the names of special tokens in it are ordinary text."""
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False).input_ids  # pyright: ignore[reportReturnType] - its types include batches and tensors

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def chat_prompt(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """The ids of a conversation by the model's own template, up to the beginning of the assistant's answer.

        It begins with BOS once, whether the template, the tokenizer or both would add it. Special tokens come from the
        template only: their names in a message are text. Raises `BadConfig` without a template that can render this.
        """
        if not self.tokenizer.chat_template:
            raise BadConfig(
                f"`{self.name}` has no chat template: it is not a chat model.",
                hint="Evaluate it with `--tasks core`, or add a `chat_template.jinja` to its folder.",
            )
        try:
            ids: list[int] = self.tokenizer.apply_chat_template(
                list(messages), chat_template=_with_fixed_date(self.tokenizer.get_chat_template()),
                add_generation_prompt=True, sanitize_control_tokens=True, return_dict=False,
            )  # fmt: skip
        except Exception as error:  # a template is a program of the model's author, with errors of its own
            raise BadConfig(
                f"The chat template of `{self.name}` cannot render a conversation: {error}.",
                hint="Does it allow a system message, and two messages of one role?",
            ) from error
        if self.bos is not None:
            while ids[:1] == [self.bos]:
                del ids[0]
            ids.insert(0, self.bos)
        return ids

    # --- scores -----------------------------------------------------------------------------------------------------

    def score(self, contexts: Sequence[Context], report: Report | None = None) -> Iterator[list[Score]]:
        """The score of each continuation of each context; the longest are computed first.

        Raises `BadConfig` for a context that is empty, or too long together with a continuation.
        """
        for context in contexts:
            self._check(context)
        order = sorted(range(len(contexts)), key=lambda place: -_tokens(contexts[place]))
        scores: dict[int, list[Score]] = {}
        due = 0
        for done, place in enumerate(order, 1):
            scores[place] = self._score(contexts[place])
            if report:
                report(done)
            while due in scores:
                yield scores.pop(due)
                due += 1

    def _check(self, context: Context) -> None:
        if not context.ids:
            raise BadConfig(
                f"A context is empty, and `{self.name}` has no BOS token that could begin it.",
                hint="`--set foreign.bos=always`.",
            )
        if self.context_tokens is not None and _tokens(context) > self.context_tokens:
            raise BadConfig(
                f"A context of {len(context.ids):,} tokens and its longest continuation, of "
                f"{_tokens(context) - len(context.ids):,}, exceed the {self.context_tokens:,} tokens of `{self.name}`.",
                hint="Crop the prompts (`overlong=crop`).",
            )

    @torch.inference_mode()
    def _score(self, context: Context) -> list[Score]:
        ids, after = context.ids, context.continuations
        if len(after) == 1:
            logits_BTV, _ = self._forward([[*ids, *after[0][:-1]]], keep=len(after[0]))
            return [_score_of(logits_BTV[0], after[0])]
        longest = max(map(len, after))
        first_BTV, cache = self._forward([ids], keep=1, want_cache=longest > 1)
        if longest == 1:
            return [_score_of(first_BTV[0], each) for each in after]
        if cache is None:  # an architecture whose state cannot be copied
            return [self._score(Context(ids, (each,)))[0] for each in after]
        scores: list[Score] = []
        rows = max(1, CACHED_TOKENS // (len(ids) + longest))
        for begin in range(0, len(after), rows):
            some = after[begin : begin + rows]
            width = max(map(len, some)) - 1
            logits_BTV = first_BTV.expand(len(some), -1, -1)
            if width:
                shared = copy.deepcopy(cache) if begin + rows < len(after) else cache
                shared.batch_repeat_interleave(len(some))
                padded = [[*each[:-1], *[0] * (width - len(each) + 1)] for each in some]
                rest_BTV, _ = self._forward(padded, keep=width, cache=shared)
                logits_BTV = torch.cat([logits_BTV, rest_BTV], 1)
            scores += [
                _score_of(logits_TV[: len(each)], each) for logits_TV, each in zip(logits_BTV, some, strict=True)
            ]
        return scores

    def _forward(
        self, rows: Sequence[Sequence[int]], keep: int, *, cache: Any = None, want_cache: bool = False
    ) -> tuple[Tensor, Any]:
        """Logits of the last `keep` positions of each row, (B, keep, V) fp32, and the cache, if it can be copied."""
        ids_BT = torch.tensor([list(row) for row in rows], device=self._device)
        kept: dict[str, Any] = {"logits_to_keep": keep} if self._keeps_logits else {}
        given: dict[str, Any] = {self._cache: cache} if cache is not None else {}
        out = self.network(input_ids=ids_BT, use_cache=want_cache or cache is not None, **kept, **given)
        made = getattr(out, self._cache, None)
        return out.logits[:, -keep:].float(), made if hasattr(made, "batch_repeat_interleave") else None

    # --- answers ----------------------------------------------------------------------------------------------------

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParameters,
        answers: int = 1,
        report: Report | None = None,
    ) -> Iterator[list[Generated]]:
        """The answers to each prompt, generated in batches of prompts of similar length, the longest first.

        An answer ends at an end token, a stop string or id, `max_tokens`, or the end of the context. It depends on its
        prompt, the seed and its number, not on the batch. Raises `BadConfig` if the context has no room for a prompt.
        """
        for prompt in prompts:
            self._check_room(prompt, sampling.max_tokens)
        order = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
        queue = [(place, number) for place in order for number in range(answers)]
        made: dict[int, list[Generated]] = {}
        due = done = 0
        for begin in range(0, len(queue), GENERATED_ROWS):
            some = queue[begin : begin + GENERATED_ROWS]
            for (place, _), generated in zip(some, self._generate(prompts, some, sampling), strict=True):
                made.setdefault(place, []).append(generated)
                done += len(made[place]) == answers
            if report:
                report(done)
            while len(made.get(due, ())) == answers:
                yield made.pop(due)
                due += 1

    def _check_room(self, prompt: Sequence[int], max_tokens: int) -> None:
        room = self.context_tokens
        if not prompt:
            raise BadConfig("A prompt is empty.", hint="Begin it with BOS.")
        if room is None:
            return
        if max_tokens >= room:
            raise BadConfig(
                f"`max_tokens` is {max_tokens:,}, and `{self.name}` reads {room:,} at most: no room for a prompt.",
                hint="Lower `max_tokens`.",
            )
        if len(prompt) >= room:
            raise BadConfig(
                f"A prompt has {len(prompt):,} tokens, and `{self.name}` reads {room:,} at most.",
                hint="Use fewer shots, or leave the task out.",
            )

    @torch.inference_mode()
    def _generate(
        self, prompts: Sequence[Sequence[int]], rows: Sequence[tuple[int, int]], sampling: SamplingParameters
    ) -> list[Generated]:
        room = self.context_tokens or 1 << 62
        batch = Batch(
            [prompts[place] for place, _ in rows],
            [number for _, number in rows],
            sampling,
            self.ends,
            self.decode,
            room,
        )
        cache: Any = None
        while batch.running:
            ids_BT, mask_BT = batch.inputs(first=cache is None)
            positions_BT = (mask_BT.cumsum(1) - 1).clamp_min(0)[:, -ids_BT.shape[1] :]
            given: dict[str, Any] = {"position_ids": positions_BT.to(self._device)} if self._takes_positions else {}
            if self._keeps_logits:
                given["logits_to_keep"] = 1
            if cache is not None:
                given[self._cache] = cache
            out = self.network(
                input_ids=ids_BT.to(self._device), attention_mask=mask_BT.to(self._device), use_cache=True, **given
            )
            cache = getattr(out, self._cache)
            left = batch.accept(out.logits[:, -1].float())
            if left is not None:
                cache.batch_select_indices(left.to(self._device))
        return [ended(answer, self.decode) for answer in batch.answers]


def bos_token(tokenizer: Any, policy: str, name: str) -> int | None:
    """The id that begins a text: by `tokenizer`, the one that the tokenizer itself puts before a text, if any.

    Raises `BadConfig` for a tokenizer that puts several tokens there, or has no BOS token when one is wanted.
    """
    if policy == "never":
        return None
    if policy == "always":
        if tokenizer.bos_token_id is None:
            raise BadConfig(f"`{name}` has no BOS token.", hint="Leave out `foreign.bos=always`.")
        return int(tokenizer.bos_token_id)
    plain = tokenizer("a", add_special_tokens=False).input_ids
    whole = tokenizer("a").input_ids
    before = whole[: next(place for place in range(len(whole)) if whole[place : place + len(plain)] == plain)]
    if len(before) > 1:
        raise BadConfig(
            f"The tokenizer of `{name}` puts {len(before)} tokens before a text; only one is supported.",
            hint="Choose `foreign.bos=always` or `foreign.bos=never`.",
        )
    return before[0] if before else None


def end_tokens(network: PreTrainedModel, tokenizer: Any) -> frozenset[int]:
    """The ids that end an answer: of the model's generation config, and the tokenizer's."""
    named = getattr(network.generation_config, "eos_token_id", None)
    several = named if isinstance(named, list) else [named]
    return frozenset(int(each) for each in (*several, tokenizer.eos_token_id) if each is not None)


def _tokens(context: Context) -> int:
    return len(context.ids) + max(map(len, context.continuations))


def _score_of(logits_TV: Tensor, ids: Sequence[int]) -> Score:
    ids_T = torch.tensor(ids, device=logits_TV.device)
    nats_T = logits_TV.logsumexp(-1) - logits_TV.gather(1, ids_T[:, None])[:, 0]
    most_likely = tuple(logits_TV.argmax(-1).tolist())
    return Score(tuple(nats_T.tolist()), most_likely, most_likely == tuple(ids))


def _with_fixed_date(template: str) -> str:
    """The template with a `strftime_now` of its own: transformers passes no functions to a template."""
    if "strftime_now" not in template:
        return template
    replaced = "".join(f" | replace('{each}', '{TEMPLATE_DATE.strftime(each)}')" for each in DATE_FORMATS)
    return f"{{% macro strftime_now(format) %}}{{{{ format{replaced} }}}}{{% endmacro %}}{template}"
