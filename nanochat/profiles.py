"""Complete configs with names: `demo` · `cpu` · `d12` · `speedrun`. And how to change one field of one."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from nanochat.config import (
    BaseEvaluationConfig,
    ChatEvaluationConfig,
    Checkpointing,
    Compute,
    Config,
    ConversationsConfig,
    DataConfig,
    Horizon,
    MixtureItem,
    ModelConfig,
    OptimizerConfig,
    Parallelism,
    PipelineConfig,
    PretrainConfig,
    ReportConfig,
    RowsConfig,
    SFTConfig,
    TokenizerConfig,
    Tracking,
    WorldConfig,
)
from nanochat.errors import BadConfig, NotFound

C = TypeVar("C", bound=Config)

MAX_DEPTH = 20
"""Of a JSON value in a change."""
QUOTED = 200
"""Characters of a value in a sentence."""

CLIMBMIX = "hf://karpathy/climbmix-400b-shuffle@915333b4f8b8684f39aeaafea600fea6f43fb703"
"""6,543 shards of about 250 million characters; the last, `shard_06542`, is held out. The revision is pinned."""


@dataclass(frozen=True)
class Profile:
    """A complete config, and how to run it where it is meant to run."""

    summary: str
    config: PipelineConfig
    compute: Compute = Compute()


DEMO = Profile(
    "A chat model of an invented world, from nothing, in five minutes on two cores.",
    PipelineConfig(
        data=DataConfig(
            source="world", validation_documents=400, world=WorldConfig(shards=4, documents_per_shard=8000)
        ),
        tokenizer=TokenizerConfig(vocab_size=1024, max_characters=5_000_000),
        rows=RowsConfig(sequence_len=256),
        pretrain=PretrainConfig(
            model=ModelConfig(depth=4, aspect_ratio=32, head_dim=32),
            # the recipe's rates shrink with the root of the batch, to 0.09 here: a small model bears more
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
    "A small model of your own text on a laptop, in tens of minutes: set `data.source`.",
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
        conversations=ConversationsConfig(  # generated; `conversations.train` takes yours, or the hub's `smoltalk`
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
    "Depth 12 (286 M parameters) on one GPU, about the size of GPT-2.",
    PipelineConfig(
        data=DataConfig(source=CLIMBMIX, train_shards=40, validation_shard="shard_06542"),
        conversations=_SFT_MIXTURE,
        report=ReportConfig(title="nanochat d12"),
    ),
    Compute(checkpoints=Checkpointing(every_s=300), tracking=Tracking(log_every_steps=10)),
)

SPEEDRUN = Profile(
    "Depth 24 (1.38 B parameters) on a node of eight GPUs: GPT-2's CORE in under two hours.",
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
    """The profile of that name; `NotFound` names the others."""
    if name not in PROFILES:
        near = difflib.get_close_matches(name, PROFILES, 1)
        hint = f"Did you mean `{near[0]}`?" if near else f"There are {', '.join(f'`{known}`' for known in PROFILES)}."
        raise NotFound(f"There is no profile `{shown(name)}`.", hint=hint)
    return PROFILES[name]


def override(config: C, changes: Iterable[str]) -> C:
    """The config with `path.to.field=value` applied; values are JSON, or else plain text.

    Raises `BadConfig` naming the field: unknown (with the nearest name), of a wrong type, or out of range.
    """
    changed: dict[str, Any] = config.model_dump(mode="json")
    for change in changes:
        path, equals, text = change.partition("=")
        if not equals or not path.strip():
            raise BadConfig(
                f"`{shown(change)}` is not of the form `field=value`.", hint="For example `pretrain.model.depth=6`."
            )
        current = config.current_path(path.strip())
        _set(changed, type(config), current, _value(current, text))
    return parse(type(config), changed)


def _value(path: str, text: str) -> Any:
    """The JSON value that the text is, or the text."""
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError:
        return text
    except ValueError as error:  # a name twice, or a number of thousands of digits
        raise BadConfig(f"`{path}`: {str(error).partition(':')[0]}, got `{shown(text)}`.") from None
    except RecursionError:
        value = None
    if (value is None and text.strip() != "null") or _is_deep(value, MAX_DEPTH):
        raise BadConfig(f"`{path}`: the value is nested more than {MAX_DEPTH} deep, got `{shown(text)}`.")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice")
    return found


def _is_deep(value: Any, allowed: int) -> bool:
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return allowed == 0 or any(_is_deep(each, allowed - 1) for each in inner if isinstance(each, dict | list))


def shown(value: Any) -> str:
    """A value as a sentence quotes it: one line, not long, and printable whatever it is."""
    try:
        text = str(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits
        return f"a very large {type(value).__name__}"
    kept = (each if each.isprintable() else each.encode("unicode_escape").decode() for each in text[:QUOTED])
    return "".join(kept) + "…" * (len(text) > QUOTED)


def parse(kind: type[C], values: dict[str, Any]) -> C:
    """A config from JSON values; `BadConfig` in one sentence that names the field."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = shown(".".join(str(part) for part in first["loc"])) or kind.__name__
        message = first["msg"][0].lower() + first["msg"][1:]
        raise BadConfig(f"`{where}`: {message}, got `{shown(first.get('input'))}`.") from None


def _set(values: dict[str, Any], kind: type[Config], path: str, value: Any) -> None:
    names = _whole_path(values, path.split("."))
    here: Any = values
    for depth, name in enumerate(names):
        if not isinstance(here, dict) or name not in here:
            owner = ".".join(names[:depth]) or kind.__name__
            fields = list(here) if isinstance(here, dict) else []
            below = {found[-1]: ".".join(found) for found in _paths(values) if found[:depth] == names[:depth]}
            near = difflib.get_close_matches(name, below, 1)
            hint = (
                f"Did you mean `{below[near[0]]}`?"
                if near
                else f"It has {', '.join(f'`{field}`' for field in fields)}."
            )
            if isinstance(here, list):
                hint = "It is a list: give the whole of it, as JSON."
            elif not fields:
                hint = "It is a single value."
            raise BadConfig(f"`{shown(owner)}` has no field `{shown(name)}`.", hint=hint)
        if depth == len(names) - 1:
            here[name] = value
            return
        here = here[name]


def _whole_path(values: dict[str, Any], names: list[str]) -> list[str]:
    """`pretrain.depth` means `pretrain.model.depth` when no other field below `pretrain` is called `depth`."""
    known = [path for path in _paths(values) if path[0] == names[0]]
    ends = [path for path in known if path[-1] == names[-1] and set(names) <= set(path)]
    return ends[0] if len(ends) == 1 else names


def _paths(values: dict[str, Any]) -> list[list[str]]:
    return [
        [name, *below]
        for name, value in values.items()
        for below in ([[], *_paths(value)] if isinstance(value, dict) else [[]])
    ]
