"""What happens in the process of the tests, after it is confined: it calls the program, and decides.

The program is in another process and never sees the tests: it receives arguments, and answers with plain data. So the
only way to pass is to answer every call with a value that the tests accept.
"""

import builtins
import json
import random
from types import ModuleType
from typing import Any

from nanochat.tools.sandbox.plain_values import NotPlain, decode, encode, receive, send
from nanochat.tools.sandbox.program import REASON_CHARACTERS


class ProgramEnded(BaseException):
    """The program's process ended, or sent something that is not a message. No test expects this, or catches it."""


class BadTests(BaseException):
    """The tests are at fault, not the program."""


class Program:
    """The program as the tests see it: a function."""

    def __init__(self, calls: int, answers: int) -> None:
        self._calls, self._answers = calls, answers
        self.last_error = ""
        """Type of the error that the program raised last."""

    def load(self) -> None:
        """Waits until the program is loaded. Raises its error."""
        self._receive()

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        try:
            send(self._calls, {"arguments": encode(list(arguments)), "named": encode(named)})
        except NotPlain as error:
            raise BadTests(f"they pass {error}") from None
        except OSError:
            raise ProgramEnded("the program ended") from None
        answer = self._receive()
        try:
            return decode(answer["value"])
        except (KeyError, NotPlain, RecursionError):
            raise ProgramEnded("the program sent something else than a value") from None

    def _receive(self) -> dict[str, Any]:
        try:
            answer = receive(self._answers)
        except (EOFError, OSError):
            raise ProgramEnded("the program ended") from None
        except NotPlain as error:
            raise ProgramEnded(f"the program sent {error}") from None
        if not isinstance(answer, dict):
            raise ProgramEnded("the program sent something else than a value")
        if "raised" in answer:
            self.last_error = str(answer["raised"])
            raise self._error(str(answer.get("reason", ""))[:REASON_CHARACTERS])
        return answer

    def _error(self, reason: str) -> Exception:
        """The program's error as one of the same type, if Python has it: tests may expect it."""
        kind = getattr(builtins, self.last_error, None)
        if isinstance(kind, type) and issubclass(kind, Exception):
            try:
                return kind(reason)
            except TypeError:  # UnicodeDecodeError needs five arguments
                pass
        return RuntimeError(f"{self.last_error}: {reason}")


def verdict(tests: bytes, calls: int, answers: int) -> dict[str, str]:
    """Runs the tests. Returns `verdict` (`right`, `wrong` or `memory limit`) and `reason`, or `error`: bad tests."""
    given = json.loads(tests)
    module = ModuleType("tests")
    names = module.__dict__
    program = Program(calls, answers)
    random.seed(0)
    try:
        code = [compile(given[part], f"{part}.py", "exec", dont_inherit=True) for part in ("before", "tests")]
        exec(code[0], names)  # noqa: S102 - the dataset's; this process is confined
    except BaseException as error:  # noqa: BLE001
        return {"error": _line(error)}
    names[given["entry_point"]] = program
    try:
        program.load()
        exec(code[1], names)  # noqa: S102
        check = names.get("check")
        if check is not None:
            check(program)
    except BadTests as error:
        return {"error": _line(error)}
    except BaseException as error:  # noqa: BLE001
        if program.last_error == "MemoryError":
            return {"verdict": "memory limit", "reason": "MemoryError"}
        return {"verdict": "wrong", "reason": _line(error)}
    return {"verdict": "right", "reason": ""}


def _line(error: BaseException) -> str:
    """The error on one line."""
    reason = " ".join(str(error).split())[:REASON_CHARACTERS]
    return f"{type(error).__name__}: {reason}" if reason else type(error).__name__
