"""`nanochat …`: the command line. Commands import what they need, so that `--help` is quick."""

import re
import sys
import threading

from cyclopts import CycloptsError
from rich.text import Text

from nanochat import settings
from nanochat.cli import (  # noqa: F401 - fills `app`
    artifacts,
    bench,
    chat,
    compare,
    evaluate,
    experiment,
    export,
    lineage,
    maintenance,
    models,
    run,
    runs,
    serve,
    site,
    store,
)
from nanochat.cli.app import EXIT_BROKEN_PIPE, EXIT_INTERRUPTED, EXIT_USAGE, app, err, fail, warn
from nanochat.cli.signals import run_with_signals
from nanochat.console import drop_unwritten, settle_streams
from nanochat.errors import BadConfig, NanochatError, Terminated
from nanochat.failures import to_nanochat_error

HELP = {"--help", "-h", "--version"}
EMPTY = re.compile(r"((?P<name>--?[\w-]+)=)?\s*")
"""An empty argument: a command would use its default, which is not what the user wanted."""


def main() -> None:
    """Runs a command; an error is one sentence and its hint, never a traceback."""
    run_with_signals(_main)


def _main() -> None:
    try:
        settle_streams()
        threading.excepthook = _report_thread_error
        if HELP.isdisjoint(sys.argv[1:]):  # help also works in an invalid environment
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
        err.print("\nStopped. Finished stages are kept: the same command resumes.")
        sys.exit(stop.code if isinstance(stop, Terminated) else EXIT_INTERRUPTED)
    except BrokenPipeError:  # the reader of the output has ended
        sys.exit(EXIT_BROKEN_PIPE)
    except Exception as error:  # noqa: BLE001 - any other error becomes one sentence
        fail(to_nanochat_error(error))
    finally:
        drop_unwritten()


def command(arguments: list[str]) -> None:
    """Runs the command line. Raises a `NanochatError` or a `CycloptsError`."""
    for argument in arguments:
        _check(argument)
    app(arguments, exit_on_error=False, print_error=False, result_action="return_value")


def _check(argument: str) -> None:
    """Raises `BadConfig` for an argument that is invalid for every command."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        raise BadConfig(
            f"The argument {argument[:100]!a} is not valid text in the encoding of this locale.",
            hint="Set `PYTHONUTF8=1`, or rename the file or object.",
        ) from None
    if "\0" in argument:
        raise BadConfig(f"The argument {argument[:100]!a} has a NUL character.", hint="Leave it out.")
    if option := EMPTY.fullmatch(argument):
        which = f"The option `{option['name']}`" if option["name"] else "An argument"
        raise BadConfig(f"{which} is empty.", hint="Is a shell variable unset? Leave it out to use the default.")


def _report_thread_error(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_value is not None and not isinstance(failed.exc_value, SystemExit):
        sentence = to_nanochat_error(failed.exc_value, f"the thread `{failed.thread.name if failed.thread else ''}`")
        warn(str(sentence))
