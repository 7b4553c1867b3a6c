"""`nanochat chat` as a process: at a real terminal, and between pipes."""

from __future__ import annotations

import codecs
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nanochat.store.producer import describe_producer
from nanochat.store.store import Store
from tests.unit.test_terminal import write_model

ROOT = Path(__file__).parents[2]
KEY = "abc123" * 10
LIMIT_S = 300


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose store has a model with the alias `chat/latest`, and its evaluation."""
    home = tmp_path_factory.mktemp("home")
    store = Store(str(home / "store"), home / "cache")
    model = store.publish(
        write_model(home / "model", 1 << 14), stage="sft", stage_version=1, kind="Model", key=KEY, config={}, inputs={},
        metrics={}, producer=describe_producer(datetime.now(UTC), run="a run"),
    )  # fmt: skip
    store.set_alias("chat/latest", model)
    (home / "evaluation").mkdir()
    (home / "evaluation" / "scores.json").write_text("{}")
    store.publish(
        home / "evaluation", stage="evaluate_chat", stage_version=1, kind="Evaluation", key="d" * 64, config={},
        inputs={"model": store.artifact(model, reused=True)}, metrics={"chatcore": 0.625},
        producer=describe_producer(datetime.now(UTC), run="a run"),
    )  # fmt: skip
    return home


def environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NANOCHAT_")}
    return {**kept, "NANOCHAT_HOME": str(home), "PYTHONPATH": str(ROOT), "TERM": "xterm", "INPUTRC": os.devnull}


def piped(home: Path, *arguments: str, entered: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nanochat.cli", *arguments], input=entered, capture_output=True, text=True,
        env=environment(home), timeout=LIMIT_S,
    )  # fmt: skip


class Terminal:
    """A chat at a pseudo-terminal."""

    def __init__(self, home: Path, *arguments: str) -> None:
        self.pid, self.screen = pty.fork()
        if not self.pid:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore it
            os.execve(sys.executable, [sys.executable, "-m", "nanochat.cli", "chat", *arguments], environment(home))
        self.shown = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")  # a character may come in two reads

    def enter(self, keys: str) -> None:
        os.write(self.screen, keys.encode())

    def until(self, text: str) -> str:
        """Waits for a text; returns what was shown up to it, and forgets it."""
        deadline = time.monotonic() + LIMIT_S
        while text not in self.shown:
            assert time.monotonic() < deadline, f"{text!r} is not in {self.shown!r}"
            if select.select([self.screen], [], [], 1)[0]:
                try:
                    self.shown += self._decoder.decode(os.read(self.screen, 1 << 16))
                except OSError:
                    raise AssertionError(f"the chat ended; {text!r} is not in {self.shown!r}") from None
        before, _, self.shown = self.shown.partition(text)
        return before

    def exit_code(self, pressing: str = "") -> int:
        """Waits for the end of the chat; meanwhile presses these keys once in a second."""
        deadline = time.monotonic() + LIMIT_S
        while self.pid and time.monotonic() < deadline:
            if select.select([self.screen], [], [], 1)[0]:
                try:
                    self.shown += self._decoder.decode(os.read(self.screen, 1 << 16))
                except OSError:  # its end
                    pid, self.pid = self.pid, 0
                    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            elif pressing:
                self.enter(pressing)
        raise AssertionError(f"the chat did not end after {self.shown!r}")

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.screen)


@pytest.fixture
def terminals(home: Path) -> Iterator[list[Terminal]]:
    opened: list[Terminal] = []
    yield opened
    for each in opened:
        each.close()


def test_a_talk_at_a_terminal(home: Path, tmp_path: Path, terminals: list[Terminal]) -> None:
    chat = Terminal(home, "--temperature", "0", "--max-tokens", "8")
    terminals.append(chat)
    title = chat.until("you")
    assert f"chat/latest · sft {KEY[:8]} · chatcore 0.625 · " in title
    assert "nanochat lineage chat/latest" in title
    chat.enter("Hello\r")
    chat.until("bot")
    chat.until("you")
    chat.enter("\x1b[200~pasted one\npasted two\x1b[201~")  # bracketed paste: one entry
    chat.until("two")
    chat.enter("\r")
    chat.until("bot")
    chat.until("you")
    chat.enter('"""in a\r')
    chat.until("…")
    chat.enter('block"""\r')
    chat.until("bot")
    chat.until("you")
    chat.enter("/topk many\r")
    chat.until("`many` is not a number.")
    chat.enter(f"/save {tmp_path / 'chat.json'}\r")
    chat.until("Saved")
    chat.enter("/quit\r")
    assert chat.exit_code() == 0
    (saved,) = json.loads((tmp_path / "chat.json").read_text())["conversations"]
    questions = [message["content"] for message in saved["messages"] if message["role"] == "user"]
    assert questions == ["Hello", "pasted one\npasted two", "in a\nblock"]

    again = Terminal(home, "--temperature", "0", "--max-tokens", "8")
    terminals.append(again)
    again.until("you")
    again.enter("\x1b[A\x1b[A")  # twice up in the history
    again.until("save")  # only what differs from `/quit` is drawn
    again.enter("\x15\x04")  # discards the line, and leaves with Ctrl-D
    assert again.exit_code() == 0
    assert (home / "chat_history").stat().st_mode & 0o777 == 0o600


def test_ctrl_c_stops_an_answer_and_twice_leaves(home: Path, terminals: list[Terminal]) -> None:
    chat = Terminal(home, "--temperature", "0", "--max-tokens", "16000")
    terminals.append(chat)
    chat.until("you")
    chat.enter("Hello\r")
    chat.until("bot")
    chat.enter("\x03")
    chat.until("…")
    chat.until("you")
    chat.enter("Next\r")
    chat.until("bot")
    chat.enter("\x03")
    chat.until("you")
    chat.enter("\x03")
    # Python loses a Ctrl-C that comes after the prompt is drawn and before `readline` waits: a person presses again
    assert chat.exit_code(pressing="\x03") == 0
    assert "once more" not in chat.shown


def test_each_piped_line_is_a_prompt_and_only_answers_are_printed(home: Path) -> None:
    options = ("chat", "--temperature", "0", "--max-tokens", "8")
    several = piped(home, *options, entered="Hello\n\n/clear\nHello\n/help\n")
    first, second = several.stdout.splitlines()
    assert (several.returncode, len(first), first) == (0, 8, second)
    assert "/regenerate" in several.stderr
    alone = piped(home, *options, "-p", "Hello")
    assert (alone.returncode, alone.stdout, alone.stderr) == (0, f"{first}\n", "")
    read = piped(home, *options, "-p", "-", entered="Hello\n")
    assert (read.returncode, read.stdout, read.stderr) == (0, f"{first}\n", "")


def test_an_error_ends_a_piped_chat(home: Path) -> None:
    done = piped(home, "chat", "--max-tokens", "8", "--temperature", "0", entered="/topk many\nHello\n")
    assert (done.returncode, done.stdout) == (1, "")
    assert "`many` is not a number." in done.stderr
    long = piped(home, "chat", "-p", "-", entered="x" * 20_000)
    assert (long.returncode, long.stdout) == (1, "")
    assert "context" in long.stderr
    empty = piped(home, "chat", "-p", "-", entered=" \n")
    assert (empty.returncode, empty.stdout) == (1, "")
    assert "empty" in empty.stderr


def test_bench_prints_json_and_a_table(home: Path) -> None:
    options = ("bench", "--batch", "1", "--batch", "2", "--prompt-tokens", "64", "--answer-tokens", "8")
    done = piped(home, *options, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["model"] == f"sft/{KEY}"
    cases = [(each["batch"], each["ragged"], each["warm"]) for each in report["measured"]]
    assert cases == [
        (1, False, False),
        (1, False, True),
        (2, False, False),
        (2, False, True),
        (2, True, False),
        (2, True, True),
    ]
    for each in report["measured"]:
        assert each["seconds"] >= each["first_token_s"] > 0
        assert each["tokens_per_s"] * each["seconds"] == pytest.approx(each["answer_tokens"])
        assert (each["cached_prompt_tokens"] > 0) == each["warm"]
    assert [each["answer_tokens"] for each in report["measured"][:4]] == [8, 8, 16, 16]
    refused = piped(home, "bench", "--prompt-tokens", "16384")
    assert refused.returncode == 1
    assert "context" in refused.stderr
