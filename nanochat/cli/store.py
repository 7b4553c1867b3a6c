"""Commands about the store itself: `store check`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter
from rich.markup import escape
from rich.table import Table

from nanochat.cli.app import app, fail, open_store, out
from nanochat.errors import StoreError

store = App(name="store", help="Check a folder or an S3 server before it becomes a store.")
app.command(store)


@store.command
def check(
    url: Annotated[
        str, Parameter(help="A folder, `file:///…` or `s3://bucket/prefix`; default: `NANOCHAT_STORE`.")
    ] = "",
) -> None:
    """Try everything that a store must be able to do, and list what it lacks; exit code 1 if that is anything.

    Creates the bucket if it is missing. Writes small objects, and one of 11 MiB, below `v1/probe`, and deletes them.

    Example: `nanochat store check s3://bucket/prefix`
    """
    from nanochat.store.conformance import EVERYTHING, check

    backend = open_store(url, read_only=True).objects.backend
    backend.prepare()
    table = Table(box=None, pad_edge=False)
    for title in ("requirement", "met", "s", "problem"):
        table.add_column(title, justify="right" if title == "s" else "left")
    lacks: list[str] = []
    with out.status("checking") as status:
        for number, result in enumerate(check(backend, EVERYTHING, errors_are_problems=True), 1):
            name, problem = result.requirement.name, result.problem
            status.update(f"{number} of {len(EVERYTHING)}: {name}")
            mark = "[red]no[/]" if problem else "yes"
            note = escape(f"{problem}. {result.requirement.why}") if problem else ""
            table.add_row(name, mark, f"{result.seconds:.2f}", note)
            lacks += [name] * bool(problem)
    out.print(table)
    if lacks:
        fail(StoreError(f"The store {backend.root} lacks: {', '.join(lacks)}.", hint="Use another disk or server."))
    out.print(f"\n{backend.root} meets all {len(EVERYTHING)} requirements.", markup=False)
