"""The config of the whole pipeline, in the order in which data passes through it."""

from typing import Annotated, Any

from pydantic import Field

from nanochat.config.base import AbsentMeans, Config
from nanochat.config.chat import ChatEvaluationConfig, ConversationsConfig, SFTConfig
from nanochat.config.data import DataCardConfig, DataConfig, RowsConfig, TokenizerConfig, TokensConfig
from nanochat.config.evaluation import CoreBundleConfig, CoreConfig
from nanochat.config.foreign import ForeignOptions
from nanochat.config.preferences import DPOConfig, PairsConfig
from nanochat.config.rl import ProblemsConfig, RLConfig
from nanochat.config.text_evaluation import TextEvaluationConfig
from nanochat.config.training import BaseEvaluationConfig, PretrainConfig


class ComparedModelConfig(Config):
    """Another model in a report."""

    name: str
    """Its name in the report."""
    evaluations: tuple[str, ...] = ()
    """`stage/key` of its evaluations."""
    missing: str = ""
    """Why there is none: a sentence."""
    is_last_run: Annotated[bool, AbsentMeans(False)] = False
    """Whether it is that of the last run, which is not in the key: later runs do not make the report out of date."""


class ReportConfig(Config):
    """The report."""

    title: str = "nanochat"
    """Title of the report."""
    against: Annotated[tuple[str, ...], AbsentMeans(("last", "foreign"))] = ("last", "foreign")
    """Models that the report compares with: `last` is that of the last completed run with another config, `foreign`
    all models of Hugging Face that were evaluated in the store; others by alias, `stage/key` or `hf://…`."""
    compared: Annotated[tuple[ComparedModelConfig, ...], AbsentMeans(())] = ()
    """Their evaluations. Empty: the run finds those of `against`."""
    price_per_hour: Annotated[float, AbsentMeans(0.0), Field(ge=0, le=1e9)] = 0.0
    """Price of an hour of all machines that train and evaluate together; 0: unknown."""
    data_price_per_hour: Annotated[float, AbsentMeans(0.0), Field(ge=0, le=1e9)] = 0.0
    """Price of an hour of the machine of the other stages; 0: unknown."""
    currency: Annotated[str, AbsentMeans("$")] = "$"
    """Sign of the currency, before prices."""

    def canonical(self) -> dict[str, Any]:
        """The part that enters the key: without the model of the last run."""
        if not any(each.is_last_run for each in self.compared):
            return super().canonical()
        compared = tuple(each for each in self.compared if not each.is_last_run)
        return self.model_copy(update={"compared": compared}).canonical()


class PipelineConfig(Config):
    """The whole pipeline, one section per stage."""

    data: Annotated[DataConfig, Field(title="Data")] = DataConfig()
    """Raw text and the validation split."""
    tokenizer: Annotated[TokenizerConfig, Field(title="Tokenizer")] = TokenizerConfig()
    """The vocabulary."""
    tokens: Annotated[TokensConfig, Field(title="Tokens")] = TokensConfig()
    """Encoding to token shards."""
    rows: Annotated[RowsConfig, Field(title="Rows")] = RowsConfig()
    """Packing into rows."""
    data_card: Annotated[DataCardConfig, Field(title="Data card")] = DataCardConfig()
    """Statistics of the text."""
    pretrain: Annotated[PretrainConfig, Field(title="Pretraining")] = PretrainConfig()
    """Training of the base model."""
    base_evaluation: Annotated[BaseEvaluationConfig, Field(title="Base evaluation")] = BaseEvaluationConfig()
    """Evaluation of the base model."""
    core_bundle: Annotated[CoreBundleConfig, AbsentMeans(CoreBundleConfig()), Field(title="Tasks of CORE")] = (
        CoreBundleConfig()
    )
    """The tasks of CORE; without a source, the base model is not evaluated on CORE."""
    core_evaluation: Annotated[CoreConfig, AbsentMeans(CoreConfig()), Field(title="CORE")] = CoreConfig()
    """Evaluation of the base model on CORE."""
    conversations: Annotated[ConversationsConfig, Field(title="Conversations")] = ConversationsConfig()
    """Conversations to train on, and questions to evaluate on."""
    sft: Annotated[SFTConfig, Field(title="Supervised fine-tuning")] = SFTConfig()
    """Training of the chat model."""
    pairs: Annotated[PairsConfig, AbsentMeans(PairsConfig()), Field(title="Pairs of answers")] = PairsConfig()
    """Pairs of preference optimization; without a source, there is none."""
    dpo: Annotated[DPOConfig, AbsentMeans(DPOConfig()), Field(title="Preference optimization")] = DPOConfig()
    """Training of the chat model on pairs of answers, before reinforcement learning."""
    problems: Annotated[ProblemsConfig, AbsentMeans(ProblemsConfig()), Field(title="Problems")] = ProblemsConfig()
    """Problems of reinforcement learning; without tasks, there is none."""
    rl: Annotated[RLConfig, AbsentMeans(RLConfig()), Field(title="Reinforcement learning")] = RLConfig()
    """Training of the chat model on answers that are judged."""
    chat_evaluation: Annotated[ChatEvaluationConfig, Field(title="Chat evaluation")] = ChatEvaluationConfig()
    """Evaluation of the chat model."""
    text_evaluation: Annotated[
        TextEvaluationConfig, AbsentMeans(TextEvaluationConfig()), Field(title="Evaluation on any text")
    ] = TextEvaluationConfig()
    """Evaluation on any text, by `nanochat evaluate --text`."""
    foreign: Annotated[ForeignOptions, AbsentMeans(ForeignOptions()), Field(title="Foreign models")] = ForeignOptions()
    """How models of Hugging Face are read, by `nanochat evaluate`."""
    report: Annotated[ReportConfig, Field(title="Report")] = ReportConfig()
    """The report."""
