"""Commands for a site, a Prefect server with workers on this machine: `up`, `down`."""

from functools import partial
from typing import Annotated

from cyclopts import Parameter

from nanochat.cli.app import app, need_home, out
from nanochat.errors import BadConfig

DEFAULT_MODEL = "chat/latest"


@app.command
def up(
    model: Annotated[str, Parameter(help="Alias that `--serve` serves; `chat/latest`.")] = "",
    /,
    *,
    serve: Annotated[bool, Parameter(negative="", help="Also start a server of a model: `nanochat serve`.")] = False,
    gpu: Annotated[
        bool | None, Parameter(help="Start a worker for the pool `gpu`; by default if this machine has a GPU.")
    ] = None,
) -> None:
    """Start a Prefect server, workers and all deployments on this machine, and leave them running.

    With `--serve`, the models of runs can be talked to as soon as they are trained: `nanochat up --serve chat/latest`.

    Example: `nanochat up`, then start a run from the page whose address it prints
    """
    from flows.site.up import up as start
    from nanochat.workers.launch import gpu_count

    if model and not serve:
        raise BadConfig(f"`{model}` without `--serve` has no meaning.", hint=f"`nanochat up --serve {model}`")
    need_home()
    served = (model or DEFAULT_MODEL) if serve else ""
    with out.status("starting"):
        start(partial(out.print, markup=False), gpu=gpu_count() > 0 if gpu is None else gpu, model=served)


@app.command
def down() -> None:
    """End the site that `nanochat up` started; its runs are cancelled, their finished stages are kept.

    Example: `nanochat down`
    """
    from flows.site.up import down as end

    with out.status("ending"):
        end(partial(out.print, markup=False))
