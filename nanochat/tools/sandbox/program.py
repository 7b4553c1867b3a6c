"""What happens in the process of a program, after it is confined. The program can change all of it."""

import atexit
import json
import os
import random
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from types import CodeType, ModuleType
from typing import Any

from nanochat.tools.sandbox.plain_values import NotPlain, decode, encode, receive, send

OUT_OF_MEMORY = 77
"""Exit code of a program that ended with `MemoryError`."""
REASON_CHARACTERS = 500


def run(source: bytes) -> int:
    """Runs a program as `python program.py` does. Returns its exit code."""
    code = 0
    try:
        _execute(_compile(json.loads(source)["alternatives"]), "__main__")
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except MemoryError:
        code = OUT_OF_MEMORY
    except BaseException:  # noqa: BLE001 - any end of the program is an end of the process
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    return code & 0xFF


def serve(source: bytes, calls: int, answers: int) -> None:
    """Loads a program, then calls its function as often as the tests request it."""
    given = json.loads(source)
    try:
        names = _execute(_compile(given["alternatives"]), "program")
        function = names[given["entry_point"]]
    except BaseException as error:  # noqa: BLE001
        return send(answers, _raised(error))
    send(answers, {})
    while True:
        try:
            call = receive(calls)
        except EOFError:
            return None
        send(answers, _answer(function, call))


def _answer(function: Any, call: dict[str, Any]) -> dict[str, Any]:
    try:
        arguments, named = decode(call["arguments"]), decode(call["named"])
        return {"value": encode(function(*arguments, **named))}
    except BaseException as error:  # noqa: BLE001
        return _raised(error)


def _raised(error: BaseException) -> dict[str, Any]:
    kind = type(error).__name__
    try:
        reason = str(error)[:REASON_CHARACTERS]
    except BaseException:  # noqa: BLE001 - a `__str__` of the program
        reason = ""
    return {"raised": "TypeError" if isinstance(error, NotPlain) else kind, "reason": reason}


def _compile(alternatives: Sequence[str]) -> CodeType:
    """The first alternative that compiles; the error of the first if none does."""
    failure: BaseException = SyntaxError("there is no program")
    for number, text in enumerate(alternatives):
        try:
            return compile(text, "program.py", "exec", dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            failure = failure if number else error
    raise failure


def _execute(code: CodeType, name: str) -> dict[str, Any]:
    """Runs the code as a module. Returns its names."""
    random.seed(0)
    sys.argv = [""]
    module = ModuleType(name)
    sys.modules[name] = module
    exec(code, module.__dict__)  # noqa: S102 - the purpose; this process is confined
    return module.__dict__


def read_file(file: int) -> bytes:
    """The content of a file that the caller passed, which is closed."""
    parts, offset = [], 0
    while part := os.pread(file, 1 << 20, offset):
        parts.append(part)
        offset += len(part)
    os.close(file)
    return b"".join(parts)
