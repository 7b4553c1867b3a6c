"""The `nanochat` app, parameter types, and functions by which commands open the store and report errors."""

from __future__ import annotations

import gc
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, NoReturn

from cyclopts import App, Parameter, validators
from rich.text import Text

from nanochat import settings
from nanochat.console import Console
from nanochat.errors import NanochatError, NotFound, Unexpected

if TYPE_CHECKING:
    from nanochat.store.artifacts import Artifact
    from nanochat.store.store import Store


out = Console()
err = Console(stderr=True)

app = App(
    console=Console(pages=True),
    name="nanochat",
    help="Raw text in, a chat model out: every step cached, resumable, and traceable to the bytes it came from.",
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,  # `main` prints what is kept
)

EXIT_FAILED, EXIT_USAGE, EXIT_UNEXPECTED, EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 1, 2, 70, 130, 141
"""Exit codes: an expected error; invalid arguments; a bug; Ctrl-C; the reader of the output has closed the pipe."""


MIN_FREE_BYTES = 1 << 20
"""A server and its database need more; with less they end without a message."""


def between(least: float, most: float) -> Parameter:
    """Bounds of a number, which are checked before the command starts."""
    return Parameter(validator=validators.Number(gte=least, lte=most))


ProfileName = Annotated[
    str,
    Parameter(
        help="A complete config: `demo`, `demo-rl`, `cpu`, `d12`, `speedrun`, or one of your own: a name or a file."
    ),
]
ConfigFile = Annotated[
    str,
    Parameter(
        name="--config",
        help="JSON or YAML file with a complete config, as `nanochat config` prints it, instead of the profile's; "
        "`-`: standard input.",
    ),
]
Changes = Annotated[
    list[str] | None,
    Parameter(
        name="--set", negative="", consume_multiple=True, help="Change one field: `pretrain.depth=6`. Repeatable."
    ),
]
ComputeChanges = Annotated[
    list[str] | None,
    Parameter(
        name="--compute",
        negative="",
        consume_multiple=True,
        help="How to run: `parallelism.ranks=2`. Never changes a result's key.",
    ),
]
StoreUrl = Annotated[
    str, Parameter(name="--store", help="Root of the store: a folder, `file:///…` or `s3://bucket/prefix`.")
]
Reference = Annotated[str, Parameter(help="An alias (`chat/latest`), `stage/key` or the beginning of a key.")]


def open_store(url: str, *, read_only: bool = False) -> Store:
    """The store of a command; `read_only` for commands that change nothing."""
    from nanochat.store.store import Store

    return Store(url or settings.store_url(), settings.home() / "cache", read_only=read_only)


def open_model(store: Store, reference: str) -> Artifact:
    """The model that a reference names. Raises `NotFound` for an artifact that is not a model."""
    artifact = store.artifact(store.resolve(reference), reused=True)
    if artifact.kind != "Model":
        raise NotFound(
            f"`{reference}` is a {artifact.kind}, not a model.", hint="`nanochat ls --stage sft` lists the chat models."
        )
    return artifact


@contextmanager
def imports_without_gc() -> Generator[None]:
    """For the import of torch: garbage collection, which finds nothing there, would take a quarter of its time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # modules stay: later collections skip them
        gc.enable()


def need_home() -> None:
    """Raises a `NanochatError` when the home is not writable, before a process starts there."""
    from nanochat.failures import convert_errors

    folder = settings.home()
    with convert_errors(f"the home `{folder}`"):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(MIN_FREE_BYTES))
            file.flush()


def fail(error: NanochatError) -> NoReturn:
    """Prints the error and its hint, and ends the program."""
    from nanochat.console import Screen

    with suppress(OSError):
        Screen(err).failed(error)
    sys.exit(EXIT_UNEXPECTED if isinstance(error, Unexpected) else EXIT_FAILED)


def fail_if_unreadable(unread: dict[str, NanochatError]) -> None:
    """Ends the command when something could not be read; the command has shown the rest."""
    for error in unread.values():
        others = f" {len(unread) - 1} more cannot be read." if len(unread) > 1 else ""
        fail(type(error)(error.message + others, hint=error.hint))


def warn(line: str) -> None:
    """Prints a note about a problem that does not end the command."""
    with suppress(OSError):
        err.print(Text.assemble(("note: ", "yellow"), line))
