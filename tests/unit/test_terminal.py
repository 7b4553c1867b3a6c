"""The chat in the terminal: it survives its user, and shows the model what it was trained on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from nanochat.config.training import ModelConfig
from nanochat.errors import BadConfig
from nanochat.inference.request import Delta, Part, Request
from nanochat.model.architecture import Architecture
from nanochat.model.files import save_model
from nanochat.model.gpt import GPT
from nanochat.serve import terminal
from nanochat.tokenizer.bpe import Tokenizer

TOKENIZER = Tokenizer.from_merges([])
SUM = [
    TOKENIZER.special("<|python_start|>"), *TOKENIZER.encode("3+4"), TOKENIZER.special("<|python_end|>"),
    TOKENIZER.special("<|output_start|>"), *TOKENIZER.encode("7"), TOKENIZER.special("<|output_end|>"),
    *TOKENIZER.encode("3 plus 4 is 7 — sieben ✓"),
]  # fmt: skip
PARTS = [
    Part("python", ""), Part("python", "3+"), Part("python", "4"), Part("text", ""), Part("python_output", "7"),
    Part("text", "3 plus 4 is 7 "), Part("text", "— sieben ✓"),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    options = ModelConfig(depth=1, aspect_ratio=16, head_dim=16)
    model = GPT(Architecture(model=options, vocab_size=TOKENIZER.vocab_size, sequence_len=64))
    model.init_weights(1)
    save_model(tmp_path, model)
    TOKENIZER.save(tmp_path / "vocabulary.json")
    return tmp_path


@pytest.fixture
def prompts(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Every answer is the sum; what the model was shown for it."""
    seen: list[list[int]] = []

    def stream(_: object, request: Request) -> Iterator[Delta]:
        seen.append(list(request.prompt))
        for part in PARTS:
            yield Delta(request=1, answer=0, parts=(part,))

    monkeypatch.setattr("nanochat.inference.engine.Engine.stream", stream)
    return seen


def talk(folder: Path, monkeypatch: pytest.MonkeyPatch, *output: str) -> None:
    """A conversation whose user enters these lines, then presses Ctrl-D."""
    words = iter(output)

    def reply(*_: Any, **__: Any) -> str:
        try:
            return next(words)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(Console, "input", reply)
    terminal.chat(folder, None, 0.6, 5, 16, 1)


def test_one_prompt_prints_the_answer_only(
    folder: Path, prompts: list[list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    terminal.chat(folder, "What is 3 plus 4?", 0.0, 0, 16, 1)
    assert capsys.readouterr().out == "[3+4 = 7] 3 plus 4 is 7 — sieben ✓\n"


def test_the_next_turn_sees_the_answer_as_it_was_generated(
    folder: Path, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "load_model", _with_room(terminal.load_model))
    talk(folder, monkeypatch, "3+4?", "Why?")
    (first, second) = prompts
    question = [TOKENIZER.special("<|assistant_end|>"), TOKENIZER.special("<|user_start|>"), *TOKENIZER.encode("Why?")]
    assert second[: len(first) + len(SUM) + len(question)] == [*first, *SUM, *question]


def test_a_conversation_that_is_too_long_is_reported_and_continues(
    folder: Path, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    talk(folder, monkeypatch, "x" * 100, "Hi")
    output = capsys.readouterr().out
    assert "context 64" in output
    assert "/clear" in output
    assert [TOKENIZER.decode(prompt).count("x") for prompt in prompts] == [0]  # what was too long is forgotten


@pytest.mark.parametrize("value", ["inf", "-1", "nan", "hot", ""])
def test_a_bad_temperature_is_reported_and_changes_nothing(
    value: str, folder: Path, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    talk(folder, monkeypatch, f"/temperature {value}", "Hi")
    assert ("out of range" in (output := capsys.readouterr().out)) or "is not a number" in output
    assert len(prompts) == 1


def test_clear_forgets(folder: Path, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    talk(folder, monkeypatch, "Hi", "/clear", "Hi", "/quit", "never read")
    assert prompts[0] == prompts[1]
    assert len(prompts) == 2


def test_interrupting_stops_the_answer_and_not_the_chat(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stream(*_: object) -> Iterator[Delta]:
        yield Delta(request=1, answer=0, parts=(Part("text", "Once"),))
        raise KeyboardInterrupt

    monkeypatch.setattr("nanochat.inference.engine.Engine.stream", stream)
    talk(folder, monkeypatch, "Hi", "Hi")
    assert capsys.readouterr().out.count("Once …") == 2


def test_a_temperature_out_of_range_is_refused(folder: Path) -> None:
    with pytest.raises(BadConfig, match="temperature inf"):
        terminal.chat(folder, "Hi", float("inf"), 0, 16, 1)


def _with_room(load: Any) -> Any:
    """The same model, as if it saw more."""

    def loaded(*given: Any) -> GPT:
        model = load(*given)
        model.architecture = model.architecture.model_copy(update={"sequence_len": 512})
        return model

    return loaded


@pytest.mark.parametrize(
    ("top_k", "max_tokens", "seed"), [(-1, 16, 1), (0, 0, 1), (0, -1, 1), (0, 16, -1), (0, 16, 1 << 63)]
)
def test_a_setting_out_of_range_is_refused_before_the_model_is_loaded(
    top_k: int, max_tokens: int, seed: int, tmp_path: Path
) -> None:
    with pytest.raises(BadConfig):
        terminal.chat(tmp_path / "no model", "Hi", 0.5, top_k, max_tokens, seed)


@pytest.mark.parametrize("value", ["-5", "99999999999", "[/]", "9" * 5000])
def test_a_bad_top_k_is_reported_and_changes_nothing(
    value: str, folder: Path, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    talk(folder, monkeypatch, f"/topk {value}", "Hi")
    assert ("out of range" in (output := capsys.readouterr().out)) or "is not a number" in output
    assert len(prompts) == 1
