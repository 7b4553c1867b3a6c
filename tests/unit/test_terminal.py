"""The chat in the terminal: its commands, what the model is shown, and what is printed."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nanochat.config.training import ModelConfig
from nanochat.errors import BadConfig
from nanochat.inference.engine import Engine
from nanochat.inference.request import Part, Request, SamplingParameters
from nanochat.model.architecture import Architecture
from nanochat.model.files import save_model
from nanochat.model.gpt import GPT
from nanochat.serve import terminal
from nanochat.serve.conversation import Conversation
from nanochat.serve.terminal_commands import COMMANDS, Chat
from nanochat.serve.terminal_input import Entry, read_entry
from nanochat.tokenizer.bpe import Tokenizer

TOKENIZER = Tokenizer.from_merges([])
PARTS = [
    Part("python", "3+"),
    Part("python", "4"),
    Part("text", ""),
    Part("python_output", "7"),
    Part("text", "It is 7."),
]
GREEDY = SamplingParameters(max_tokens=12)


def write_model(folder: Path, sequence_len: int) -> Path:
    """A small model with random weights that never ends an answer by itself, and answers in ASCII."""
    options = ModelConfig(depth=1, aspect_ratio=16, head_dim=16)
    model = GPT(Architecture(model=options, vocab_size=TOKENIZER.vocab_size, sequence_len=sequence_len))
    model.init_weights(1)
    with torch.no_grad():
        model.head.weight[:32] = model.head.weight[127:] = 0
        model.head.weight[32:127].normal_(generator=torch.Generator().manual_seed(1))
    save_model(folder, model)
    TOKENIZER.save(folder / "vocabulary.json")
    return folder


@pytest.fixture
def chat(tmp_path: Path) -> Chat:
    return terminal.open_chat(write_model(tmp_path / "model", 512), GREEDY)


def talk(chat: Chat, *lines: str) -> list[str]:
    """What the commands reply; questions are answered."""
    replies = []
    for line in lines:
        replies.append(terminal.take(chat, Entry(line, is_block=False)))
        if chat.conversation.messages and chat.conversation.messages[-1]["role"] == "user":
            terminal.answer(chat, timed=False)
    return replies


def answers(chat: Chat) -> list[str]:
    return [message["content"] for message in chat.conversation.messages if message["role"] == "assistant"]


def test_only_the_answer_is_printed(chat: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    talk(chat, "Hello")
    (answer,) = answers(chat)
    assert capsys.readouterr() == (f"{answer}\n", "")
    assert len(answer) == 12


def test_timings_are_on_the_standard_error(chat: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    chat.conversation.ask("Hello")
    terminal.answer(chat, timed=True)
    output = capsys.readouterr()
    assert output.out == f"{answers(chat)[0]}\n"
    assert "first token" in output.err and "12 tokens" in output.err


def test_a_calculation_is_printed_in_brackets_and_remembered_in_parts(
    chat: Chat, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = Engine.step

    def step(engine: Engine) -> list:
        return [replace(delta, parts=tuple(PARTS) if delta.finish else ()) for delta in real(engine)]

    monkeypatch.setattr(Engine, "step", step)
    talk(chat, "3+4?")
    assert capsys.readouterr().out == "[3+4 = 7] It is 7.\n"
    prompt = chat.conversation
    prompt.ask("Why?")
    special = TOKENIZER.special
    expected = [
        special("<|assistant_start|>"), special("<|python_start|>"), *TOKENIZER.encode("3+4"),
        special("<|python_end|>"), special("<|output_start|>"), *TOKENIZER.encode("7"), special("<|output_end|>"),
        *TOKENIZER.encode("It is 7."), special("<|assistant_end|>"), special("<|user_start|>"),
        *TOKENIZER.encode("Why?"),
    ]  # fmt: skip
    ids = prompt.prompt(TOKENIZER, 512)
    begin = ids.index(expected[0])
    assert ids[begin : begin + len(expected)] == expected


def test_a_model_cannot_control_the_terminal(
    chat: Chat, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = Engine.step

    def step(engine: Engine) -> list:
        return [
            replace(delta, parts=(Part("text", "\x1b[2J\x9bé\n\tx"),) if delta.finish else ()) for delta in real(engine)
        ]

    monkeypatch.setattr(Engine, "step", step)
    chat.conversation.ask("Hi")
    terminal.answer(chat, timed=False, safe=True)
    assert capsys.readouterr().out == "[2Jé\n\tx\n"


def test_the_model_is_shown_the_whole_conversation_until_it_is_cleared(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[list[int]] = []
    real = Engine.submit

    def submit(engine: Engine, request: Request) -> int:
        shown.append(list(request.prompt))
        return real(engine, request)

    monkeypatch.setattr(Engine, "submit", submit)
    talk(chat, "One", "Two", "/clear", "One")
    first, second, cleared = shown
    answer = second[len(first) : len(first) + 12]
    assert second[: len(first)] == first == cleared
    assert TOKENIZER.decode(answer) == answers(chat)[0]


def test_regenerate_answers_again_with_the_next_seed(chat: Chat) -> None:
    talk(chat, "/temperature 1", "/seed 5", "Hello")
    first = answers(chat)
    talk(chat, "/regenerate")
    second = answers(chat)
    talk(chat, "/seed 5", "/regenerate")
    assert [len(first), len(second), len(answers(chat))] == [1, 1, 1]
    assert second != first
    assert answers(chat) == first


def test_undo_forgets_the_last_turn(chat: Chat) -> None:
    talk(chat, "One", "Two")
    both = answers(chat)
    assert talk(chat, "/undo") == ["Removed: 'Two'\n"]
    assert answers(chat) == both[:1]
    talk(chat, "Two")
    assert answers(chat) == both


def test_a_system_message_is_before_the_first_question_until_it_is_removed(chat: Chat) -> None:
    talk(chat, "/system Be kind.", "Hi")
    assert b"Be kind.\n\nHi" in prompt_bytes(chat)
    talk(chat, "/system")
    assert b"Be kind" not in prompt_bytes(chat)


def prompt_bytes(chat: Chat) -> bytes:
    probe = Conversation([*chat.conversation.messages, {"role": "user", "content": ""}], chat.conversation.system)
    return TOKENIZER.decode(probe.prompt(TOKENIZER, 1 << 20)).encode()


def test_a_saved_conversation_continues_as_the_original(chat: Chat, tmp_path: Path) -> None:
    file = tmp_path / "é.json"
    talk(chat, "/system Be kind.", "One", f"/save {file}", "Two")
    expected = answers(chat)
    talk(chat, "/clear", "/system", "Else", f"/load {file}", "Two")
    assert answers(chat) == expected
    assert chat.conversation.system == "Be kind."


def test_parts_and_a_later_save_survive_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    conversation = Conversation()
    conversation.ask("3+4?")
    conversation.answer(PARTS)
    conversation.save(file)
    conversation.ask("Bye")
    conversation.answer([Part("text", "Bye.")])
    conversation.save(file)
    assert Conversation.load(file) == conversation


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b"\xff",
     b'{"messages": [{"role": "user"}]}', b'{"messages": [{"role": "tool", "content": ""}]}',
     b'{"messages": [{"role": "assistant", "content": "Hi"}]}', b'{"messages": [{"role": "user", "content": [3]}]}',
     b'{"messages": ' + b"[" * 100_000,
     b'{"messages": [{"role": "user", "content": "Hi", "parent": 7}]}', b'{"conversations": []}'],
)  # fmt: skip
def test_any_other_file_is_refused_and_not_overwritten(chat: Chat, content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    file.write_bytes(content)
    talk(chat, "One")
    before = answers(chat)
    for command in ("/load", "/save"):
        with pytest.raises(BadConfig, match=r"other\.json"):
            talk(chat, f"{command} {file}")
    assert file.read_bytes() == content
    assert answers(chat) == before


def test_the_shown_branch_of_the_page_s_newest_conversation_is_loaded(tmp_path: Path) -> None:
    messages = [
        {"parent": -1, "role": "user", "content": "Hi"}, {"parent": 0, "role": "assistant", "content": "Old"},
        {"parent": 0, "role": "assistant", "content": "New", "seed": 3},
        {"parent": 2, "role": "user", "content": "More?"},
        {"parent": 1, "role": "user", "content": "Other"},
    ]  # fmt: skip
    newest = {"title": "", "system": "Be kind.", "updated": 2, "leaf": 3, "messages": messages}
    content = {
        "format": "nanochat-conversations",
        "version": 1,
        "conversations": [newest, {"updated": 1, "messages": []}],
    }
    file = tmp_path / "page.json"
    file.write_text(json.dumps(content))
    loaded = Conversation.load(file)
    assert [message["content"] for message in loaded.messages] == ["Hi", "New"]
    assert loaded.system == "Be kind."
    with pytest.raises(BadConfig, match="several"):
        loaded.save(file)


def test_a_row_of_training_data_is_a_conversation(tmp_path: Path) -> None:
    messages = [{"role": role, "content": role} for role in ("system", "user", "assistant")]
    (tmp_path / "row.json").write_text(json.dumps({"messages": messages}))
    assert Conversation.load(tmp_path / "row.json") == Conversation(messages[1:], "system")


@pytest.mark.parametrize("line", ["/load nowhere/chat.json", "/save nowhere/chat.json", "/load", "/save", "/load a\0b"])
def test_a_file_that_cannot_be_used_is_an_error(chat: Chat, line: str, tmp_path: Path) -> None:
    from nanochat.errors import NanochatError

    with pytest.raises(NanochatError):
        talk(chat, line)


@pytest.mark.parametrize("value", ["inf", "-1", "nan", "hot", "", "[/]"])
def test_a_bad_temperature_changes_nothing(chat: Chat, value: str) -> None:
    with pytest.raises(BadConfig):
        talk(chat, f"/temperature {value}")
    assert chat.sampling == GREEDY


@pytest.mark.parametrize("line", ["/topk -5", "/topk [/]", f"/topk {'9' * 5000}", "/topp 0", "/topp 1.1", "/seed -1",
                                  f"/seed {1 << 63}", "/clear now", "/nonsense", "/"])  # fmt: skip
def test_a_bad_command_changes_nothing(chat: Chat, line: str) -> None:
    with pytest.raises(BadConfig):
        talk(chat, line)
    assert chat.sampling == GREEDY


def test_help_names_every_command(chat: Chat) -> None:
    (text,) = talk(chat, "/help")
    assert all(name in text for name in COMMANDS)


@pytest.mark.parametrize("line", ["/quit", "/exit"])
def test_quit_leaves(chat: Chat, line: str) -> None:
    with pytest.raises(EOFError):
        talk(chat, line)


def test_a_conversation_that_is_too_long_offers_a_way_out(chat: Chat) -> None:
    talk(chat, *["x" * 100] * 3)
    with pytest.raises(BadConfig, match=r"context 512.*`/shorten`"):
        talk(chat, "y" * 200)
    assert len(answers(chat)) == 3  # the question that was too long is forgotten
    talk(chat, "/shorten", "y" * 200)
    assert [len(message["content"]) for message in chat.conversation.messages[::2]] == [100, 100, 200]


def test_an_answer_ends_at_the_end_of_the_context(chat: Chat) -> None:
    chat.sampling = replace(GREEDY, max_tokens=100_000)
    talk(chat, "x" * 480)
    assert 0 < len(answers(chat)[0]) < 32


def test_ctrl_c_stops_the_answer_and_keeps_what_is_there(
    chat: Chat, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt_after(monkeypatch, 3)
    chat.conversation.ask("Hi")
    assert terminal.answer(chat, timed=False) == "cancelled"
    (answer,) = answers(chat)
    assert capsys.readouterr().out == f"{answer} …\n"
    assert 0 < len(answer) < 12
    assert not chat.engine.has_work


def test_a_second_ctrl_c_leaves(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    interrupt_after(monkeypatch, 3, 4)
    chat.conversation.ask("Hi")
    with pytest.raises(KeyboardInterrupt):
        terminal.answer(chat, timed=False)
    assert signal.getsignal(signal.SIGINT) is before


def interrupt_after(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """Presses Ctrl-C during these steps of the engine."""
    real, taken = Engine.step, [0]

    def step(engine: Engine) -> list:
        taken[0] += 1
        if taken[0] in steps:
            signal.raise_signal(signal.SIGINT)
        return real(engine)

    monkeypatch.setattr(Engine, "step", step)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["Hi"], Entry("Hi", False)),
        (["  /help  "], Entry("/help", False)),
        (["one \\", "two\\", "", "later"], Entry("one \ntwo", False)),
        (['"""', "one", "", " two", '"""', "later"], Entry("one\n\n two", True)),
        (['"""/help"""', "later"], Entry("/help", True)),
        (['"""', "no end"], Entry("no end", True)),
        (["no end\\"], Entry("no end", False)),
        (["pasted\nlines"], Entry("pasted\nlines", False)),
    ],
)
def test_entries_of_several_lines(lines: list[str], expected: Entry) -> None:
    rest: Iterator[str] = iter(lines)

    def read(_: str) -> str:
        try:
            return next(rest)
        except StopIteration:
            raise EOFError from None

    assert read_entry(read, "") == expected


def test_a_block_is_text_even_if_it_begins_like_a_command(chat: Chat) -> None:
    assert terminal.take(chat, Entry("/help", is_block=True)) == ""
    assert chat.conversation.messages == [{"role": "user", "content": "/help"}]
