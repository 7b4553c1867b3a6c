"""`nanochat export`: writes an artifact into a folder, in our format or in that of Hugging Face."""

import os
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.markup import escape

from nanochat.cli.app import Reference, StoreUrl, app, open_store, out
from nanochat.errors import BadConfig
from nanochat.system_errors import TRANSIENT, from_system


@app.command
def export(
    reference: Reference,
    folder: Path,
    *,
    format: Annotated[
        Literal["nanochat", "hf"],
        Parameter(help="`nanochat`: the files as they are stored; `hf`: a model or vocabulary for transformers."),
    ] = "nanochat",
    dtype: Annotated[Literal["fp32", "bf16"], Parameter(help="Dtype of the weights with `--format hf`.")] = "fp32",
    push: Annotated[
        str,
        Parameter(
            help="Also upload the model to `org/name` on the Hugging Face Hub, with the token of `hf auth login`."
        ),
    ] = "",
    overwrite: Annotated[bool, Parameter(negative="", help="Replace files of the same names in the folder.")] = False,
    store: StoreUrl = "",
) -> None:
    """Copy an artifact's files into a folder; a model or vocabulary also gets the tokenizer in other formats.

    These are `tokenizer.json` (Hugging Face) and `tokenizer.tiktoken`. With `--format hf`, transformers loads the
    folder with `trust_remote_code=True`.

    Examples: `nanochat export chat/latest my-model`, `nanochat export chat/latest my-model --format hf --dtype bf16`
    """
    from nanochat.export.artifact_folder import last_file, write_artifact, write_hugging_face
    from nanochat.export.staging import staged
    from nanochat.graphs.resolve import evaluations_of
    from nanochat.store.artifacts import Model

    if push and format != "hf":
        raise BadConfig("`--push` uploads a model for transformers.", hint="Add `--format hf`.")
    opened = open_store(store, read_only=True)
    artifact = opened.artifact(opened.resolve(reference), reused=True)
    source = artifact.path
    try:
        with staged(
            folder, overwrite=overwrite, store=opened.objects.local_path(), last=last_file(artifact, format)
        ) as stage:
            if format == "hf":
                evaluations = evaluations_of(opened, artifact) if isinstance(artifact, Model) else []
                write_hugging_face(artifact, evaluations, stage, dtype)
            else:
                write_artifact(artifact, stage)
            names = [path.name for path in stage.iterdir()]
    except OSError as error:
        if error.errno in TRANSIENT:
            raise from_system(error, f"the export to `{folder}`") from error
        named = str(error.filename2 or error.filename or folder)
        if named.startswith(f"{source}{os.sep}"):  # it was deleted while it was copied
            raise from_system(error, "the store") from error
        raise BadConfig(
            f"`{named}` cannot be used: {error.strerror or error}.", hint="Name another folder to export to."
        ) from error
    for name in sorted(names):
        out.print(escape(str(folder / name)))
    if push:
        from nanochat.export.destination import push as upload

        out.print(escape(upload(folder, push, names)))
