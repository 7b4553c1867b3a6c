"""`nanochat compare`: models side by side, and in words which one is better."""

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.markdown import Markdown
from rich.markup import escape

from nanochat import settings
from nanochat.cli.app import StoreUrl, app, between, open_store, out
from nanochat.errors import BadConfig


@app.command
def compare(
    *models: Annotated[
        str, Parameter(help="Aliases, models, evaluations, or models of Hugging Face that were evaluated.")
    ],
    confidence: Annotated[float, between(0.5, 0.9999), Parameter(help="Of intervals and verdicts.")] = 0.95,
    html: Annotated[Path | None, Parameter(help="Also write the page to this file.")] = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="", help="As JSON.")] = False,
    store: StoreUrl = "",
) -> None:
    """Compare models: better, worse, or cannot tell, on the questions of their newest evaluations.

    The others are compared with the first one. Each difference has its interval, a p-value corrected for the number of
    tasks, and the difference that could have been seen. The page also has the questions that were won and lost, what
    differs in settings and inputs, the curves of training, texts side by side, and the cost. What cannot be compared
    (other questions, prompts, rules or rows of text, a model that is gone) is named in one sentence.

    Examples: `nanochat compare chat/production chat/latest`, `nanochat compare chat/latest 3f9c --html page.html`,
    `nanochat compare base/latest hf://org/name`
    """
    from nanochat.config.compute import Compute
    from nanochat.execution.local import run_local
    from nanochat.graphs import resolve
    from nanochat.graphs.compare import compare_models

    opened = open_store(store)
    graph = compare_models(*resolve.comparison(opened, models, confidence))
    made = run_local(graph, opened, Compute(), settings.home() / "runs")[graph.comparison]
    if html:
        try:
            html.write_bytes((made.path / "report.html").read_bytes())
        except OSError as error:
            raise BadConfig(f"`{html}` cannot be written: {error.strerror}.", hint="Name another file.") from error
    if as_json:
        out.print_json(data=json.loads((made.path / "comparison.json").read_text(encoding="utf-8")))
        return
    page = (made.path / "report.md").read_text(encoding="utf-8")
    if out.is_terminal:
        out.print(Markdown(page))
    else:
        out.out(page, highlight=False)
    out.print(f"{made.stage}/{made.key[:12]}" + (f" · {escape(str(html))}" if html else ""), markup=False)
