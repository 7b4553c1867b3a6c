"""A conversation in the terminal."""

from __future__ import annotations

import codecs
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console

from nanochat.errors import BadConfig
from nanochat.inference.engine import Engine
from nanochat.model.files import load_model
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.tokenizer.chat import render_prompt

HELP = "/clear a new conversation · /temperature 0.8 · /topk 50 · /quit (or Ctrl-D); Ctrl-C stops an answer"

SIGNS = {"<|python_start|>": "[", "<|python_end|>": " = ", "<|output_start|>": "", "<|output_end|>": "] "}
"""How the calculator's part of an answer is shown: `[3+4 = 7] `."""


@dataclass(frozen=True)
class Manner:
    """How answers are drawn."""

    temperature: float
    top_k: int
    max_tokens: int
    seed: int


def chat(model_folder: Path, prompt: str | None, temperature: float, top_k: int, max_tokens: int, seed: int) -> None:
    """Answers one prompt, or holds a conversation until its user leaves."""
    manner = Manner(temperature, top_k, max_tokens, seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    engine = Engine(load_model(model_folder, device), Tokenizer.load(model_folder / "vocabulary.json"))
    console = Console(highlight=False)
    if prompt is not None:
        _answer(engine, [{"role": "user", "content": prompt}], manner, console)
        return
    console.print(f"[dim]{HELP}[/]")
    _converse(engine, manner, console)


def _converse(engine: Engine, manner: Manner, console: Console) -> None:
    messages: list[dict[str, str]] = []
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
            messages.append({"role": "assistant", "content": _answer(engine, messages, manner, console)})
            manner = replace(manner, seed=manner.seed + 1)


def _command(
    said: str, messages: list[dict[str, str]], manner: Manner, console: Console
) -> tuple[list[dict[str, str]], Manner]:
    word, _, value = said.partition(" ")
    try:
        match word:
            case "/clear":
                return [], manner
            case "/temperature":
                return messages, replace(manner, temperature=max(0.0, float(value)))
            case "/topk":
                return messages, replace(manner, top_k=max(0, int(value)))
            case _:
                console.print(f"[dim]{HELP}[/]")
    except ValueError:
        console.print(f"[yellow]`{value}` is not a number.[/]")
    return messages, manner


def _answer(engine: Engine, messages: list[dict[str, str]], manner: Manner, console: Console) -> str:
    """Streams an answer; characters whose bytes come in several tokens are shown when they are whole."""
    ids = render_prompt(engine.tokenizer, messages)
    limit = engine.model.architecture.sequence_len
    if len(ids) >= limit:
        raise BadConfig(
            f"The conversation has {len(ids)} tokens, the model sees {limit}.", hint="`/clear` begins anew."
        )
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    signs = {engine.tokenizer.special(name): sign for name, sign in SIGNS.items()}
    shown: list[str] = []
    try:
        for token in engine.stream(
            ids, min(manner.max_tokens, limit - len(ids)), manner.temperature, manner.top_k, manner.seed
        ):
            text = signs[token] if token in signs else decoder.decode(engine.tokenizer.decode_bytes([token]))
            shown.append(text)
            sys.stdout.write(text)
            sys.stdout.flush()
    except KeyboardInterrupt:
        console.print(" [dim]…[/]", end="")
    console.print()
    return "".join(shown).strip() or "…"
