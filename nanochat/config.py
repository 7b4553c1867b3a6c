"""Every knob of every stage, in the order the data meets them.

One frozen pydantic model a stage: the cache key, the form in the Prefect UI, the documentation and the command line
are all made from it. Every field says *what* is computed and is part of the key; `Compute`, at the end, says *how* and
never is. A config is never rewritten: numbers that follow from it are functions in `scaling.py`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from nanochat.settings import cores

LOG = logging.getLogger("nanochat.config")
MAX_VOCABULARY = 1 << 24
MAX_INTEGER = (1 << 63) - 1
"""Of any field: what torch takes as a seed, and Parquet and databases as a number."""
MAX_ITEMS = 1000
"""Of any list."""
MAX_SECONDS = 1e9
"""Thirty years."""

Seed = Annotated[int, Field(ge=0, le=MAX_INTEGER)]


class AbsentMeans:
    """Marks a field added after artifacts existed: at this value it leaves the key as it was before."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Config(BaseModel):
    """A frozen set of knobs; each field carries a docstring (refused at import without one)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
    renamed_fields: ClassVar[Mapping[str, str]] = {}
    """Old name of a field → its path today. An old name works for one release, and is logged."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        for name, field in cls.model_fields.items():
            if not field.description:
                raise TypeError(f"`{cls.__name__}.{name}` has no docstring")

    @classmethod
    def current_path(cls, path: str) -> str:
        """The path of a field, whose old name is accepted and logged."""
        current = cls.renamed_fields.get(path, path)
        if current != path:
            LOG.warning("`%s` is called `%s` now; the old name will not work in the next release.", path, current)
        return current

    @classmethod
    def with_current_names(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values with renamed fields under their current names. A value under the current name takes precedence."""
        current = {name: value for name, value in values.items() if name not in cls.renamed_fields}
        for old in cls.renamed_fields.keys() & values.keys():
            group, _, name = cls.current_path(old).partition(".")
            fields = current.get(group, {})
            fields = fields.model_dump() if isinstance(fields, Config) else fields
            if isinstance(fields, Mapping):
                current[group] = {name: values[old], **fields}
        return current

    @model_validator(mode="before")
    @classmethod
    def _accept_old_names(cls, values: Any) -> Any:
        return cls.with_current_names(values) if cls.renamed_fields and isinstance(values, Mapping) else values

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value_for_a_number(cls, value: Any, field: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[field.field_name or ""].annotation in (int, float):
            raise PydanticCustomError("number", "input should be a number, not true or false")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _what_every_value_keeps_to(cls, value: Any) -> Any:
        if isinstance(value, int) and abs(value) > MAX_INTEGER:
            raise PydanticCustomError("integer", "input should be at most {most}", {"most": MAX_INTEGER})
        if isinstance(value, str):
            _check_text(value)
        if isinstance(value, tuple):
            if len(value) > MAX_ITEMS:
                raise PydanticCustomError("list", "input should have at most {most} items", {"most": MAX_ITEMS})
            for each in value:
                cls._what_every_value_keeps_to(each)
        return value

    def canonical(self) -> dict[str, Any]:
        """What enters the key: every field, nested, without those that are at their `AbsentMeans` value."""
        result: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            absent = [mark for mark in field.metadata if isinstance(mark, AbsentMeans)]
            if absent and value == absent[0].value:
                continue
            result[name] = _canonical(value)
        return result


def _check_text(text: str) -> None:
    """Raises on what no file, database or page can hold."""
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise PydanticCustomError("text", "input should be valid Unicode without NUL characters")


def _canonical(value: Any) -> Any:
    if isinstance(value, Config):
        return value.canonical()
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)  # 12 and 12.0 ask for the same thing
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"a {type(value).__name__} has no stable form and cannot be part of a key")


def canonical_json(value: Any) -> str:
    """The one spelling of a JSON value: sorted names, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


# --- raw text ---------------------------------------------------------------------------------------------------------


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


# --- tokenizer, tokens, rows ------------------------------------------------------------------------------------------


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


# --- base model -------------------------------------------------------------------------------------------------------


class ModelConfig(Config):
    """The network. `depth` sets its size; the switches turn single ideas of the recipe off."""

    depth: Annotated[int, Field(ge=1, le=64)] = 12
    """Layers; width, batch, tokens and rates follow from it."""
    aspect_ratio: Annotated[int, Field(ge=8, le=512)] = 64
    """Width per layer: width = depth x this, rounded up to a multiple of `head_dim`."""
    head_dim: Annotated[int, Field(ge=8, le=256, multiple_of=8)] = 128
    """Channels of one attention head."""
    queries_per_kv_head: Annotated[int, Field(ge=1, le=64)] = 1
    """Query heads that share one key/value head (GQA); must divide the number of heads."""
    window_pattern: Annotated[str, Field(pattern=r"^[SL]+$")] = "SSSL"
    """Tiled over the layers: L attends to all of T, S to a quarter of it; the last layer is always L."""
    rope_base: Annotated[float, Field(gt=1, le=1e12)] = 100_000.0
    """Base of the rotary position embedding (RoFormer, arXiv:2104.09864)."""
    logit_softcap: Annotated[float, Field(ge=0, le=1e6)] = 15.0
    """Logits become c*tanh(z/c) (Gemma 2, arXiv:2408.00118); 0 leaves them."""
    value_embeddings: bool = True
    """Token embeddings added to the values of every other layer."""
    residual_scalars: bool = True
    """Learnt weights of the residual stream and of the first embedding at each layer."""
    smear: bool = True
    """Mix a gated part of the previous token's embedding into each token's."""
    backout: bool = True
    """Subtract a learnt part of the middle layer's output before the last norm."""


class OptimizerConfig(Config):
    """Muon for the matrices, AdamW for the rest; rates at the reference batch of 2^19 tokens."""

    matrix_lr: Annotated[float, Field(gt=0, le=1e38)] = 0.02
    """Rate of Muon."""
    embedding_lr: Annotated[float, Field(gt=0, le=1e38)] = 0.3
    """Rate of the token embedding, at width 768."""
    value_embedding_lr: Annotated[float, Field(gt=0, le=1e38)] = 0.15
    """Rate of the value embeddings, at width 768."""
    head_lr: Annotated[float, Field(gt=0, le=1e38)] = 0.008
    """Rate of the output head, at width 768."""
    scalar_lr: Annotated[float, Field(gt=0, le=1e38)] = 0.5
    """Rate of the residual scalars."""
    smear_lr: Annotated[float, Field(gt=0, le=1e38)] = 0.2
    """Rate of the smear gate and of backout; not scaled with the batch."""
    muon_weight_decay: Annotated[float, Field(ge=0, le=1e6)] = 0.28
    """Weight decay of Muon at depth 12; scaled with batch and horizon, then down to 0 by a cosine."""
    warmup_steps: Annotated[int, Field(ge=0)] = 40
    """Steps of linear warm-up."""
    warmdown_fraction: Annotated[float, Field(ge=0, le=1)] = 0.65
    """Share of the steps over which the rates go down."""
    final_lr_fraction: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Rates at the last step, as a share of their peak."""


class Horizon(Config):
    """How long to train: one number and its unit."""

    unit: Literal["tokens_per_parameter", "tokens", "steps", "flops"] = "tokens_per_parameter"
    """What `amount` counts; parameters are those of the matrices and the head."""
    amount: Annotated[float, Field(gt=0, le=1e30)] = 12.0
    """How many of them."""


class GuardConfig(Config):
    """What training does when it leaves the rails: a loss or gradient that is no number, or a loss that jumps."""

    action: Literal["stop", "roll_back"] = "stop"
    """`stop` ends the run; `roll_back` goes back to the last checkpoint and on with the rows behind the bad batch
    (PaLM, arXiv:2204.02311, section 5.1), at most three times."""
    spike_nats: Annotated[float, Field(ge=0, le=1e6)] = 3.0
    """A batch whose loss is so much above the smoothed one is a spike; 0 looks for none."""


class PretrainConfig(Config):
    """Learning the language: next-token prediction on the packed rows."""

    model: ModelConfig = ModelConfig()
    """The network."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Rates and decays."""
    horizon: Horizon = Horizon()
    """How long."""
    batch_tokens: Annotated[int, Field(ge=0)] = 0
    """Tokens per optimizer step over all ranks; 0 takes the power law of the horizon (arXiv:2505.13738)."""
    precision: Literal["fp32", "bf16", "fp16", "fp8"] = "bf16"
    """Dtype of the matrix products; weights are kept in fp32. `bf16` becomes fp32 where a device has no fast bf16,
    `fp16` scales the loss, `fp8` takes 8 bits for the large matrices while training (GPUs from Hopper on)."""
    seed: Seed = 42
    """Seed of the initial weights and of the order of the rows."""
    evaluate_every_steps: Annotated[int, Field(ge=0)] = 250
    """Validation bits per byte every so many steps; 0 only at the end."""
    evaluation_tokens: Annotated[int, Field(ge=1)] = 80 * 524_288
    """Validation tokens read each time (at most all there are)."""
    guard: GuardConfig = GuardConfig()
    """When the loss is no number, or jumps."""


class BaseEvaluationConfig(Config):
    """What the base model can do: bits per byte on held-out text, and samples."""

    evaluation_tokens: Annotated[int, Field(ge=1)] = 80 * 524_288
    """Validation tokens to read (at most all there are)."""
    prompts: tuple[str, ...] = (
        "The capital of France is",
        "The chemical symbol of gold is",
        "If yesterday was Friday, then tomorrow will be",
        "The opposite of hot is",
        "The planets of the solar system are:",
        "My favorite color is",
        "If 5*x + 3 = 13, then x is",
    )
    """Beginnings that the model continues, greedily."""
    sample_tokens: Annotated[int, Field(ge=1)] = 32
    """Tokens of each continuation."""
    free_samples: Annotated[int, Field(ge=0)] = 4
    """Samples from nothing, at temperature 1."""
    seed: Seed = 42
    """Seed of the free samples."""


# --- chat model -------------------------------------------------------------------------------------------------------


class MixtureItem(Config):
    """One source of conversations."""

    task: Literal[
        "world",
        "identity",
        "spelling",
        "smoltalk",
        "mmlu",
        "gsm8k",
        "arc_easy",
        "arc_challenge",
        "conversations",
    ] = "world"
    """Which conversations; `conversations` reads yours: `messages`, ShareGPT, Alpaca, `prompt` and `completion`, or
    `question` and `answer`."""
    source: str = ""
    """Where they are, when not in the task's usual place: a folder, a file (JSON or Parquet), or `hf://org/name`."""
    sha256: Annotated[str, AbsentMeans("")] = ""
    """Of what lies there, when it is on this machine: anything else is refused. Left empty, a run fills it in."""
    repeats: Annotated[float, Field(gt=0, le=100)] = 1
    """Epochs: how often each conversation is seen; 0.5 takes half of them, chosen by the seed."""
    weight: Annotated[float, AbsentMeans(0.0), Field(ge=0, le=1e9)] = 0.0
    """Share of the mixture, in conversations, relative to the other items' weights; `repeats` is then the most that
    each one is seen, and what runs out first sets the size. 0: no share. All items have a weight, or none."""
    limit: Annotated[int, Field(ge=0)] = 0
    """Use only so many conversations; 0 uses all."""
    ignore_fields: Annotated[tuple[str, ...], AbsentMeans(())] = ()
    """Of your own conversations and of `smoltalk`: fields of a row or message to leave out (`reasoning_content`). A
    field that is not understood is refused unless it is named here."""


class ConversationsConfig(Config):
    """The conversations of supervised fine-tuning, rendered to rows with a loss mask, and the questions held out."""

    train: Annotated[tuple[MixtureItem, ...], Field(min_length=1)] = (MixtureItem(),)
    """The mixture to learn from."""
    validation: Annotated[tuple[MixtureItem, ...], Field(min_length=1)] = (MixtureItem(),)
    """Conversations for the validation loss (their held-out split)."""
    questions: Annotated[tuple[MixtureItem, ...], Field(min_length=1)] = (MixtureItem(),)
    """Tasks to examine the chat model on (their held-out split)."""
    sequence_len: Annotated[int, Field(ge=8, le=1 << 20)] = 2048
    """T of the rows, in tokens; longer conversations are cut."""
    seed: Seed = 42
    """Seed of the order of the mixture, and of generated tasks."""


class SFTConfig(Config):
    """Learning to answer: loss only on the assistant's tokens."""

    epochs: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    """Times the rows are seen."""
    batch_tokens: Annotated[int, Field(ge=0)] = 0
    """Tokens per optimizer step; 0 takes that of pretraining."""
    lr_fraction: Annotated[float, Field(gt=0, le=10)] = 0.8
    """Rates at the start, as a share of pretraining's peak."""
    warmdown_fraction: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the steps over which the rates go down to 0."""
    precision: Literal["fp32", "bf16", "fp16", "fp8"] = "bf16"
    """Dtype of the matrix products, as in pretraining."""
    seed: Seed = 42
    """Seed of the order of the rows."""
    evaluate_every_steps: Annotated[int, Field(ge=0)] = 200
    """Validation loss every so many steps; 0 only at the end."""
    guard: GuardConfig = GuardConfig()
    """When the loss is no number, or jumps."""


class ChatEvaluationConfig(Config):
    """Held-out questions: choices by the likeliest letter, answers by generating them."""

    limit: Annotated[int, Field(ge=0)] = 0
    """Questions per task; 0 asks all."""
    max_tokens: Annotated[int, Field(ge=1)] = 256
    """Tokens an answer may have."""


class ReportConfig(Config):
    """The report."""

    title: str = "nanochat"
    """Its headline."""


class PipelineConfig(Config):
    """The whole pipeline, one section a stage."""

    data: Annotated[DataConfig, Field(title="Data")] = DataConfig()
    """Raw text and the validation split."""
    tokenizer: Annotated[TokenizerConfig, Field(title="Tokenizer")] = TokenizerConfig()
    """The vocabulary."""
    tokens: Annotated[TokensConfig, Field(title="Tokens")] = TokensConfig()
    """Token shards."""
    rows: Annotated[RowsConfig, Field(title="Rows")] = RowsConfig()
    """Packed rows."""
    data_card: Annotated[DataCardConfig, Field(title="Data card")] = DataCardConfig()
    """What the text is like."""
    pretrain: Annotated[PretrainConfig, Field(title="Pretraining")] = PretrainConfig()
    """The base model."""
    base_evaluation: Annotated[BaseEvaluationConfig, Field(title="Base evaluation")] = BaseEvaluationConfig()
    """What the base model can do."""
    conversations: Annotated[ConversationsConfig, Field(title="Conversations")] = ConversationsConfig()
    """What the chat model learns from, and is asked."""
    sft: Annotated[SFTConfig, Field(title="Supervised fine-tuning")] = SFTConfig()
    """The chat model."""
    chat_evaluation: Annotated[ChatEvaluationConfig, Field(title="Chat evaluation")] = ChatEvaluationConfig()
    """What the chat model can do."""
    report: Annotated[ReportConfig, Field(title="Report")] = ReportConfig()
    """The report."""


# --- how to run, outside every key ------------------------------------------------------------------------------------


class DataWorkers(Config):
    """The workers that process shards: download, tokenize, pack."""

    count: Annotated[int, Field(ge=0, le=1024)] = 0
    """Shards processed at the same time, and threads of the tokenizer, shared by the shards; 0: the number of cores."""
    task_runner: Literal["threads", "processes", "dask", "ray"] = "threads"
    """What runs the shards: threads or processes of this machine, or a Dask or Ray cluster (needs its package)."""
    scheduler: str = ""
    """Address of the Dask scheduler (`tcp://host:8786`) or Ray head (`ray://host:10001`); empty: a cluster of `count`
    workers on this machine, for the run."""
    shards_per_task: Annotated[int, Field(ge=0)] = 0
    """Shards per Prefect task; 0: one, or as many as make 32 tasks of more than 64 shards."""

    def threads(self) -> int:
        """`count`, or the number of cores."""
        return self.count or cores()

    def at_once(self, shards: int) -> int:
        """How many of these shards are processed at the same time."""
        return max(1, min(shards, self.threads()))


class Parallelism(Config):
    """The processes that train together, and how they divide a training batch."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to train on; `auto` takes the GPUs if there are any."""
    ranks: Annotated[int, Field(ge=0, le=1024)] = 0
    """Training processes on this node; 0: one per GPU, or one on a CPU."""
    nodes: Annotated[int, Field(ge=1, le=1 << 20)] = 1
    """Nodes that train together."""
    node: Annotated[int, Field(ge=0)] = 0
    """Index of this node, from 0. Node 0 publishes the results; the others train with it and wait for them."""
    rendezvous: str = ""
    """`host:port` on node 0, where the nodes connect; empty: node 0 writes its address to the store."""
    micro_batch_rows: Annotated[int, Field(ge=0)] = 0
    """Rows of one forward and backward pass on one rank; 0: chosen automatically. The batch stays the same (gradient
    accumulation)."""
    exact: bool = False
    """Bit-identical results on 1, 2, 4, 8, … ranks: gradients of single rows are summed in one fixed order, on one
    thread per rank. Slow; without it, other numbers of ranks round differently."""

    @field_validator("exact")
    @classmethod
    def _exact_needs_a_power_of_two(cls, exact: bool, others: ValidationInfo) -> bool:
        ranks = others.data.get("ranks", 0) * others.data.get("nodes", 1)
        if exact and ranks & (ranks - 1):
            raise PydanticCustomError("ranks", "sums are exact on 1, 2, 4, 8, … ranks; these are {n}", {"n": ranks})
        return exact


class Kernels(Config):
    """Which implementations compute the network."""

    compile: Literal["auto", "on", "off"] = "auto"
    """`torch.compile`: the network and the loss on GPUs, the loss on CPUs, where `auto` compiles for a vocabulary of
    8,192 or more if there is a C++ compiler. Compiled code is cached for the next start."""
    attention: Literal["auto", "flash4", "flash3", "flex", "sdpa"] = "auto"
    """Attention kernel; `auto` takes the first of these that runs here, and logs it."""


class Checkpointing(Config):
    """When training saves a checkpoint, and which checkpoints it keeps."""

    every_s: Annotated[float, Field(gt=0, le=MAX_SECONDS)] = 180.0
    """Seconds of training between checkpoints."""
    keep: Annotated[int, Field(ge=1)] = 2
    """Newest checkpoints kept while a stage trains."""
    keep_every_steps: Annotated[int, Field(ge=0)] = 0
    """Also keep checkpoints whose step is a multiple of this, as long as the stage trains; 0: none."""


class Supervision(Config):
    """When a stage that makes no progress is stopped."""

    watchdog_timeout_s: Annotated[float, Field(ge=0, le=MAX_SECONDS)] = 60.0
    """A rank that completes no step for this long, or for ten times its slowest step if that is longer, ends the run;
    0: never."""
    timeout_s: Annotated[float, Field(ge=0, le=MAX_SECONDS)] = 0.0
    """A stage that runs longer than this is stopped; 0: never."""


class Tracking(Config):
    """Where the metrics of training go."""

    log_every_steps: Annotated[int, Field(ge=1)] = 1
    """Steps per line of the metrics file. Between two lines, training does not wait for the device."""
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Experiment trackers that also receive the metrics; each needs its package."""


def _with_old_names(schema: dict[str, Any]) -> None:
    """A Prefect server compares the parameters of a run with this schema, and old names have to pass."""
    schema["additionalProperties"] = True


class Compute(Config):
    """How to run; never part of a key."""

    model_config = ConfigDict(json_schema_extra=_with_old_names)
    renamed_fields = {
        "workers": "data_workers.count",
        "task_runner": "data_workers.task_runner",
        "scheduler": "data_workers.scheduler",
        "shards_per_task": "data_workers.shards_per_task",
        "device": "parallelism.device",
        "ranks": "parallelism.ranks",
        "nodes": "parallelism.nodes",
        "rendezvous": "parallelism.rendezvous",
        "node": "parallelism.node",
        "micro_batch_rows": "parallelism.micro_batch_rows",
        "exact": "parallelism.exact",
        "compile": "kernels.compile",
        "attention": "kernels.attention",
        "checkpoint_every_s": "checkpoints.every_s",
        "keep_checkpoints": "checkpoints.keep",
        "keep_checkpoint_every_steps": "checkpoints.keep_every_steps",
        "silence_s": "supervision.watchdog_timeout_s",
        "timeout_s": "supervision.timeout_s",
        "log_every_steps": "tracking.log_every_steps",
        "trackers": "tracking.trackers",
    }

    data_workers: Annotated[DataWorkers, Field(title="Data workers")] = DataWorkers()
    """Workers that process shards."""
    parallelism: Annotated[Parallelism, Field(title="Parallelism")] = Parallelism()
    """Processes that train together."""
    kernels: Annotated[Kernels, Field(title="Kernels")] = Kernels()
    """Compilation and attention."""
    checkpoints: Annotated[Checkpointing, Field(title="Checkpoints")] = Checkpointing()
    """Checkpoints of training."""
    supervision: Annotated[Supervision, Field(title="Supervision")] = Supervision()
    """Timeouts."""
    tracking: Annotated[Tracking, Field(title="Tracking")] = Tracking()
    """Metrics and experiment trackers."""

    def with_workers(self, count: int) -> Self:
        """The same with `count` data workers."""
        return self.model_copy(update={"data_workers": self.data_workers.model_copy(update={"count": count})})

    def shared(self, shards: int) -> Self:
        """What each of these shards gets: its share of the threads."""
        return self.with_workers(self.data_workers.threads() // self.data_workers.at_once(shards))

    def on_node(self, node: int, rendezvous: str) -> Self:
        """The same for another node, or with a rendezvous that has been found."""
        update = {"node": node, "rendezvous": rendezvous}
        return self.model_copy(update={"parallelism": self.parallelism.model_copy(update=update)})
