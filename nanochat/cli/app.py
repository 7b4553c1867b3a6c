"""The program itself, and what its commands share."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, NoReturn

from cyclopts import App, Parameter
from rich.console import Console

from nanochat import settings
from nanochat.errors import NanochatError, Unexpected

if TYPE_CHECKING:
    from nanochat.store.artifacts import Store


app = App(
    name="nanochat",
    help="Raw text in, a chat model out: every step cached, resumable, and traceable to the bytes it came from.",
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,  # `main` says what was kept
)

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

ProfileName = Annotated[str, Parameter(help="A complete config: `demo`, `cpu`, `d12`, `speedrun`.")]
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
        help="How to run: `ranks=2`. Never changes a result's key.",
    ),
]
StoreUrl = Annotated[
    str, Parameter(name="--store", help="Root of the store: a folder, `file:///…` or `s3://bucket/prefix`.")
]
Reference = Annotated[str, Parameter(help="An alias (`chat/latest`), `stage/key` or the beginning of a key.")]


def open_store(url: str) -> Store:
    """The store that a command works on."""
    from nanochat.store.artifacts import Store

    return Store(url or settings.store_url(), settings.home() / "cache")


def fail(error: NanochatError) -> NoReturn:
    """Prints the error and its hint, and ends the program: 1, or 70 when it is a mistake of the program."""
    from nanochat.console import Screen

    Screen(err).failed(error)
    sys.exit(70 if isinstance(error, Unexpected) else 1)
