"""Reads what a graph needs before it is built, and moves aliases after it has run: this package's only module with I/O.

A source becomes shards, a user's files become hashes, and names become artifacts of earlier runs with their inputs.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from nanochat.config.chat import ConversationsConfig
from nanochat.config.data import DataConfig, ShardConfig
from nanochat.config.evaluation import CoreBundleConfig
from nanochat.data.file_hashes import with_file_hashes
from nanochat.errors import NotFound, WrongKind
from nanochat.evaluation.core.source import with_hashes
from nanochat.execution.graph import Results
from nanochat.graphs.pipeline import Chat
from nanochat.lineage.ancestry import ancestors
from nanochat.sources.shard_list import list_shards
from nanochat.store.artifacts import Artifact, Evaluation, Model, Rows, Vocabulary
from nanochat.store.store import Store

A = TypeVar("A", bound=Artifact)


class NothingNew(NotFound):
    """The model has read every shard."""


BASE_STAGES = ("pretrain", "continue_pretrain")


def shards(config: DataConfig, store: Store, *, keep: bool = True) -> tuple[ShardConfig, ...]:
    """The shards of a source, according to the snapshot in the store or to the source itself.

    The first run of a source draws its validation sample; with `keep`, the store remembers the draw.
    """
    return list_shards(config, store, keep=keep)


def conversations(config: ConversationsConfig) -> ConversationsConfig:
    """The config with the hashes of the user's own conversation files, so that a changed file changes the key."""
    return with_file_hashes(config)


def core_bundle(config: CoreBundleConfig) -> CoreBundleConfig | None:
    """The config with the hashes of a bundle on this machine, so that a changed file changes the key.

    None without a source: CORE is not evaluated.
    """
    return with_hashes(config) if config.source else None


def model(store: Store, reference: str) -> Model:
    """The model with an alias, `stage/key` or beginning of a key. Raises `NotFound` or `WrongKind`."""
    manifest = store.resolve(reference)
    store.find(manifest.stage, manifest.key)  # recorded in the run, so that garbage collection keeps the artifact
    found = store.artifact(manifest, reused=True)
    if not isinstance(found, Model):
        raise WrongKind(f"`{reference}` is not a base or chat model, but a {found.kind}.")
    return found


def base_model(store: Store, reference: str) -> Model:
    """Like `model`, for base models only."""
    found = model(store, reference)
    if not is_base(found):
        raise WrongKind(f"`{reference}` is not a base model.")
    return found


def is_base(model: Model) -> bool:
    """Whether pretraining made the model, not fine-tuning."""
    return model.stage in BASE_STAGES


def base_of(chat: Model) -> Model:
    """The base model that a chat model was fine-tuned from."""
    return _inputs(chat, "base", Model)[0]


def vocabulary_of(model: Model) -> Vocabulary:
    """The vocabulary that a base or chat model uses."""
    return _inputs(model if is_base(model) else base_of(model), "vocabulary", Vocabulary)[0]


def rows_of(base: Model) -> list[Rows]:
    """The rows that a base model was trained and validated on."""
    return _inputs(base, "rows", Rows)


def evaluations_of(store: Store, model: Model) -> list[Evaluation]:
    """The newest evaluation of a model, and of the base model that it was fine-tuned from, if there are any."""
    found: list[Evaluation] = []
    base = model.key if is_base(model) else model.manifest.inputs["base"][0].key
    for stage, key in (("evaluate_chat", model.key), ("evaluate_base", base)):
        of_model = [each for each in store.manifests(stage) if each.inputs["model"][0].key == key]
        for manifest in sorted(of_model, key=lambda each: each.producer.ended, reverse=True):
            if store.find(manifest.stage, manifest.key):
                found.append(Evaluation(store, manifest, reused=True))
                break
    return found


def unread_shards(base: Model, listed: Sequence[ShardConfig]) -> list[ShardConfig]:
    """The listed shards that no training of this base model has read, and those with validation documents.

    Raises `NothingNew` if the model has read all shards.
    """
    read = [_source(each.config) for each in ancestors(base.store, base.manifest) if each.stage == "download"]
    new = [shard for shard in listed if _source(shard.canonical()) not in read]
    if not new:
        raise NothingNew("There is no new shard: the model has read them all.", hint="Raise `data.train_shards`?")
    return [shard for shard in listed if shard in new or shard.validation != "none"]


def publish_aliases(store: Store, chat: Chat, results: Results) -> None:
    """Moves `base/latest`, `chat/latest` and `report/latest` to the artifacts of a run of the pipeline."""
    for alias, node in (("base/latest", chat.base), ("chat/latest", chat.chat), ("report/latest", chat.report)):
        store.set_alias(alias, results[node].manifest)


def _inputs(artifact: Artifact, name: str, kind: type[A]) -> list[A]:
    """An artifact's inputs with this name. Raises `NotFound` if one is no longer in the store."""
    found: list[A] = []
    for reference in artifact.manifest.inputs[name]:
        manifest = artifact.store.find(reference.stage, reference.key)
        if manifest is None:
            raise NotFound(
                f"{artifact.stage}/{artifact.key[:8]} was made with {reference.stage}/{reference.key[:8]}, "
                "which is no longer in the store.",
                hint="`nanochat run` with its settings makes it again.",
            )
        found.append(kind(artifact.store, manifest, reused=True))
    return found


def _source(shard: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a shard's config that identifies its text: all but its role in the validation split."""
    return {name: value for name, value in shard.items() if not name.startswith("validation")}
