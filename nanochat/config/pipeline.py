"""The config of the whole pipeline, in the order in which data passes through it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from nanochat.config.base import Config
from nanochat.config.chat import ChatEvaluationConfig, ConversationsConfig, SFTConfig
from nanochat.config.data import DataCardConfig, DataConfig, RowsConfig, TokenizerConfig, TokensConfig
from nanochat.config.training import BaseEvaluationConfig, PretrainConfig


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
