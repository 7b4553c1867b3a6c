"""`nanochat …`: the command line. Commands import what they need, so that `--help` is quick."""

from __future__ import annotations

import re
import sys
import threading

from cyclopts import CycloptsError
from rich.text import Text

from nanochat import settings
from nanochat.cli import artifacts, chat, export, lineage, maintenance, run, runs, site  # noqa: F401 - fills `app`
from nanochat.cli.app import EXIT_BROKEN_PIPE, EXIT_USAGE, app, err, fail, warn
from nanochat.cli.signals import guarded
from nanochat.console import drop_unwritten, settle_streams
from nanochat.errors import BadConfig, NanochatError, Terminated
from nanochat.failures import to_nanochat_error

HELP = {"--help", "-h", "--version"}
EMPTY = re.compile(r"((?P<name>--?[\w-]+)=)?\s*")
"""An argument that says nothing: a command would do what it does by default, and not what was meant."""


def main() -> None:
    """Runs a command; an error is one sentence and its hint, never a traceback."""
    guarded(_main)


def _main() -> None:
    try:
        settle_streams()
        threading.excepthook = _say_of_a_thread
        if HELP.isdisjoint(sys.argv[1:]):  # help is of use in a bad environment too
            settings.settle()
            for line in settings.check():
                warn(line)
        command(sys.argv[1:])
        sys.stdout.flush()
    except NanochatError as error:
        fail(error)
    except CycloptsError as error:
        err.print(Text.assemble(("error: ", "bold red"), str(error)))
        err.print("       [yellow]`nanochat --help` lists the commands, `nanochat COMMAND --help` their options.[/]")
        sys.exit(EXIT_USAGE)
    except (KeyboardInterrupt, Terminated) as stop:
        err.print("\nStopped. What was finished is kept: the same command goes on from here.")
        sys.exit(stop.code if isinstance(stop, Terminated) else 130)
    except BrokenPipeError:  # the reader has what it wanted
        sys.exit(EXIT_BROKEN_PIPE)
    except Exception as error:  # noqa: BLE001 - whatever is left becomes one sentence
        fail(to_nanochat_error(error))
    finally:
        drop_unwritten()


def command(arguments: list[str]) -> None:
    """Runs the command that the arguments ask for. Raises a `NanochatError` or a `CycloptsError`."""
    for argument in arguments:
        _check(argument)
    app(arguments, exit_on_error=False, print_error=False, result_action="return_value")


def _check(argument: str) -> None:
    """Raises `BadConfig` at what no command can mean."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        raise BadConfig(
            f"The argument {argument[:100]!a} is no valid text in the encoding of this locale.",
            hint="Set `PYTHONUTF8=1`, or rename what it names.",
        ) from None
    if "\0" in argument:
        raise BadConfig(f"The argument {argument[:100]!a} has a NUL character.", hint="Leave it out.")
    if option := EMPTY.fullmatch(argument):
        which = f"The option `{option['name']}`" if option["name"] else "An argument"
        raise BadConfig(f"{which} is empty.", hint="Is a variable of the shell not set? Without it the default counts.")


def _say_of_a_thread(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_value is not None and not isinstance(failed.exc_value, SystemExit):
        sentence = to_nanochat_error(failed.exc_value, f"the thread `{failed.thread.name if failed.thread else ''}`")
        warn(str(sentence))
