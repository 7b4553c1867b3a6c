"""Complete configs with names: `demo` · `cpu` · `d12` · `speedrun`."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from nanochat.config.chat import ChatEvaluationConfig, ConversationsConfig, MixtureItem, SFTConfig
from nanochat.config.compute import Checkpointing, Compute, Parallelism, Tracking
from nanochat.config.data import DataConfig, RowsConfig, TokenizerConfig, WorldConfig
from nanochat.config.overrides import shown
from nanochat.config.pipeline import PipelineConfig, ReportConfig
from nanochat.config.training import BaseEvaluationConfig, Horizon, ModelConfig, OptimizerConfig, PretrainConfig
from nanochat.errors import NotFound

CLIMBMIX = "hf://karpathy/climbmix-400b-shuffle@915333b4f8b8684f39aeaafea600fea6f43fb703"
"""6,543 shards of about 250 million characters, at a fixed revision; the last, `shard_06542`, is held out."""


@dataclass(frozen=True)
class Profile:
    """A complete config, and how to run it on the hardware that it is meant for."""

    summary: str
    config: PipelineConfig
    compute: Compute = Compute()


DEMO = Profile(
    "A chat model of a small invented world, in about five minutes on two cores.",
    PipelineConfig(
        data=DataConfig(
            source="world", validation_documents=400, world=WorldConfig(shards=4, documents_per_shard=8000)
        ),
        tokenizer=TokenizerConfig(vocab_size=1024, max_characters=5_000_000),
        rows=RowsConfig(sequence_len=256),
        pretrain=PretrainConfig(
            model=ModelConfig(depth=4, aspect_ratio=32, head_dim=32),
            # the rule sqrt(batch / 2^19) scales the rates by 0.09 here; a small model trains better with higher ones
            optimizer=OptimizerConfig(
                matrix_lr=0.1, head_lr=0.02, smear_lr=0.02, muon_weight_decay=0.05, warmup_steps=10
            ),
            horizon=Horizon(unit="tokens", amount=2_000_000),
            batch_tokens=4096,
            precision="bf16",
            evaluate_every_steps=150,
            evaluation_tokens=65_536,
        ),
        base_evaluation=BaseEvaluationConfig(
            evaluation_tokens=131_072,
            prompts=("Once upon a time", "One morning", "Question:"),
            sample_tokens=64,
        ),
        conversations=ConversationsConfig(sequence_len=256),
        sft=SFTConfig(batch_tokens=4096, evaluate_every_steps=50),
        chat_evaluation=ChatEvaluationConfig(limit=300, max_tokens=64),
        report=ReportConfig(title="nanochat demo"),
    ),
    Compute(parallelism=Parallelism(ranks=2), checkpoints=Checkpointing(every_s=15)),
)

CPU = Profile(
    "A small model on a laptop, in tens of minutes: one shard of ClimbMix, or your own text (set `data.source`).",
    PipelineConfig(
        data=DataConfig(source=CLIMBMIX, train_shards=1),
        tokenizer=TokenizerConfig(vocab_size=8192, max_characters=100_000_000),
        rows=RowsConfig(sequence_len=512),
        pretrain=PretrainConfig(
            model=ModelConfig(depth=4, head_dim=64),
            horizon=Horizon(unit="tokens", amount=3_000_000),
            optimizer=OptimizerConfig(
                matrix_lr=0.08, head_lr=0.02, smear_lr=0.02, muon_weight_decay=0.05, warmup_steps=20
            ),
            batch_tokens=8192,
            evaluate_every_steps=50,
            evaluation_tokens=262_144,
        ),
        base_evaluation=BaseEvaluationConfig(evaluation_tokens=524_288),
        conversations=ConversationsConfig(  # generated; `conversations.train` also takes your own files, or `smoltalk`
            train=(MixtureItem(task="world"), MixtureItem(task="spelling", limit=2000)),
            validation=(MixtureItem(task="world"),),
            questions=(MixtureItem(task="world"), MixtureItem(task="spelling", limit=100)),
            sequence_len=512,
        ),
        sft=SFTConfig(batch_tokens=8192, evaluate_every_steps=50),
        chat_evaluation=ChatEvaluationConfig(limit=200, max_tokens=64),
        report=ReportConfig(title="nanochat on a CPU"),
    ),
    Compute(parallelism=Parallelism(ranks=2)),
)

_SFT_MIXTURE = ConversationsConfig(
    train=(
        MixtureItem(task="smoltalk"),
        MixtureItem(task="mmlu", repeats=3),
        MixtureItem(task="gsm8k", repeats=4),
        MixtureItem(task="identity", repeats=2),
        MixtureItem(task="spelling", limit=80_000),
    ),
    validation=(
        MixtureItem(task="smoltalk"),
        MixtureItem(task="mmlu", limit=5200),
        MixtureItem(task="gsm8k", limit=420),
    ),
    questions=tuple(MixtureItem(task=task) for task in ("arc_easy", "arc_challenge", "mmlu", "gsm8k", "spelling")),
)

D12 = Profile(
    "Depth 12 (286 M parameters) on one GPU.",
    PipelineConfig(
        data=DataConfig(source=CLIMBMIX, train_shards=40, validation_shard="shard_06542"),
        conversations=_SFT_MIXTURE,
        report=ReportConfig(title="nanochat d12"),
    ),
    Compute(checkpoints=Checkpointing(every_s=300), tracking=Tracking(log_every_steps=10)),
)

SPEEDRUN = Profile(
    "Depth 24 (1.38 B parameters) on a node with eight GPUs.",
    PipelineConfig(
        data=DataConfig(source=CLIMBMIX, train_shards=170, validation_shard="shard_06542"),
        pretrain=PretrainConfig(model=ModelConfig(depth=24), horizon=Horizon(unit="tokens_per_parameter", amount=8)),
        conversations=_SFT_MIXTURE,
        report=ReportConfig(title="nanochat speedrun"),
    ),
    Compute(
        parallelism=Parallelism(ranks=8), checkpoints=Checkpointing(every_s=600), tracking=Tracking(log_every_steps=10)
    ),
)

PROFILES: dict[str, Profile] = {"demo": DEMO, "cpu": CPU, "d12": D12, "speedrun": SPEEDRUN}


def profile(name: str) -> Profile:
    """The profile with this name. Raises `NotFound` listing the others."""
    if name not in PROFILES:
        near = difflib.get_close_matches(name, PROFILES, 1)
        hint = f"Did you mean `{near[0]}`?" if near else f"There are {', '.join(f'`{known}`' for known in PROFILES)}."
        raise NotFound(f"There is no profile `{shown(name)}`.", hint=hint)
    return PROFILES[name]
