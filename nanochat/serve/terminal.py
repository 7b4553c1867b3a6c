"""Chat in the terminal."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.text import Text

from nanochat.config.base import MAX_INTEGER, MAX_VOCABULARY
from nanochat.console import Console
from nanochat.errors import BadConfig
from nanochat.inference.answer_text import joined
from nanochat.inference.engine import Engine
from nanochat.inference.request import Part, Request, SamplingParameters
from nanochat.inference.validation import MAX_TEMPERATURE
from nanochat.model.files import load_model
from nanochat.system_errors import from_system
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.tokenizer.chat import render_prompt

HELP = "/clear starts a new conversation · /temperature 0.8 · /topk 50 · /quit (or Ctrl-D); Ctrl-C stops an answer"

SIGNS = {("text", "python"): "[", ("python", "text"): " = ", ("python_output", "text"): "] "}
"""What is shown between two parts of different kinds: `[3+4 = 7] `."""


def chat(model_folder: Path, prompt: str | None, temperature: float, top_k: int, max_tokens: int, seed: int) -> None:
    """Answers one prompt, or chats until the user quits.

    Raises `BadConfig` for a setting out of range, or a prompt longer than the model's context.
    """
    if max_tokens < 1 or not 0 <= seed <= MAX_INTEGER:
        raise BadConfig(
            f"`max_tokens` is {max_tokens}, `seed` is {seed}.", hint=f"Use 1 or more, and 0 to {MAX_INTEGER}."
        )
    sampling = SamplingParameters(
        max_tokens=max_tokens, temperature=_checked_temperature(temperature), top_k=_checked_top_k(top_k), seed=seed
    )
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
    return temperature


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
    prompt = render_prompt(engine.tokenizer, messages)
    if len(prompt) >= engine.context_tokens:
        raise BadConfig(
            f"The conversation has {len(prompt)} tokens, the model's context {engine.context_tokens}.",
            hint="`/clear` starts a new one.",
        )
    parts: list[Part] = []
    try:
        for delta in engine.stream(Request(prompt=prompt, sampling=sampling)):
            for part in delta.parts:
                _show(SIGNS.get((parts[-1].kind if parts else "text", part.kind), "") + part.text)
                parts.append(part)
    except KeyboardInterrupt:
        console.print(" [dim]…[/]", end="")
    console.print()
    return [{"type": part.kind, "text": part.text} for part in joined(parts)]


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
