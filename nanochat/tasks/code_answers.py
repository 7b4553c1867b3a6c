"""Finds the program in an answer: in a fenced block among prose, or the whole answer; a function, or only its body."""

import re
from textwrap import dedent, indent

_FENCED = re.compile(r"```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
PYTHON = ("", "py", "python", "python3")
INDENT = "    "


def code_in(answer: str, entry_point: str) -> str:
    """The first fenced block of Python that defines `entry_point`, else the first, else the whole answer.

    Its common indentation is removed. A block that is not closed ends with the answer.
    """
    blocks = _blocks(answer)
    defining = (block for block in blocks if defines(block, entry_point))
    return next(defining, blocks[0] if blocks else dedent(answer))


def looks_like_code(answer: str, entry_point: str) -> bool:
    """Whether the answer has a block of Python, or defines the function."""
    return any(block.strip() for block in _blocks(answer)) or defines(answer, entry_point)


def _blocks(answer: str) -> list[str]:
    return [dedent(code) for language, code in _FENCED.findall(answer) if language.lower() in PYTHON]


def defines(code: str, name: str) -> bool:
    """Whether the code defines a function of this name, outside of all others."""
    function, value = rf"(?:async[ \t]+)?def[ \t]+{re.escape(name)}\b", rf"{re.escape(name)}[ \t]*="
    return re.search(rf"^(?:{function}|{value})", code, re.MULTILINE) is not None


def programs(prompt: str, code: str, entry_point: str) -> tuple[str, ...]:
    """The whole program: prompt, then code. A body of the prompt's function is indented; of several ways, all.

    The prompt comes first in any case: its imports and its other functions are part of the program.
    """
    prompt = prompt.rstrip(" \t") if prompt.endswith("\n") else f"{prompt}\n"
    if defines(code, entry_point):
        return (f"{prompt}\n\n{code}\n",)
    body = code.strip("\n")
    return (
        f"{prompt}{indent(body, INDENT)}\n",
        f"{prompt}{INDENT}{body.lstrip()}\n",  # only the first line has lost its indentation
        f"{prompt}{body}\n",
    )
