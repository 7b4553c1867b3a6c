"""HumanEval: 164 functions to write, judged by running their tests (arXiv:2107.03374).

The prompt is the beginning of the program, as in nanochat. The answer is scored as prompt and answer together, because
some prompts define functions that the solution needs (problems 10, 32, 38 and 50). Programs run in the sandbox, in
another process than their tests: see `docs/sandbox.md`.
"""

from collections.abc import Callable, Iterator, Sequence

from nanochat.errors import BadConfig
from nanochat.tasks.code_answers import code_in, defines, looks_like_code, programs
from nanochat.tasks.conversation import NANOCHAT_FORM, Conversation, Question, Split, Task, open_question, text_in
from nanochat.tasks.fields import Counts
from nanochat.tasks.hub_rows import field, hub_rows, shuffled
from nanochat.tasks.verdict import Verdict
from nanochat.tools.sandbox.limits import Limits
from nanochat.tools.sandbox.sandbox import Checked, Sandbox, shared_sandbox

ID = "openai/openai_humaneval"
CONFIGURATION = "openai_humaneval"
LIMITS = Limits(time_s=5.0)
SYNTAX_ERRORS = ("SyntaxError", "IndentationError", "TabError")
FIELDS = ("task_id", "prompt", "entry_point", "test", "canonical_solution")


def task(source: str, counts: Counts) -> Task:
    def questions() -> Iterator[Question]:
        for _, (where, row) in shuffled(hub_rows(source, ID, CONFIGURATION, "test")):
            name, prompt, entry_point, tests, solution = (text_in(field(row, key, where), key, where) for key in FIELDS)
            if not entry_point.isidentifier() or not defines(prompt, entry_point) or not tests.strip():
                counts.skip("no_function_to_test", where)
                continue
            yield open_question(
                "humaneval", prompt, solution, id=name, form=NANOCHAT_FORM, prompt=prompt, entry_point=entry_point,
                tests=tests,
            )  # fmt: skip

    def conversations(split: Split) -> Iterator[Conversation]:
        raise BadConfig(
            "HumanEval has questions and no conversations to train on.",
            hint="Remove `humaneval` from `train` and `validation`; keep it in `questions`.",
        )

    return Task("humaneval", conversations, questions)


def judge_programs(
    answers: Sequence[tuple[Question, str]], sandbox: Sandbox | None = None, report: Callable[[int], None] | None = None
) -> list[Verdict]:
    """Judges answers by running them, as many at once as there are cores; equal answers to a question run once.

    A verdict has the reason `no code`, or the limit that the program reached. `report` receives the number of programs
    that have run. Raises `SandboxFailed` if the sandbox does not work, `BadSource` if the tests of a question cannot
    run.
    """
    given = [_checked(*answer) for answer in answers]
    different = list(dict.fromkeys(each for each in given if each))
    found = (sandbox or shared_sandbox()).check(different, LIMITS, report)
    by_program = dict(zip(different, found, strict=True))
    verdicts: list[Verdict] = []
    for (question, completion), checked in zip(answers, given, strict=True):
        verdict = by_program[checked] if checked else None
        cannot_compile = verdict and verdict.reason.startswith(SYNTAX_ERRORS)
        if verdict is None or (cannot_compile and not looks_like_code(completion, question["entry_point"])):
            verdicts.append(Verdict(right=False, reason="no code"))
        else:
            verdicts.append(Verdict(verdict.right, reason="" if verdict.name in ("right", "wrong") else verdict.name))
    return verdicts


def _checked(question: Question, completion: str) -> Checked | None:
    """The program and its tests; None if the answer has no program."""
    entry_point = question["entry_point"]
    code = code_in(completion, entry_point)
    if not code.strip():
        return None
    alternatives = programs(question["prompt"], code, entry_point)
    return Checked(alternatives, entry_point, tests=question["tests"], before=question["prompt"])
