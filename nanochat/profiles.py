"""Complete configs with names: `demo` · `demo-rl` · `cpu` · `d12` · `speedrun`, and the user's own, in files."""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from nanochat import settings
from nanochat.config.base import Config
from nanochat.config.chat import ChatEvaluationConfig, ConversationsConfig, MixtureItem, SFTConfig
from nanochat.config.compute import Checkpointing, Compute, Parallelism, Tracking
from nanochat.config.data import DataConfig, RowsConfig, TokenizerConfig, WorldConfig
from nanochat.config.evaluation import NANOCHAT_BUNDLE, CoreBundleConfig
from nanochat.config.files import SUFFIXES, in_file, read_values
from nanochat.config.overrides import merge, parse, shown
from nanochat.config.pipeline import PipelineConfig, ReportConfig
from nanochat.config.rl import ProblemsConfig, RLConfig, RLSampling, RLTask
from nanochat.config.training import BaseEvaluationConfig, Horizon, ModelConfig, OptimizerConfig, PretrainConfig
from nanochat.errors import BadConfig, NanochatError, NotFound
from nanochat.system_errors import from_system

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
            evaluation_tokens=131_072, prompts=("Once upon a time", "One morning", "Question:"), sample_tokens=64
        ),
        conversations=ConversationsConfig(
            train=(MixtureItem(task="everyday"),),
            validation=(MixtureItem(task="everyday"),),
            questions=(MixtureItem(task="world"), MixtureItem(task="everyday")),
            sequence_len=256,
        ),
        sft=SFTConfig(batch_tokens=4096, evaluate_every_steps=50),
        chat_evaluation=ChatEvaluationConfig(limit=300, max_tokens=64),
        report=ReportConfig(title="nanochat demo"),
    ),
    Compute(parallelism=Parallelism(ranks=2), checkpoints=Checkpointing(every_s=15)),
)

DEMO_RL = Profile(
    "The demo, whose chat model is then trained on sums by reinforcement learning.",
    DEMO.config.model_copy(
        update={
            "problems": ProblemsConfig(tasks=(RLTask(task="sums", held_out=200),)),
            "rl": RLConfig(
                steps=80, sampling=RLSampling(max_tokens=40), lr_fraction=0.05, evaluate_every_steps=10,
                evaluation_samples=4,
            ),
            "report": ReportConfig(title="nanochat demo, with reinforcement learning"),
        }
    ),
    DEMO.compute,
)  # fmt: skip

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
        MixtureItem(task="spelling", limit=40_000),
        MixtureItem(task="spelling_bee", limit=40_000),
    ),
    validation=(
        MixtureItem(task="smoltalk"),
        MixtureItem(task="mmlu", limit=5200),
        MixtureItem(task="gsm8k", limit=420),
    ),
    questions=tuple(
        MixtureItem(task=task)
        for task in ("arc_easy", "arc_challenge", "mmlu", "gsm8k", "humaneval", "spelling", "spelling_bee")
    ),
)
_CHAT_EVALUATION = ChatEvaluationConfig(max_tokens=512)
"""As in nanochat: the score is ChatCORE."""

D12 = Profile(
    "Depth 12 (286 M parameters) on one GPU.",
    PipelineConfig(
        data=DataConfig(source=CLIMBMIX, train_shards=40, validation_shard="shard_06542"),
        core_bundle=CoreBundleConfig(source=NANOCHAT_BUNDLE),
        conversations=_SFT_MIXTURE,
        chat_evaluation=_CHAT_EVALUATION,
        report=ReportConfig(title="nanochat d12"),
    ),
    Compute(checkpoints=Checkpointing(every_s=300), tracking=Tracking(log_every_steps=10)),
)

SPEEDRUN = Profile(
    "Depth 24 (1.38 B parameters) on a node with eight GPUs that have fp8 (Hopper or later).",
    PipelineConfig(
        data=DataConfig(source=CLIMBMIX, train_shards=170, validation_shard="shard_06542"),
        pretrain=PretrainConfig(
            model=ModelConfig(depth=24), horizon=Horizon(unit="tokens_per_parameter", amount=8), precision="fp8"
        ),
        core_bundle=CoreBundleConfig(source=NANOCHAT_BUNDLE),
        conversations=_SFT_MIXTURE,
        sft=SFTConfig(lr_fraction=0.566),  # nanochat's 0.8, without the root of the batch of 2^20 tokens over 2^19
        chat_evaluation=_CHAT_EVALUATION,
        report=ReportConfig(title="nanochat speedrun"),
    ),
    Compute(
        parallelism=Parallelism(ranks=8), checkpoints=Checkpointing(every_s=600), tracking=Tracking(log_every_steps=10)
    ),
)

PROFILES: dict[str, Profile] = {"demo": DEMO, "demo-rl": DEMO_RL, "cpu": CPU, "d12": D12, "speedrun": SPEEDRUN}
MAX_BASES = 20
"""Limit of the chain of profile files that are based on each other."""


class ProfileFile(Config):
    """A profile in a file: its differences to another profile."""

    base: Annotated[str, Field(min_length=1)]
    """Name of the profile that it changes, or its file, relative to the folder of this file."""
    summary: str = ""
    """One line for `nanochat profiles`."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Fields of the config that differ from the base, nested."""
    compute: dict[str, Any] = Field(default_factory=dict)
    """Fields of `Compute` that differ from the base, nested."""


def profile_files() -> dict[str, Path]:
    """Name → file of the user's own profiles: `NANOCHAT_HOME/profiles/NAME.yaml`, `.yml` or `.json`.

    Raises a `NanochatError` if the folder cannot be read.
    """
    try:
        paths = sorted((settings.home() / "profiles").iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise from_system(error, "the list of your profiles") from error
    return {path.stem: path for path in paths if path.suffix in SUFFIXES}


def profile(name: str) -> Profile:
    """A built-in profile, one of the user's own by its name, or one in any file (`./mine.yaml`).

    Raises `NotFound` for an unknown name, and `BadConfig` for a file with a wrong value.
    """
    return _profile(name, ())


def _profile(name: str, derived: tuple[Path, ...]) -> Profile:
    files = profile_files()
    if name in PROFILES:
        if name in files:
            raise BadConfig(f"`{files[name]}` has the name of a built-in profile.", hint="Rename the file.")
        return PROFILES[name]
    path = files.get(name)
    if path is None and name.endswith(SUFFIXES):  # a base is relative to the file that names it
        path = derived[-1].parent / Path(name).expanduser() if derived else Path(name).expanduser()
    if path is None:
        known = [*PROFILES, *files]
        near = difflib.get_close_matches(name, known, 1)
        hint = f"Did you mean `{near[0]}`?" if near else f"There are {', '.join(f'`{each}`' for each in known)}."
        raise NotFound(f"There is no profile `{shown(name)}`.", hint=hint)
    if path in derived:
        raise BadConfig(f"`{shown(path)}`: the profile is based on itself.")
    if len(derived) == MAX_BASES:
        raise BadConfig(f"`{shown(derived[0])}`: the profile has more than {MAX_BASES} bases.")
    return _from_file(path, (*derived, path))


def _from_file(path: Path, derived: tuple[Path, ...]) -> Profile:
    values = read_values(path)
    try:
        given = parse(ProfileFile, values)
        changes = Compute.with_current_names(given.compute)
    except NanochatError as error:
        raise in_file(path, error) from None
    base = _profile(given.base, derived)
    try:
        config = parse(PipelineConfig, merge(base.config.model_dump(mode="json"), given.config), "config")
        compute = parse(Compute, merge(base.compute.model_dump(mode="json"), changes), "compute")
    except NanochatError as error:
        raise in_file(path, error) from None
    return Profile(given.summary or f"`{given.base}`, changed by `{path.name}`.", config, compute)
