"""Chat in the terminal."""

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

HELP = "/clear starts a new conversation · /temperature 0.8 · /topk 50 · /quit (or Ctrl-D); Ctrl-C stops an answer"

SIGNS = {"<|python_start|>": "[", "<|python_end|>": " = ", "<|output_start|>": "", "<|output_end|>": "] "}
"""Replacements for special tokens in an answer with a calculation: `[3+4 = 7] `."""

PARTS = {"<|python_start|>": "python", "<|output_start|>": "python_output"}
ENDS = ("<|python_end|>", "<|output_end|>")

MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-3, 100.0
"""A lower temperature counts as 0, a higher one is an error: logits divided by it would overflow or underflow."""


@dataclass(frozen=True)
class SamplingParameters:
    """Settings of generation."""

    temperature: float
    top_k: int
    max_tokens: int
    seed: int


def chat(model_folder: Path, prompt: str | None, temperature: float, top_k: int, max_tokens: int, seed: int) -> None:
    """Answers one prompt, or chats until the user quits.

    Raises `BadConfig` for a setting out of range, or a prompt longer than the model's context.
    """
    if max_tokens < 1 or not 0 <= seed <= MAX_INTEGER:
        raise BadConfig(
            f"`max_tokens` is {max_tokens}, `seed` is {seed}.", hint=f"Use 1 or more, and 0 to {MAX_INTEGER}."
        )
    sampling = SamplingParameters(_checked_temperature(temperature), _checked_top_k(top_k), max_tokens, seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        engine = Engine(load_model(model_folder, device), Tokenizer.load(model_folder / "vocabulary.json"))
    except OSError as error:
        raise from_system(error, "the model") from error
    console = Console()
    if prompt is not None:
        _answer(engine, [{"role": "user", "content": prompt}], sampling, console)
        return
    console.print(f"[dim]{HELP}[/]")
    _converse(engine, sampling, console)


def _converse(engine: Engine, sampling: SamplingParameters, console: Console) -> None:
    messages: list[dict[str, Any]] = []
    while True:
        try:
            line = console.input("[bold cyan]you[/]  ").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if line in ("/quit", "/exit"):
            return
        if line.startswith("/"):
            messages, sampling = _command(line, messages, sampling, console)
        elif line:
            messages.append({"role": "user", "content": line})
            console.print("[bold green]bot[/]  ", end="")
            try:
                answer = _answer(engine, messages, sampling, console)
            except BadConfig as error:
                messages.pop()
                console.print(Text(str(error), "yellow"))
                continue
            messages.append({"role": "assistant", "content": answer})
            sampling = replace(sampling, seed=(sampling.seed + 1) % MAX_INTEGER)


def _checked_temperature(temperature: float) -> float:
    if not 0 <= temperature <= MAX_TEMPERATURE:
        raise BadConfig(f"The temperature {temperature} is out of range.", hint=f"Use 0 to {MAX_TEMPERATURE:g}.")
    return temperature if temperature >= MIN_TEMPERATURE else 0.0


def _checked_top_k(top_k: int) -> int:
    if not 0 <= top_k <= MAX_VOCABULARY:
        raise BadConfig(f"The top k {top_k} is out of range.", hint=f"Use 0 (all) to {MAX_VOCABULARY:,}.")
    return top_k


def _command(
    line: str, messages: list[dict[str, Any]], sampling: SamplingParameters, console: Console
) -> tuple[list[dict[str, Any]], SamplingParameters]:
    word, _, value = line.partition(" ")
    try:
        match word:
            case "/clear":
                return [], sampling
            case "/temperature":
                return messages, replace(sampling, temperature=_checked_temperature(float(value)))
            case "/topk":
                return messages, replace(sampling, top_k=_checked_top_k(int(value)))
            case _:
                console.print(f"[dim]{HELP}[/]")
    except ValueError:
        console.print(Text(f"`{value[:100]}` is not a number.", "yellow"))
    except BadConfig as error:
        console.print(Text(str(error), "yellow"))
    return messages, sampling


def _answer(
    engine: Engine, messages: Sequence[dict[str, Any]], sampling: SamplingParameters, console: Console
) -> list[dict[str, str]]:
    """Streams an answer to the terminal; returns its parts in the form that messages contain.

    A character whose bytes are in several tokens is printed when it is complete.
    """
    ids = render_prompt(engine.tokenizer, messages)
    limit = engine.model.architecture.sequence_len
    if len(ids) >= limit:
        raise BadConfig(
            f"The conversation has {len(ids)} tokens, the model's context {limit}.", hint="`/clear` starts a new one."
        )
    stream = engine.tokenizer.decode_stream()
    signs = {engine.tokenizer.special(name): sign for name, sign in SIGNS.items()}
    answer: list[int] = []
    try:
        for token in engine.stream(
            ids, min(sampling.max_tokens, limit - len(ids)), sampling.temperature, sampling.top_k, sampling.seed
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
    """Splits an answer into text, calculations and results, so that the next turn renders them as in training."""
    begins = {tokenizer.special(name): kind for name, kind in PARTS.items()}
    ends = {tokenizer.special(name) for name in ENDS}
    parts: list[tuple[str, list[int]]] = [("text", [])]
    for token in answer:
        if token in begins or token in ends:
            parts.append((begins.get(token, "text"), []))
        else:
            parts[-1][1].append(token)
    return [{"type": kind, "text": tokenizer.decode(ids)} for kind, ids in parts if ids]
