"""`nanochat export`: copies the files of an artifact into a folder."""

import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.markup import escape

from nanochat.cli.app import Reference, StoreUrl, app, open_store, out
from nanochat.errors import BadConfig
from nanochat.system_errors import TRANSIENT, from_system

STAGED = ".nanochat-export-"
"""Prefix of a folder in which an export is assembled."""


@app.command
def export(
    reference: Reference,
    folder: Path,
    *,
    overwrite: Annotated[bool, Parameter(negative="", help="Replace files of the same names in the folder.")] = False,
    store: StoreUrl = "",
) -> None:
    """Copy an artifact's files into a folder; a model or vocabulary also gets the tokenizer in other formats.

    These are `tokenizer.json` (Hugging Face) and `tokenizer.tiktoken`.

    Examples: `nanochat export chat/latest my-model`, `nanochat export chat/latest my-model --overwrite`
    """
    import shutil
    import uuid

    opened = open_store(store, read_only=True)
    artifact = opened.artifact(opened.resolve(reference), reused=True)
    source = artifact.path
    names = [file.path for file in artifact.manifest.files]
    try:
        _check_target(folder, opened.objects.local_path(), overwrite=overwrite)
        is_new = not folder.is_dir()
        staged = folder / f"{STAGED}{uuid.uuid4().hex[:8]}"
        try:
            staged.mkdir(parents=True)
            for name in names:
                # copies only the bytes: the store's files may be read-only, or links
                (staged / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / name, staged / name)
            names += _tokenizer_files(staged)
            for name in names:  # renames, because another program may read the old files
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (staged / name).replace(folder / name)
        except BaseException:
            if is_new:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    except OSError as error:
        if error.errno in TRANSIENT:
            raise from_system(error, f"the export to `{folder}`") from error
        named = str(error.filename2 or error.filename or folder)
        if named.startswith(f"{source}{os.sep}"):  # it was deleted while it was copied
            raise from_system(error, "the store") from error
        raise BadConfig(
            f"`{named}` cannot be used: {error.strerror or error}.", hint="Name another folder to export to."
        ) from error
    for name in sorted({name.partition("/")[0] for name in names}):
        out.print(escape(str(folder / name)))


def _tokenizer_files(folder: Path) -> list[str]:
    """Writes a vocabulary in the formats of other tools; returns the names of the files."""
    from nanochat.tokenizer.bpe import Tokenizer
    from nanochat.tokenizer.huggingface_format import write_hf
    from nanochat.tokenizer.tiktoken_format import write_tiktoken

    if not (folder / "vocabulary.json").exists():
        return []
    tokenizer = Tokenizer.load(folder / "vocabulary.json")
    write_hf(tokenizer, folder / "tokenizer.json")
    write_tiktoken(tokenizer, folder / "tokenizer.tiktoken")
    return ["tokenizer.json", "tokenizer.tiktoken"]


def _check_target(folder: Path, store: Path | None, *, overwrite: bool) -> None:
    """Refuses a folder that contains other files or is in the store; removes the remains of a killed export."""
    import shutil

    if os.path.lexists(folder) and not folder.is_dir():
        raise BadConfig(f"`{folder}` is not a folder.", hint="Name a folder that does not exist.")
    if store and folder.resolve().is_relative_to(store.resolve()):
        raise BadConfig(f"`{folder}` is inside the store.", hint="Name a folder outside.")
    there = list(folder.iterdir()) if folder.is_dir() else []
    if not overwrite and any(not path.name.startswith(STAGED) for path in there):
        hint = "Name a folder that does not exist; `--overwrite` replaces files of the same names, and leaves others."
        raise BadConfig(f"`{folder}` is not empty.", hint=hint)
    for path in there:
        if path.name.startswith(STAGED):
            shutil.rmtree(path, ignore_errors=True)
