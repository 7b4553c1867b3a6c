"""HumanEval: programs are found in answers, completed by the prompt, and judged by their tests."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from nanochat.config.chat import ChatEvaluationConfig, MixtureItem
from nanochat.errors import BadConfig, BadSource
from nanochat.evaluation.chat import evaluate
from nanochat.evaluation.finished import FinishedTasks
from nanochat.evaluation.language_model import Generated, Report
from nanochat.inference.request import SamplingParameters
from nanochat.tasks.fields import Counts
from nanochat.tasks.humaneval import judge_programs
from nanochat.tasks.registry import judge_all, load_task
from nanochat.tools.sandbox.sandbox import Sandbox
from nanochat.workers.ranks import World
from tests.evaluation.test_chat_tasks import Fixed

PROBLEMS = {
    "add_up": (
        'from typing import List\n\n\ndef add_up(numbers: List[int]) -> int:\n    """ The sum.\n    """\n',
        "    total = 0\n    for number in numbers:\n        total += number\n    return total\n",
        "def check(candidate):\n    assert candidate([1, 2, 3]) == 6\n    assert candidate([]) == 0\n",
    ),
    "longer": (  # the solution needs a function of the prompt, as in HumanEval/10
        'def length(text):\n    return len(text)\n\n\ndef longer(a, b):\n    """ The longer text.\n    """\n',
        "    return a if length(a) >= length(b) else b\n",
        "def check(candidate):\n    assert candidate('ab', 'abc') == 'abc'\n",
    ),
    "halve": (  # the tests need a function of the prompt, as in HumanEval/32, 38 and 50
        'def double(x):\n    return 2 * x\n\n\ndef halve(x):\n    """ The inverse of double.\n    """\n',
        "    return x / 2\n",
        "def check(candidate):\n    for x in range(9):\n        assert double(candidate(x)) == x\n",
    ),
    "third": (  # the tests call the function by its name, as in HumanEval/33
        'def third(items):\n    """ Every third item.\n    """\n',
        "    return items[::3]\n",
        "def check(candidate):\n    assert tuple(candidate([1, 2, 3, 4])) == tuple(third([1, 2, 3, 4]))\n"
        "    assert candidate([1, 2, 3, 4]) == [1, 4]\n",
    ),
}


def source(folder: Path, **changes: object) -> str:
    """A folder with the Hub's layout and the problems."""
    rows = [
        {"task_id": f"T/{number}", "prompt": prompt, "entry_point": name, "canonical_solution": solution, "test": tests}
        for number, (name, (prompt, solution, tests)) in enumerate(PROBLEMS.items())
    ]
    rows = [{name: value for name, value in (row | changes).items() if value is not ...} for row in rows]
    place = folder / "openai_humaneval"
    place.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), place / "test-00000-of-00001.parquet")
    return str(folder)


def questions_of(place: str) -> list[dict]:
    """In the order of the file; `questions()` has nanochat's order."""
    found = load_task(MixtureItem(task="humaneval", source=place), seed=1).questions()
    return sorted(found, key=lambda question: int(question["id"].rpartition("/")[2]))


@pytest.fixture
def questions(tmp_path: Path) -> list[dict]:
    return questions_of(source(tmp_path))


def names(questions: list[dict], answers: list[str], sandbox: Sandbox) -> list[str]:
    pairs = list(zip(questions, answers, strict=True))
    return [verdict.name for verdict in judge_programs(pairs, sandbox)]


def test_case_20_canonical_solutions_are_right_and_pass_is_wrong(questions: list[dict], full: Sandbox) -> None:
    assert names(questions, [question["answer"] for question in questions], full) == ["right"] * len(questions)
    assert names(questions, ["    pass\n"] * len(questions), full) == ["wrong"] * len(questions)


def test_whole_functions_are_right_too(questions: list[dict], full: Sandbox) -> None:
    """Problems 10, 32, 38 and 50: the prompt's other functions are there, although the answer does not repeat them."""
    functions = [question["prompt"][question["prompt"].rindex("def ") :] + question["answer"] for question in questions]
    assert names(questions, functions, full) == ["right"] * len(questions)


SUM = PROBLEMS["add_up"][1]


@pytest.mark.parametrize(
    "answer",
    [
        "Here's the function:\n\n```python\ndef add_up(numbers):\n    return sum(numbers)\n```\n\nIt adds numbers.",
        "Here is it: ```py\ndef add_up(numbers):\n    return sum(numbers)\n```",
        "1. Like this:\n\n   ```python\n   def add_up(numbers):\n       return sum(numbers)\n   ```\n",
        "```\ndef add_up(numbers):\n\treturn sum(numbers)\n```",
        "```python\nimport math\n```\nand\n```python\ndef add_up(numbers):\n    return sum(numbers)\n```",
        "```bash\npip install x\n```\n```python\ndef add_up(numbers):\n    return sum(numbers)\n```",
        "```python\ndef add_up(numbers):\n    return sum(numbers)",
        "def add_up(numbers):\n    return sum(numbers)",
        "  def add_up(numbers):\n      return sum(numbers)",
        "add_up = sum",
        "    return sum(numbers)",
        "return sum(numbers)",
        "        return sum(numbers)",
        SUM.strip(),
        SUM.replace("    ", "  "),
        "    return sum(numbers)\n\nprint(add_up([1]))\n",
        "```python\n    return sum(numbers)\n```",
    ],
)
def test_case_19_the_program_is_found_and_dedented(answer: str, questions: list[dict], full: Sandbox) -> None:
    """LM#2648: prose before a fenced block, and odd indentation."""
    assert names(questions[:1], [answer], full) == ["right"]


@pytest.mark.parametrize(
    "answer", ["", " \n", "I do not know that.", "def is a word.", "```python\n```", "```bash\nls\n```"]
)
def test_an_answer_without_a_program_has_no_code(answer: str, questions: list[dict], full: Sandbox) -> None:
    assert names(questions[:1], [answer], full) == ["no code"]


def test_verdicts_have_names(questions: list[dict], full: Sandbox) -> None:
    answers = {
        "    return 7": "wrong",
        "    return numbers[9]": "wrong",
        "```python\ndef add_up(numbers) return\n```": "wrong",
        "    return bytearray(4 << 30)": "memory limit",
        "    while True:\n        print('line')": "output limit",
    }
    assert names(questions[:1] * len(answers), list(answers), full) == list(answers.values())


def test_equal_samples_of_one_question_run_once(questions: list[dict], full: Sandbox) -> None:
    finished: list[int] = []
    answers = [questions[0]["answer"], "    pass", questions[0]["answer"]]
    verdicts = judge_programs([(questions[0], each) for each in answers], full, finished.append)
    assert [verdict.right for verdict in verdicts] == [True, False, True]
    assert finished == [1, 2]


def test_questions_have_what_a_judge_needs(questions: list[dict]) -> None:
    first = questions[0]
    assert [question["id"] for question in questions] == ["T/0", "T/1", "T/2", "T/3"]
    assert {(question["kind"], question["form"]) for question in questions} == {("generate", "nanochat")}
    prompt, solution, _ = PROBLEMS["add_up"]
    assert first["messages"] == [{"role": "user", "content": prompt}]
    assert first["answer"] == solution


def test_all_judges_are_called_in_one_way(questions: list[dict], full: Sandbox) -> None:
    """`judge_all` runs programs in the sandbox of the process, in whatever mode this system has."""
    verdicts = judge_all([(question, question["answer"]) for question in questions])
    assert [verdict.right for verdict in verdicts] == [True] * len(questions)


def test_bad_rows_are_refused_or_counted(tmp_path: Path, full: Sandbox) -> None:
    with pytest.raises(BadSource, match="no `test`"):
        questions_of(source(tmp_path / "a", test=...))
    with pytest.raises(BadSource, match="no text in `prompt`"):
        questions_of(source(tmp_path / "b", prompt=7))
    counts = Counts()
    item = MixtureItem(task="humaneval", source=source(tmp_path / "c", entry_point="not_there"))
    assert list(load_task(item, 1, counts).questions()) == []
    broken = questions_of(source(tmp_path / "d", test="def check(candidate)\n"))
    with pytest.raises(BadSource, match="The tests of `add_up` cannot run: SyntaxError"):
        judge_programs([(broken[0], "    return 1")], full)


def test_there_is_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="no conversations to train on"):
        list(load_task(MixtureItem(task="humaneval", source=source(tmp_path)), 1).conversations("train"))


class Solving(Fixed):
    """Answers each question with its solution, then with prose."""

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: SamplingParameters, answers: int = 1,
        report: Report | None = None,
    ) -> Iterator[list[Generated]]:  # fmt: skip
        for text in self.texts:
            yield [Generated((), text, True), Generated((), "I do not know.", True)]


def test_the_result_names_the_sandbox(questions: list[dict], full: Sandbox, tmp_path: Path) -> None:
    """And has pass@k over the samples of each question: here pass@1 is one half, pass@2 is 1."""
    config = ChatEvaluationConfig(samples=2, temperature=0.5, max_tokens=64)
    reported: list[tuple[int, int, str]] = []
    metrics = evaluate(
        Solving(*(question["answer"] for question in questions)), {"humaneval": questions}, config, tmp_path,
        World(0, 1, torch.device("cpu")),
        finished=FinishedTasks(""), progress=lambda *each: reported.append(each),
    )  # fmt: skip
    found = json.loads((tmp_path / "evaluation.json").read_text())["tasks"]["humaneval"]
    assert (found["sandbox"], found["form"], found["no_answer"]) == ("full", "nanochat", {"no code": 4})
    assert [value for value, _ in found["pass_at"].values()] == [0.5, 1.0]
    assert metrics["humaneval_accuracy"] == 0.5
    assert reported[-1] == (4, 4, "humaneval, task 1 of 1")


@pytest.mark.slow
def test_case_20_all_164(full: Sandbox) -> None:
    """human-eval#16, on the real data where NANOCHAT_TEST_HUMANEVAL names its folder."""
    place = os.environ.get("NANOCHAT_TEST_HUMANEVAL", "")
    if not place:
        pytest.skip("NANOCHAT_TEST_HUMANEVAL names no folder with openai/openai_humaneval")
    questions = questions_of(place)
    assert len(questions) == 164
    assert names(questions, [question["answer"] for question in questions], full).count("right") == 164
    assert names(questions, ["    pass\n"] * 164, full).count("right") == 0
