"""Raw text, vocabulary, token shards, packed rows, data card."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from nanochat.config.base import MAX_VOCABULARY, AbsentMeans, Config, Seed


class WorldConfig(Config):
    """The embedded corpus: a small invented world, generated."""

    shards: Annotated[int, Field(ge=1, le=10_000)] = 4
    """Training shards to generate."""
    documents_per_shard: Annotated[int, Field(ge=10, le=1_000_000)] = 10_000
    """Documents in one shard."""
    seed: Seed = 1
    """Another seed is another telling of the same world."""


class DataConfig(Config):
    """Where raw text comes from, and what is held out."""

    source: Annotated[str, Field(min_length=1)] = "world"
    """`world` (the embedded corpus), a folder or file (Parquet, JSONL, text), `https://…` (a shard, or a `.txt` list of
    shards), `hf://org/name[@revision][/folder]` (a Hugging Face dataset), `s3://bucket/prefix`, or another address
    that fsspec knows (`gs://…`, `ftp://…`)."""
    subset: str = ""
    """Of a Hugging Face dataset, the subset (its configuration) as its card names it; empty takes files by folder."""
    split: str = ""
    """Of a Hugging Face dataset, the split to train on; empty takes those of training and validation."""
    text_column: Annotated[str, Field(min_length=1)] = "text"
    """Column (Parquet) or field (JSONL) that holds the text."""
    train_shards: Annotated[int, Field(ge=0)] = 0
    """Use the first so many training shards, in order of name; 0 uses all."""
    validation_shard: str = ""
    """Name of the shard held out whole. Empty: shards whose name has `validation`, `val`, `dev` or the like as a word,
    else a sample, chosen by content, of the first shard; the store remembers which that was, and other shards move
    nothing."""
    validation_documents: Annotated[int, Field(ge=1)] = 1000
    """At most so many documents are held out when they are sampled from the first shard (never over a tenth of it)."""
    world: WorldConfig = WorldConfig()
    """The embedded corpus; read only when the source is `world`."""


class ShardConfig(Config):
    """One raw shard: what the download stage is asked for."""

    name: str
    """Name of the shard, unique in its source: `shard_00012`."""
    url: str
    """Where it is: a path, an address, or `world:<index>`; the folder of `files`, if there are any."""
    files: Annotated[tuple[tuple[str, str], ...], AbsentMeans(())] = ()
    """Of a shard that is many small files: the path of each in the folder, and its identity."""
    identity: str
    """What tells that the bytes behind the address changed: revision, ETag, or size and time."""
    text_column: str = "text"
    """Column or field that holds the text."""
    validation: Literal["none", "sample", "all"] = "none"
    """Which of its documents are held out."""
    validation_documents: Annotated[int, Field(ge=0)] = 0
    """Upper limit of a sample."""
    world: WorldConfig | None = None
    """The embedded corpus, for its shards."""


class TokenizerConfig(Config):
    """Byte-pair encoding, learnt from the training documents."""

    vocab_size: Annotated[int, Field(ge=266, le=MAX_VOCABULARY)] = 32_768
    """Ids in all: 256 bytes, the merges, and 9 special tokens at the top."""
    max_characters: Annotated[int, Field(ge=1)] = 2_000_000_000
    """Learn from at most so many characters."""
    document_characters: Annotated[int, Field(ge=1)] = 10_000
    """Of each document, only so many characters are read."""


class TokensConfig(Config):
    """Raw shards to token shards."""

    row_group_tokens: Annotated[int, Field(ge=1024)] = 1 << 20
    """Tokens in one row group of the Parquet file."""


class RowsConfig(Config):
    """Token shards to rows of T+1 tokens, best fit."""

    sequence_len: Annotated[int, Field(ge=8, le=1 << 20)] = 2048
    """T: positions the model sees at once, in tokens."""


class DataCardConfig(Config):
    """What is said of the text."""

    most_languages: Annotated[int, Field(ge=1, le=100)] = 12
    """Languages named, the most frequent first; the others are counted together."""
