"""Configs of the chat model: conversations, supervised fine-tuning, evaluation."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from nanochat.config.base import AbsentMeans, Config, Seed
from nanochat.config.training import GuardConfig


class MixtureItem(Config):
    """One source of conversations."""

    task: Literal[
        "world",
        "everyday",
        "sums",
        "identity",
        "spelling",
        "spelling_bee",
        "smoltalk",
        "mmlu",
        "gsm8k",
        "arc_easy",
        "arc_challenge",
        "humaneval",
        "conversations",
    ] = "world"
    """Which conversations. `conversations` reads your own files: `messages`, ShareGPT, Alpaca, `prompt` and
    `completion`, or `question` and `answer`."""
    source: str = ""
    """Folder, file (JSON or Parquet) or `hf://org/name` to read instead of the task's default source."""
    sha256: Annotated[str, AbsentMeans("")] = ""
    """SHA-256 of a source on this machine; other content is refused. Empty: the run computes it."""
    repeats: Annotated[float, Field(gt=0, le=100)] = 1
    """Epochs over the conversations; 0.5 takes half of them, chosen by the seed."""
    weight: Annotated[float, AbsentMeans(0.0), Field(ge=0, le=1e9)] = 0.0
    """Share of the mixture, in conversations, relative to the weights of the other items. `repeats` is then the maximum
    for each conversation, and the item that is exhausted first limits the size. 0: no weight. All items have a weight,
    or none."""
    limit: Annotated[int, Field(ge=0)] = 0
    """Maximum number of conversations; 0: all."""
    ignore_fields: Annotated[tuple[str, ...], AbsentMeans(())] = ()
    """Fields of a row or message to skip (`reasoning_content`), in your own conversations and in `smoltalk`. An unknown
    field that is not listed here is an error."""


class ConversationsConfig(Config):
    """The conversations of supervised fine-tuning, rendered to rows with a loss mask, and the held-out questions."""

    train: Annotated[tuple[MixtureItem, ...], Field(min_length=1)] = (MixtureItem(),)
    """The mixture to train on."""
    validation: Annotated[tuple[MixtureItem, ...], Field(min_length=1)] = (MixtureItem(),)
    """Conversations for the validation loss (their held-out split)."""
    questions: Annotated[tuple[MixtureItem, ...], Field(min_length=1)] = (MixtureItem(),)
    """Tasks to evaluate the chat model on (their held-out split)."""
    sequence_len: Annotated[int, Field(ge=8, le=1 << 20)] = 2048
    """Length of the rows, in tokens; longer conversations are truncated."""
    seed: Seed = 42
    """Seed of the order of the mixture and of generated tasks."""


class QuestionsConfig(Config):
    """Held-out questions without conversations to train on: for models that were trained elsewhere."""

    questions: Annotated[tuple[MixtureItem, ...], Field(min_length=1)] = (MixtureItem(),)
    """Tasks to evaluate the chat model on (their held-out split)."""
    seed: Seed = 42
    """Seed of generated tasks."""


class SFTConfig(Config):
    """Supervised fine-tuning: the loss covers only the assistant's tokens."""

    epochs: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    """Passes over the rows."""
    batch_tokens: Annotated[int, Field(ge=0)] = 0
    """Tokens per optimizer step; 0: as in pretraining."""
    lr_fraction: Annotated[float, Field(gt=0, le=10)] = 0.8
    """Learning rates at the start, as a fraction of their peak in pretraining."""
    warmdown_fraction: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Fraction of the steps over which the learning rates decay to 0."""
    precision: Literal["fp32", "bf16", "fp16", "fp8"] = "bf16"
    """Dtype of the matrix products, as in pretraining."""
    seed: Seed = 42
    """Seed of the row order."""
    evaluate_every_steps: Annotated[int, Field(ge=0)] = 200
    """Steps between evaluations of the validation loss; 0: only at the end."""
    guard: GuardConfig = GuardConfig()
    """Handling of a loss that is not finite or jumps."""


class ChatEvaluationConfig(Config):
    """Evaluation of the chat model on held-out questions: by the most likely letter, or by generating the answer."""

    limit: Annotated[int, Field(ge=0)] = 0
    """Questions per task, the first ones; 0: all. The tasks of datasets have their questions in a random order, the
    same as nanochat."""
    max_tokens: Annotated[int, Field(ge=1)] = 256
    """Maximum number of tokens per answer. ChatCORE needs 512."""
    samples: Annotated[int, AbsentMeans(1), Field(ge=1, le=1024)] = 1
    """Answers per generated question, for pass@k; more than 1 needs a temperature."""
    temperature: Annotated[float, AbsentMeans(0.0), Field(ge=0, le=100)] = 0.0
    """Temperature of generated answers; 0 always takes the most likely token."""
    top_k: Annotated[int, AbsentMeans(0), Field(ge=0)] = 0
    """Sample among this many most likely tokens; 0: all."""
    seed: Annotated[Seed, AbsentMeans(42)] = 42
    """Seed of sampled answers."""
    stop: Annotated[tuple[str, ...], AbsentMeans(())] = ()
    """Generated answers end before the first of these strings, in addition to the end of the model's turn."""

    @model_validator(mode="after")
    def _check_sampling(self) -> Self:
        if self.samples > 1 and not self.temperature:
            raise PydanticCustomError("samples", "several samples are equal without a temperature")
        if not all(self.stop):
            raise PydanticCustomError("stop", "a stop string should not be empty")
        return self
