"""The user's own problems for reinforcement learning, in a JSON or JSONL file.

    {"question": "What is the capital of France?", "answer": "Paris"}
    {"question": "Write `double(x)`.", "entry_point": "double", "tests": "assert double(2) == 4"}

The answer is a number, which must be the last one of the model's answer, or a text, which must be its last line. Tests
run in the sandbox, as those of HumanEval. Every tenth problem, beginning with the first, is held out.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from nanochat.errors import BadConfig, BadSource
from nanochat.sources.json_records import json_records
from nanochat.sources.local_files import is_local, local_path
from nanochat.tasks.conversation import Question, Split, Task, open_question, text_in
from nanochat.tasks.numbers import last_number, numbers_in
from nanochat.tasks.own_conversations import VALIDATION_EVERY
from nanochat.tasks.verdict import Verdict


def task(source: str) -> Task:
    """Raises `BadConfig` without a file; reading raises `BadSource`, naming file and row."""
    if not source or not is_local(source) or not local_path(source).is_file():
        raise BadConfig(
            f"The task `problems` needs a file, and `{source}` is none.", hint="Set `source` to a JSON or JSONL file."
        )

    def of(split: Split) -> Iterator[Question]:
        for number, (where, row) in enumerate(json_records(local_path(source))):
            if (number % VALIDATION_EVERY == 0) == (split == "validation"):
                yield _question(row, where, number)

    return Task("problems", lambda split: iter(()), lambda: of("validation"), lambda: of("train"))


def _question(row: Any, where: str, number: int) -> Question:
    if not isinstance(row, Mapping):
        raise BadSource(f"{where} is not an object.", hint="A problem has `question` and `answer`.")
    text = text_in(row.get("question"), "question", where)
    if "tests" not in row:
        answer = row.get("answer")
        answer = str(answer) if isinstance(answer, int | float) and not isinstance(answer, bool) else answer
        return open_question("problems", text, text_in(answer, "answer", where), id=str(number))
    tests, entry_point = (text_in(row.get(name), name, where) for name in ("tests", "entry_point"))
    if not entry_point.isidentifier() or not tests.strip():
        raise BadSource(f"{where} has no function to test in `entry_point`, or no `tests`.")
    # judged as a program: see `registry.judge_all`
    return open_question("humaneval", text, "", id=str(number), prompt="", entry_point=entry_point, tests=tests)


def judge(question: Question, completion: str) -> Verdict:
    """A number must be the last one of the completion; a text its last line, but for case and a full stop."""
    expected = question["answer"]
    numbers = list(numbers_in(expected))
    if len(numbers) == 1 and not any(letter.isalpha() for letter in expected):
        return Verdict(last_number(completion) == numbers[0])
    lines = completion.strip().splitlines() or [""]
    return Verdict(_plain(lines[-1]) == _plain(expected))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".!")
