"""The chat model: conversations, supervised fine-tuning, evaluation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from nanochat.config.base import AbsentMeans, Config, Seed
from nanochat.config.training import GuardConfig


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
