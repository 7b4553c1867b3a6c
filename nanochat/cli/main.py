"""`nanochat …`: the command line. Commands import what they need, so that `--help` is quick."""

from __future__ import annotations

import sys

from cyclopts import CycloptsError

from nanochat import settings
from nanochat.cli import keep as keep
from nanochat.cli import look as look
from nanochat.cli import run as run
from nanochat.cli.app import app, err, fail
from nanochat.cli.signals import guarded
from nanochat.errors import NanochatError, Terminated


def main() -> None:
    """Runs a command; an error is one sentence and its way out, never a traceback."""
    guarded(_main)


def _main() -> None:
    try:
        settings.settle()
        app(sys.argv[1:], exit_on_error=False, print_error=False, result_action="return_value")
    except NanochatError as error:
        fail(error)
    except CycloptsError as error:
        err.print(f"[bold red]error:[/] {error}")
        err.print("       [yellow]`nanochat --help` lists the commands, `nanochat COMMAND --help` their options.[/]")
        sys.exit(2)
    except (KeyboardInterrupt, Terminated) as stop:
        err.print("\nStopped. What was finished is kept: the same command goes on from here.")
        sys.exit(stop.code if isinstance(stop, Terminated) else 130)
