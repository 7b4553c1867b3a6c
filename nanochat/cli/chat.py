"""`nanochat chat`: talks to a chat model in the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from nanochat.cli.app import (
    EXIT_INTERRUPTED,
    Reference,
    StoreUrl,
    app,
    between,
    imports_without_gc,
    open_model,
    open_store,
)
from nanochat.errors import BadConfig

if TYPE_CHECKING:
    from nanochat.store.manifest import Manifest
    from nanochat.store.store import Store


@app.command
def chat(
    model: Reference = "chat/latest",
    *,
    prompt: Annotated[
        str,
        Parameter(
            name=["--prompt", "-p"],
            allow_leading_hyphen=True,
            help="Print the answer to this prompt, and exit; `-`: to the standard input.",
        ),
    ] = "",
    system: Annotated[str, Parameter(help="Instructions before the first prompt.")] = "",
    temperature: Annotated[float, between(0, 100), Parameter(help="0 always chooses the most likely token.")] = 0.6,
    top_k: Annotated[
        int, between(0, 1 << 24), Parameter(help="Sample from this many most likely tokens; 0: all.")
    ] = 50,
    top_p: Annotated[
        float, between(0, 1), Parameter(help="Sample from the likeliest tokens that have this probability together.")
    ] = 1.0,
    max_tokens: Annotated[int, between(1, 1 << 20), Parameter(help="Maximum length of one answer.")] = 256,
    seed: Annotated[int, between(0, (1 << 63) - 1), Parameter(help="The same seed gives the same answer.")] = 42,
    timings: Annotated[bool, Parameter(negative="", help="Print speeds to the standard error.")] = False,
    store: StoreUrl = "",
) -> None:
    """Talk to a chat model in the terminal.

    Without a terminal, each line of the standard input is a prompt, and only answers are printed.

    Examples: `nanochat chat -p "Hello!"`, `echo "Hello!" | nanochat chat`
    """
    opened = open_store(store, read_only=True)
    artifact = open_model(opened, model)
    with imports_without_gc():
        from nanochat.inference.request import SamplingParameters
        from nanochat.serve import terminal

    sampling = SamplingParameters(temperature=temperature, top_k=top_k, top_p=top_p, max_tokens=max_tokens, seed=seed)
    opened_chat = terminal.open_chat(artifact.path, sampling, system)
    try:
        if prompt:
            question = sys.stdin.read().strip() if prompt == "-" else prompt
            if not question:
                raise BadConfig("The standard input is empty.", hint="Write the prompt to it.")
            opened_chat.conversation.ask(question)
            if terminal.answer(opened_chat, timed=timings) == "cancelled":
                raise KeyboardInterrupt
        elif sys.stdin.isatty() and sys.stdout.isatty():
            terminal.converse(opened_chat, _title(opened, model, artifact.manifest), timed=timings)
        else:
            terminal.serve_pipe(opened_chat, timed=timings)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def _title(store: Store, model: str, manifest: Manifest) -> str:
    """`chat/latest · sft 1a2b3c4d · centered accuracy 0.62 · made from: nanochat lineage chat/latest`."""
    from nanochat.console import headline
    from nanochat.lineage.evaluations import newest_evaluation

    evaluation = newest_evaluation(store, manifest)
    score = headline(evaluation.metrics) if evaluation else "not evaluated"
    return f"{model} · {manifest.stage} {manifest.key[:8]} · {score} · made from: nanochat lineage {model}"
