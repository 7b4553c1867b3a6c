"""`nanochat chat`: talks to a chat model in the terminal."""

from typing import Annotated

from cyclopts import Parameter

from nanochat.cli.app import Reference, StoreUrl, app, between, open_store
from nanochat.errors import NotFound


@app.command
def chat(
    model: Reference = "chat/latest",
    *,
    prompt: Annotated[str, Parameter(name=["--prompt", "-p"], help="Print the answer to this prompt, and exit.")] = "",
    temperature: Annotated[float, between(0, 100), Parameter(help="0 always chooses the most likely token.")] = 0.6,
    top_k: Annotated[
        int, between(0, 1 << 24), Parameter(help="Sample from this many most likely tokens; 0: all.")
    ] = 50,
    max_tokens: Annotated[int, between(1, 1 << 20), Parameter(help="Maximum length of one answer.")] = 256,
    seed: Annotated[int, between(0, (1 << 63) - 1), Parameter(help="The same seed gives the same answer.")] = 42,
    store: StoreUrl = "",
) -> None:
    """Talk to a chat model in the terminal.

    Example: `nanochat chat -p "Hello!"`
    """
    from nanochat.serve.terminal import chat as talk

    opened = open_store(store, read_only=True)
    artifact = opened.artifact(opened.resolve(model), reused=True)
    if artifact.kind != "Model":
        raise NotFound(
            f"`{model}` is a {artifact.kind}, not a model.", hint="`nanochat ls --stage sft` lists the chat models."
        )
    talk(artifact.path, prompt or None, temperature, top_k, max_tokens, seed)
