"""Chat in the terminal, or with a program through pipes: then only answers are on the standard output."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

import psutil
import torch
from rich.text import Text

from nanochat import settings
from nanochat.config.base import MAX_INTEGER
from nanochat.console import Console
from nanochat.errors import NanochatError
from nanochat.inference.answer_text import joined
from nanochat.inference.engine import Engine, EngineSettings
from nanochat.inference.request import FinishReason, Part, PartKind, Request, SamplingParameters
from nanochat.model.files import load_model
from nanochat.serve.conversation import Conversation
from nanochat.serve.terminal_commands import Chat, run_command
from nanochat.serve.terminal_input import Entry, history, read_entry, read_piped_line
from nanochat.system_errors import from_system
from nanochat.tokenizer.bpe import Tokenizer

YOU = "\001\033[1;36m\002you\001\033[0m\002  "
"""The prompt; \\\\001 and \\\\002 enclose what has no width, for readline."""
BOT = "\033[1;32mbot\033[0m  "
"""Before an answer. From then on Ctrl-C stops the answer, not the program."""
UNSAFE = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160)))
"""Control characters but tab and newline: a model must not control the terminal."""
BETWEEN = {
    ("text", "python"): "[",
    ("python", "python_output"): " = ",
    ("python", "text"): "] ",
    ("python_output", "text"): "] ",
    ("python_output", "python"): "] [",
}
"""Text between two parts of an answer: `[3+4 = 7] It is 7.`"""


def open_chat(model_folder: Path, sampling: SamplingParameters, system: str = "") -> Chat:
    """An empty conversation with a model."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        tokenizer = Tokenizer.load(model_folder / "vocabulary.json")
        engine = Engine(load_model(model_folder, device), tokenizer, EngineSettings(slots=1))
    except OSError as error:
        raise from_system(error, "the model") from error
    return Chat(engine, sampling, Conversation(system=system))


def converse(chat: Chat, title: str, *, timed: bool = False) -> None:
    """Talks with a person at a terminal until they leave."""
    console = Console()
    console.print(Text(title), Text("`/help` lists the commands.", "dim"), sep="\n")
    you, bot = (YOU, BOT) if console.color_system else ("you  ", "bot  ")
    interrupted = False
    with history(settings.home() / "chat_history"):
        while True:
            try:
                entry = read_entry(input, you)
                interrupted = False
                console.print(take(chat, entry), style="dim", end="", markup=False)
                if _has_question(chat):
                    interrupted = answer(chat, timed=timed, label=bot, safe=True) == "cancelled"
            except EOFError:
                console.print()
                return
            except KeyboardInterrupt:
                console.print()
                if interrupted:
                    return
                interrupted = True
                console.print("Ctrl-C once more, or Ctrl-D, to leave.", style="dim")
            except NanochatError as error:
                console.print(Text(str(error), "yellow"))


def serve_pipe(chat: Chat, *, timed: bool = False) -> None:
    """Answers the entries of the standard input. Raises at the first wrong one, and `KeyboardInterrupt` for Ctrl-C."""
    while True:
        try:
            sys.stderr.write(take(chat, read_entry(read_piped_line, "")))
        except EOFError:
            return
        if _has_question(chat) and answer(chat, timed=timed) == "cancelled":
            raise KeyboardInterrupt


def take(chat: Chat, entry: Entry) -> str:
    """Adds an entry to the conversation, or runs it as a command; returns a note. Raises `EOFError` to leave."""
    if entry.text.startswith("/") and not entry.is_block:
        note = run_command(chat, entry.text)
        return f"{note}\n" if note else ""
    if entry.text:
        chat.conversation.ask(entry.text)
    return ""


def _has_question(chat: Chat) -> bool:
    messages = chat.conversation.messages
    return bool(messages) and messages[-1]["role"] == "user"


def answer(chat: Chat, *, timed: bool, label: str = "", safe: bool = False) -> FinishReason:
    """Generates, prints and remembers the answer to the last question; `safe` removes control characters.

    Raises `BadConfig` when the conversation is too long or a parameter out of range; its last question is removed.
    """
    engine = chat.engine
    kind: PartKind = "text"
    parts: list[Part] = []
    finish: FinishReason | None = None
    clock, cancelled = _Clock(), False
    with _interrupts() as pressed:
        try:
            prompt = chat.conversation.prompt(engine.tokenizer, engine.context_tokens)
            number = engine.submit(Request(prompt=prompt, sampling=chat.sampling))
        except NanochatError:
            chat.conversation.take_back()
            raise
        _write(label)
        while finish is None:
            if pressed and not cancelled:
                engine.cancel(number)
                cancelled = True
            for delta in engine.step():
                clock.count(len(delta.ids))
                for part in filter(lambda part: part.text, delta.parts):  # an empty one only ends a part
                    _write(BETWEEN.get((kind, part.kind), ""), part.text.translate(UNSAFE) if safe else part.text)
                    kind = part.kind
                    parts.append(part)
                finish = delta.finish
    _write(BETWEEN.get((kind, "text"), "").rstrip(), " …\n" if finish == "cancelled" else "\n")
    if timed:
        sys.stderr.write(clock.report())
    chat.conversation.answer(joined(parts))
    chat.sampling = replace(chat.sampling, seed=(chat.sampling.seed + 1) % MAX_INTEGER)
    return finish


def _write(*texts: str) -> None:
    sys.stdout.write("".join(texts))
    sys.stdout.flush()


class _Clock:
    """Measures one answer."""

    def __init__(self) -> None:
        self._began = self._first = self._last = time.time()
        self._tokens = 0

    def count(self, tokens: int) -> None:
        if tokens:
            self._last = time.time()
            if not self._tokens:
                self._first = self._last
            self._tokens += tokens

    def report(self) -> str:
        started = psutil.Process().create_time()
        speed = f"{(self._tokens - 1) / (self._last - self._first):,.0f} tokens/s" if self._last > self._first else ""
        return (
            f"first token {self._first - self._began:.3f} s after the question, {self._first - started:.2f} s after "
            f"the start of the program; {self._tokens} tokens; {speed}\n"
        )


@contextmanager
def _interrupts() -> Generator[list[int]]:
    """Makes Ctrl-C append to the list, so that no step of the engine is interrupted; the second one raises."""
    pressed: list[int] = []

    def press(number: int, frame: FrameType | None) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)

    before = signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)
