"""Configs of the data stages: raw text, vocabulary, token shards, packed rows, data card."""

from typing import Annotated, Literal

from pydantic import Field

from nanochat.config.base import MAX_VOCABULARY, AbsentMeans, Config, Seed


class WorldConfig(Config):
    """The embedded corpus: generated stories about a small invented world."""

    shards: Annotated[int, Field(ge=1, le=10_000)] = 4
    """Training shards to generate."""
    documents_per_shard: Annotated[int, Field(ge=10, le=1_000_000)] = 10_000
    """Documents in one shard."""
    seed: Seed = 1
    """Seed of the stories. The facts of the world are the same for every seed."""


class DataConfig(Config):
    """Source of the raw text, and the validation split."""

    source: Annotated[str, Field(min_length=1)] = "world"
    """`world` (the embedded corpus), a folder or file (Parquet, JSONL, text), `https://…` (a shard, or a `.txt` list of
    shards), `hf://org/name[@revision][/folder]` (a Hugging Face dataset), `s3://bucket/prefix`, or another address
    that fsspec supports (`gs://…`, `ftp://…`)."""
    subset: str = ""
    """Subset (configuration) of a Hugging Face dataset, as its card names it; empty: files are chosen by folder."""
    split: str = ""
    """Split of a Hugging Face dataset to train on; empty: the splits for training and validation."""
    text_column: Annotated[str, Field(min_length=1)] = "text"
    """Column (Parquet) or field (JSONL) that holds the text."""
    train_shards: Annotated[int, Field(ge=0)] = 0
    """Number of training shards to use, in order of name; 0: all."""
    validation_shard: str = ""
    """Name of a shard that is held out whole. Empty: shards whose name has a word like `validation`, `val` or `dev`;
    if there are none, a sample of the first shard, chosen by content. The store records which shard that is, so that
    adding shards does not change it."""
    validation_documents: Annotated[int, Field(ge=1)] = 1000
    """Maximum number of documents sampled from the first shard for validation (at most a tenth of the shard)."""
    world: WorldConfig = WorldConfig()
    """The embedded corpus; used only when the source is `world`."""


class ShardConfig(Config):
    """One raw shard, as the download stage receives it."""

    name: str
    """Name of the shard, unique in its source: `shard_00012`."""
    url: str
    """Path, address or `world:<index>` of the shard; with `files`, their folder."""
    files: Annotated[tuple[tuple[str, str], ...], AbsentMeans(())] = ()
    """For a shard made of many small files: path in the folder and identity of each."""
    identity: str
    """Changes when the bytes at the address change: revision, ETag, or size and modification time."""
    text_column: str = "text"
    """Column or field that holds the text."""
    validation: Literal["none", "sample", "all"] = "none"
    """Documents that are held out for validation."""
    validation_documents: Annotated[int, Field(ge=0)] = 0
    """Maximum number of documents of a sample."""
    world: WorldConfig | None = None
    """The embedded corpus, for shards of it."""


class TokenizerConfig(Config):
    """The byte-pair encoding, trained on the training documents."""

    vocab_size: Annotated[int, Field(ge=266, le=MAX_VOCABULARY)] = 32_768
    """Number of token ids: 256 bytes, the merges, and 9 special tokens at the end."""
    max_characters: Annotated[int, Field(ge=1)] = 2_000_000_000
    """Maximum number of characters to train on."""
    document_characters: Annotated[int, Field(ge=1)] = 10_000
    """Maximum number of characters to read of each document."""


class TokensConfig(Config):
    """Encoding raw shards to token shards."""

    row_group_tokens: Annotated[int, Field(ge=1024)] = 1 << 20
    """Tokens in one row group of the Parquet file."""


class RowsConfig(Config):
    """Packing token shards into rows of T+1 tokens, best fit."""

    sequence_len: Annotated[int, Field(ge=8, le=1 << 20)] = 2048
    """T: context length of the model, in tokens."""


class DataCardConfig(Config):
    """The data card: statistics of the text."""

    most_languages: Annotated[int, Field(ge=1, le=100)] = 12
    """Languages to list, the most frequent first; the others are counted together."""
