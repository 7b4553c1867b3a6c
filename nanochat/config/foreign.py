"""Config of a foreign model: a causal language model of Hugging Face that is evaluated beside ours."""

from typing import Annotated, Literal

from pydantic import Field

from nanochat.config.base import AbsentMeans, Config


class ForeignOptions(Config):
    """How a foreign model is read."""

    bos: Literal["tokenizer", "always", "never"] = "tokenizer"
    """Whether its BOS token begins a text: `tokenizer` adds it if its own tokenizer does. A conversation begins as the
    model's chat template writes it."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Dtype of its weights and of the computation."""
    gguf: str = ""
    """The file to read in a folder of several GGUF files."""
    trust_remote_code: bool = False
    """Run the Python code that comes with the model; without it, such a model is refused."""


class ForeignModelConfig(ForeignOptions):
    """A foreign model: the place and the hashes of its files, and how they are read."""

    source: Annotated[str, Field(min_length=1)]
    """Folder or GGUF file on this machine, or `hf://org/name@commit`."""
    files: Annotated[tuple[tuple[str, str], ...], Field(min_length=1)]
    """Path and SHA-256 of each file that is read."""
    revision: Annotated[str, AbsentMeans("")] = ""
    """The revision of the Hub that was named; the commit is in `source`."""
