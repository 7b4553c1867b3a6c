"""`nanochat models`: the leaderboard of a store."""

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.markup import escape
from rich.table import Table

from nanochat.cli.app import StoreUrl, app, fail_if_unreadable, open_store, out
from nanochat.errors import BadConfig


@app.command
def models(
    *,
    by: Annotated[
        str, Parameter(help="A metric, such as `core` or `gsm8k_accuracy`; default: the usual ones that the store has.")
    ] = "",
    html: Annotated[Path | None, Parameter(help="Write the page to this file.")] = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="", help="As JSON.")] = False,
    store: StoreUrl = "",
) -> None:
    """List the evaluated models of the store, also those of Hugging Face, best first.

    Models with the same rank cannot be distinguished: their intervals overlap. Evaluations with other questions, forms
    of prompts, settings, bundles, rows or versions are ranked separately.

    Examples: `nanochat models`, `nanochat models --by core --html models.html`
    """
    from nanochat.report.leaderboard import (
        HEADS,
        NUMBERS,
        USUAL,
        Leaderboard,
        as_json_rows,
        leaderboard_page,
        row,
        title_of,
    )

    opened = open_store(store, read_only=True)
    board = Leaderboard(opened)
    metrics = [by] if by else [name for name in board.metrics if name in USUAL]
    rankings = [ranking for metric in metrics for ranking in board.rankings(metric)]
    if html:
        try:
            html.write_text(leaderboard_page(board, metrics).render()[1], encoding="utf-8")
        except OSError as error:
            raise BadConfig(f"`{html}` cannot be written: {error.strerror}.", hint="Name another file.") from error
    if as_json:
        out.print_json(json.dumps(as_json_rows(rankings)))
        return fail_if_unreadable(board.unread)
    for ranking in rankings:
        out.print(f"\n[bold]{escape(title_of(ranking))}[/]")
        table = Table(box=None, pad_edge=False)
        for head in HEADS:
            table.add_column(head, justify="right" if head in NUMBERS else "left")
        for entry in ranking.entries:
            table.add_row(*(escape(str(cell)) for cell in row(entry)))
        out.print(table)
    if not rankings:
        out.print(f"No evaluated model in {opened.objects.root} yet; `nanochat evaluate` evaluates one.", markup=False)
    if lonely := board.unevaluated():
        out.print(f"\nnot evaluated: {', '.join(lonely)}", markup=False)
    if gone := board.gone():
        out.print(f"\nno longer in the store, but their evaluations are: {', '.join(gone)}", markup=False)
    fail_if_unreadable(board.unread)
