"""A conversation in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.text import Text

from nanochat.config.base import MAX_INTEGER, MAX_VOCABULARY
from nanochat.console import Console
from nanochat.errors import BadConfig
from nanochat.inference.engine import Engine
from nanochat.model.files import load_model
from nanochat.system_errors import from_system
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.tokenizer.chat import render_prompt

HELP = "/clear a new conversation · /temperature 0.8 · /topk 50 · /quit (or Ctrl-D); Ctrl-C stops an answer"

SIGNS = {"<|python_start|>": "[", "<|python_end|>": " = ", "<|output_start|>": "", "<|output_end|>": "] "}
"""How the calculator's part of an answer is shown: `[3+4 = 7] `."""

PARTS = {"<|python_start|>": "python", "<|output_start|>": "python_output"}
ENDS = ("<|python_end|>", "<|output_end|>")

COLDEST, HOTTEST = 1e-3, 100.0
"""Temperatures outside are 0, or refused: the logits divided by them are no numbers any more."""


@dataclass(frozen=True)
class Manner:
    """How answers are drawn."""

    temperature: float
    top_k: int
    max_tokens: int
    seed: int


def chat(model_folder: Path, prompt: str | None, temperature: float, top_k: int, max_tokens: int, seed: int) -> None:
    """Answers one prompt, or holds a conversation until its user leaves.

    Raises `BadConfig` on a setting out of range, or a prompt longer than the model sees.
    """
    if max_tokens < 1 or not 0 <= seed <= MAX_INTEGER:
        raise BadConfig(
            f"`max_tokens` is {max_tokens}, `seed` is {seed}.", hint=f"Take 1 or more, and 0 to {MAX_INTEGER}."
        )
    manner = Manner(_warm(temperature), _top_k(top_k), max_tokens, seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        engine = Engine(load_model(model_folder, device), Tokenizer.load(model_folder / "vocabulary.json"))
    except OSError as error:
        raise from_system(error, "the model") from error
    console = Console()
    if prompt is not None:
        _answer(engine, [{"role": "user", "content": prompt}], manner, console)
        return
    console.print(f"[dim]{HELP}[/]")
    _converse(engine, manner, console)


def _converse(engine: Engine, manner: Manner, console: Console) -> None:
    messages: list[dict[str, Any]] = []
    while True:
        try:
            said = console.input("[bold cyan]you[/]  ").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if said in ("/quit", "/exit"):
            return
        if said.startswith("/"):
            messages, manner = _command(said, messages, manner, console)
        elif said:
            messages.append({"role": "user", "content": said})
            console.print("[bold green]bot[/]  ", end="")
            try:
                answer = _answer(engine, messages, manner, console)
            except BadConfig as error:
                messages.pop()
                console.print(Text(str(error), "yellow"))
                continue
            messages.append({"role": "assistant", "content": answer})
            manner = replace(manner, seed=(manner.seed + 1) % MAX_INTEGER)


def _warm(temperature: float) -> float:
    if not 0 <= temperature <= HOTTEST:
        raise BadConfig(f"The temperature {temperature} is out of range.", hint=f"Take 0 to {HOTTEST:g}.")
    return temperature if temperature >= COLDEST else 0.0


def _top_k(top_k: int) -> int:
    if not 0 <= top_k <= MAX_VOCABULARY:
        raise BadConfig(f"The top k {top_k} is out of range.", hint=f"Take 0 (all) to {MAX_VOCABULARY:,}.")
    return top_k


def _command(
    said: str, messages: list[dict[str, Any]], manner: Manner, console: Console
) -> tuple[list[dict[str, Any]], Manner]:
    word, _, value = said.partition(" ")
    try:
        match word:
            case "/clear":
                return [], manner
            case "/temperature":
                return messages, replace(manner, temperature=_warm(float(value)))
            case "/topk":
                return messages, replace(manner, top_k=_top_k(int(value)))
            case _:
                console.print(f"[dim]{HELP}[/]")
    except ValueError:
        console.print(Text(f"`{value[:100]}` is not a number.", "yellow"))
    except BadConfig as error:
        console.print(Text(str(error), "yellow"))
    return messages, manner


def _answer(
    engine: Engine, messages: Sequence[dict[str, Any]], manner: Manner, console: Console
) -> list[dict[str, str]]:
    """Streams an answer, and returns its parts as a conversation holds them.

    Characters whose bytes come in several tokens are shown when they are whole.
    """
    ids = render_prompt(engine.tokenizer, messages)
    limit = engine.model.architecture.sequence_len
    if len(ids) >= limit:
        raise BadConfig(
            f"The conversation has {len(ids)} tokens, the model sees {limit}.", hint="`/clear` begins anew."
        )
    stream = engine.tokenizer.decode_stream()
    signs = {engine.tokenizer.special(name): sign for name, sign in SIGNS.items()}
    answer: list[int] = []
    try:
        for token in engine.stream(
            ids, min(manner.max_tokens, limit - len(ids)), manner.temperature, manner.top_k, manner.seed
        ):
            answer.append(token)
            _show(signs[token] if token in signs else stream.step(token))
        _show(stream.end())
    except KeyboardInterrupt:
        console.print(" [dim]…[/]", end="")
    console.print()
    return _parts(engine.tokenizer, answer)


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _parts(tokenizer: Tokenizer, answer: Sequence[int]) -> list[dict[str, str]]:
    """Text, sums and their results apart, so that the next turn shows the model what it has learnt to see."""
    begins = {tokenizer.special(name): kind for name, kind in PARTS.items()}
    ends = {tokenizer.special(name) for name in ENDS}
    parts: list[tuple[str, list[int]]] = [("text", [])]
    for token in answer:
        if token in begins or token in ends:
            parts.append((begins.get(token, "text"), []))
        else:
            parts[-1][1].append(token)
    return [{"type": kind, "text": tokenizer.decode(ids)} for kind, ids in parts if ids]
