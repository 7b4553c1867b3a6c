"""Writes the files of an artifact, in our format or in that of Hugging Face, into a folder."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from nanochat.errors import WrongKind
from nanochat.export.model_folder import write_model
from nanochat.export.tokenizer_files import write_tokenizer
from nanochat.export.weights import Dtype
from nanochat.store.artifacts import Artifact, Evaluation, Model, Vocabulary
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.tokenizer.huggingface_format import write_hf
from nanochat.tokenizer.tiktoken_format import write_tiktoken

Format = Literal["nanochat", "hf"]


def last_file(artifact: Artifact, format: Format) -> str:
    """The file that a program reads first: without it, the others are not used."""
    if format == "nanochat":
        return ""
    return "tokenizer_config.json" if isinstance(artifact, Vocabulary) else "config.json"


def write_artifact(artifact: Artifact, folder: Path) -> None:
    """Copies the files; a vocabulary is added in the formats of other tools.

    Copies only the bytes: the store's files may be read-only, or links.
    """
    source = artifact.path
    for file in artifact.manifest.files:
        (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / file.path, folder / file.path)
    if (folder / "vocabulary.json").exists():
        tokenizer = Tokenizer.load(folder / "vocabulary.json")
        write_hf(tokenizer, folder / "tokenizer.json")
        write_tiktoken(tokenizer, folder / "tokenizer.tiktoken")


def write_hugging_face(artifact: Artifact, evaluations: Sequence[Evaluation], folder: Path, dtype: Dtype) -> None:
    """Writes a model or a vocabulary as transformers loads it. Raises `WrongKind` for any other artifact.

    The card of a model shows the scores of its `evaluations`.
    """
    if isinstance(artifact, Model):
        write_model(artifact, evaluations, folder, dtype)
    elif isinstance(artifact, Vocabulary):
        write_tokenizer(Tokenizer.load(artifact.path / "vocabulary.json"), folder)
    else:
        raise WrongKind(
            f"{artifact.stage}/{artifact.key[:8]} is a {artifact.kind}.",
            hint="`--format hf` takes a model or a vocabulary.",
        )
