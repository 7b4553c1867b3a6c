"""The `/commands` of the terminal chat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from nanochat.errors import BadConfig
from nanochat.inference.engine import Engine
from nanochat.inference.request import Request, SamplingParameters
from nanochat.inference.validation import validate
from nanochat.serve.conversation import Conversation


@dataclass
class Chat:
    """A conversation with one model, and the settings of its answers."""

    engine: Engine
    sampling: SamplingParameters
    conversation: Conversation = field(default_factory=Conversation)


class Command(NamedTuple):
    """A command; `argument` is empty if it takes none."""

    argument: str
    meaning: str
    run: Callable[[Chat, str], str]
    """Changes the chat; returns a note for the user. Raises `BadConfig` and changes nothing."""


def run_command(chat: Chat, line: str) -> str:
    """Runs a line that begins with `/`; returns a note. Raises `BadConfig`, and `EOFError` to leave the chat."""
    word, _, value = line.partition(" ")
    command = COMMANDS.get(word)
    if command is None:
        raise BadConfig(f"There is no command `{word[:100]}`.", hint='`/help` lists them; `"""` begins ordinary text.')
    if value.strip() and not command.argument:
        raise BadConfig(f"`{word}` takes no value.")
    return command.run(chat, value.strip())


def _setter(name: str, kind: Callable[[str], float]) -> Callable[[Chat, str], str]:
    """A command that sets one of the sampling parameters."""

    def run(chat: Chat, value: str) -> str:
        try:
            changed = replace(chat.sampling, **{name: kind(value)})
        except ValueError:
            raise BadConfig(f"`{value[:100]}` is not a number.") from None
        tokenizer = chat.engine.tokenizer
        validate(Request(prompt=[tokenizer.bos], sampling=changed), chat.engine.context_tokens, tokenizer.vocab_size)
        chat.sampling = changed
        return ""

    return run


def _system(chat: Chat, value: str) -> str:
    chat.conversation.system = value
    return "" if value else "There is no system message now."


def _regenerate(chat: Chat, value: str) -> str:
    """Removes the last answer: the chat answers a conversation that ends with a question."""
    chat.conversation.ask(chat.conversation.take_back())
    return ""


def _undo(chat: Chat, value: str) -> str:
    return f"Removed: {chat.conversation.take_back()[:60]!r}"


def _clear(chat: Chat, value: str) -> str:
    chat.conversation.messages.clear()
    return ""


def _shorten(chat: Chat, value: str) -> str:
    removed = chat.conversation.shorten(chat.engine.tokenizer, chat.engine.context_tokens // 2)
    return f"Forgot the oldest turns ({removed}); {len(chat.conversation.messages) // 2} are left."


def _save(chat: Chat, value: str) -> str:
    chat.conversation.save(_path(value))
    return f"Saved to {value}."


def _load(chat: Chat, value: str) -> str:
    chat.conversation = Conversation.load(_path(value))
    return f"{len(chat.conversation.messages) // 2} turns."


def _path(value: str) -> Path:
    if not value or "\0" in value:
        raise BadConfig("There is no file name.", hint="For example `/save chat.json`.")
    return Path(value).expanduser()


def _help(chat: Chat, value: str) -> str:
    named = {f"{name} {command.argument}": command.meaning for name, command in COMMANDS.items()}
    width = max(map(len, named))
    return "\n".join(f"{name:<{width}}  {meaning}" for name, meaning in named.items()) + f"\n\n{INPUT_HELP}"


def _quit(chat: Chat, value: str) -> str:
    raise EOFError


INPUT_HELP = (
    'A line that ends with `\\` goes on in the next; `"""` begins and ends a block of lines.\n'
    "Ctrl-C stops an answer, and leaves when it is pressed twice; Ctrl-D leaves."
)
COMMANDS = {
    "/regenerate": Command("", "answer the last question again, with the next seed", _regenerate),
    "/undo": Command("", "forget the last question and its answer", _undo),
    "/clear": Command("", "start a new conversation", _clear),
    "/shorten": Command("", "forget the oldest turns, until half of the context is free", _shorten),
    "/system": Command("TEXT", "instructions before the first question; without a text: none", _system),
    "/save": Command("FILE", "write the conversation to a JSON file", _save),
    "/load": Command("FILE", "continue the conversation in a file", _load),
    "/temperature": Command("T", "0 always takes the most likely token", _setter("temperature", float)),
    "/topk": Command("K", "sample among this many most likely tokens; 0: all", _setter("top_k", int)),
    "/topp": Command("P", "sample among the likeliest tokens with this much probability", _setter("top_p", float)),
    "/seed": Command("N", "seed of the next answer", _setter("seed", int)),
    "/help": Command("", "list the commands", _help),
    "/quit": Command("", "leave; also /exit", _quit),
    "/exit": Command("", "leave", _quit),
}
