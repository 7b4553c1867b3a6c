"""Reads what a graph needs before it is built, and moves aliases after it has run: this package's only module with I/O.

A source becomes shards, a user's files become hashes, and names become artifacts of earlier runs with their inputs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from nanochat.config.chat import ConversationsConfig, MixtureItem
from nanochat.config.data import DataConfig, ShardConfig
from nanochat.config.evaluation import ComparisonConfig, CoreBundleConfig
from nanochat.config.experiment import Metric
from nanochat.config.foreign import ForeignModelConfig, ForeignOptions
from nanochat.config.overrides import parse
from nanochat.config.pipeline import ComparedModelConfig, PipelineConfig
from nanochat.config.preferences import PairsConfig
from nanochat.config.rl import ProblemsConfig, RLTask
from nanochat.data.file_hashes import with_file_hashes
from nanochat.errors import BadConfig, BadSource, NotFound, WrongKind
from nanochat.evaluation.core.source import with_hashes
from nanochat.execution.graph import Results
from nanochat.experiments.children import CHAT_METRICS, Child
from nanochat.graphs.evaluate import Sources
from nanochat.graphs.experiment import ChildSources
from nanochat.graphs.pipeline import Chat
from nanochat.lineage.ancestry import ancestors
from nanochat.lineage.evaluations import EVALUATION_STAGES, foreign_name, newest_evaluations
from nanochat.lineage.last_run import last_run
from nanochat.rl.pairs import with_hash as with_pair_hash
from nanochat.rl.problems import with_hashes as with_problem_hashes
from nanochat.sources.hub_address import parse_hub_address
from nanochat.sources.local_files import is_local, local_path
from nanochat.sources.model_files import find_model, is_foreign
from nanochat.sources.shard_list import list_shards
from nanochat.stages import all_stages
from nanochat.store.artifacts import AnyModel, Artifact, Evaluation, Model, Rows, Vocabulary
from nanochat.store.manifest import Manifest, Name
from nanochat.store.store import Store

A = TypeVar("A", bound=Artifact)


class NothingNew(NotFound):
    """The model has read every shard."""


BASE_STAGES = ("pretrain", "continue_pretrain")
FOREIGN_STAGE = "foreign_model"
TASKS = ("base", "core", "chat", "text")
"""What a model can be evaluated on."""


def shards(config: DataConfig, store: Store, *, keep: bool = True) -> tuple[ShardConfig, ...]:
    """The shards of a source, according to the snapshot in the store or to the source itself.

    The first run of a source draws its validation sample; with `keep`, the store remembers the draw.
    """
    return list_shards(config, store, keep=keep)


def conversations(config: ConversationsConfig) -> ConversationsConfig:
    """The config with the hashes of the user's own conversation files, so that a changed file changes the key.

    Raises `BadSource`, naming the field, for a file or folder that does not exist.
    """
    for name, items in (("train", config.train), ("validation", config.validation), ("questions", config.questions)):
        for number, item in enumerate(items):
            _check_exists(item, f"conversations.{name}.{number}", is_own=item.task == "conversations")
    return with_file_hashes(config)


def core_bundle(config: CoreBundleConfig) -> CoreBundleConfig | None:
    """The config with the hashes of a bundle on this machine, so that a changed file changes the key.

    None without a source: CORE is not evaluated.
    """
    return with_hashes(config) if config.source else None


def problems(config: ProblemsConfig) -> ProblemsConfig | None:
    """The config with the hashes of the user's own problems and reward functions.

    None without tasks: there is no reinforcement learning. Raises `BadSource`, naming the field, for a file or folder
    that does not exist.
    """
    for number, task in enumerate(config.tasks):
        _check_exists(task, f"problems.tasks.{number}", is_own=task.task == "problems")
    return with_problem_hashes(config) if config.tasks else None


def pairs(config: PairsConfig) -> PairsConfig | None:
    """The config with the hash of the file of pairs. None without a source: there is no preference optimization.

    Raises `BadSource` for a file that does not exist.
    """
    _check_exists(config, "pairs", is_own=True)
    return with_pair_hash(config) if config.source else None


def _check_exists(item: MixtureItem | RLTask | PairsConfig, field: str, *, is_own: bool) -> None:
    """Raises `BadSource` if the source of `field` is a path of this machine that does not exist.

    A relative path is one only where the source is the user's own (`is_own`): elsewhere it may be an id of the Hub.
    With a hash, the file is not needed while the store has what was made from it.
    """
    if not item.source or item.sha256 or not is_local(item.source):
        return
    path = local_path(item.source)
    try:
        is_missing = (is_own or path.is_absolute()) and not path.exists()
    except OSError:  # it cannot be read: the hash has a better sentence
        return
    if is_missing:
        hints = ["Is the path right?" if path.is_absolute() else f"The path begins in `{Path.cwd()}`."]
        if isinstance(item, MixtureItem):
            hints.append("A dataset of the Hub is `hf://org/name`.")
        raise BadSource(
            f"`{field}.source` is `{item.source}`, and there is no such file or folder.", hint=" ".join(hints)
        )


def experiment(store: Store, children: Sequence[Child], metric: Metric, *, keep: bool = True) -> list[ChildSources]:
    """What each run of an experiment reads; a source that several of them have is listed once."""
    listed: dict[str, tuple[ShardConfig, ...]] = {}
    found: list[ChildSources] = []
    for child in children:
        config, name = child.config, child.config.data.model_dump_json()
        if name not in listed:
            listed[name] = shards(config.data, store, keep=keep)
        bundle = core_bundle(config.core_bundle)
        if metric in CHAT_METRICS:
            chats, given, preferred = (
                conversations(config.conversations),
                problems(config.problems),
                pairs(config.pairs),
            )
            found.append(ChildSources(listed[name], chats, bundle, given, preferred))
        else:  # no chat model is trained: the files of its stages are not needed
            found.append(ChildSources(listed[name], config.conversations, bundle))
    return found


def model(store: Store, reference: str) -> Model:
    """The model with an alias, `stage/key` or beginning of a key. Raises `NotFound` or `WrongKind`."""
    manifest = store.resolve(reference)
    store.find(manifest.stage, manifest.key)  # recorded in the run, so that garbage collection keeps the artifact
    found = store.artifact(manifest, reused=True)
    if not isinstance(found, Model):
        raise WrongKind(f"`{reference}` is not a base or chat model, but a {found.kind}.")
    return found


def any_model(store: Store, reference: str, options: ForeignOptions) -> AnyModel | ForeignModelConfig:
    """A model of the store; or a foreign one: a folder, a GGUF file, or `hf://org/name[@revision]`.

    What the store has comes first. Raises `NotFound`, `WrongKind`, `BadSource` or `SourceUnreachable`.
    """
    if is_foreign(reference):
        return find_model(reference, options)
    try:
        manifest = store.resolve(reference)
    except NotFound as error:
        if local_path(reference).exists():
            return find_model(reference, options)
        # it may be an id of the Hub; but a wrong name must not go over the network
        raise NotFound(
            error.message, hint=f"{error.hint} A model of the Hugging Face Hub is `hf://org/name`."
        ) from None
    store.find(manifest.stage, manifest.key)  # recorded in the run, so that garbage collection keeps the artifact
    found = store.artifact(manifest, reused=True)
    if not isinstance(found, AnyModel):
        raise WrongKind(f"`{reference}` is not a model, but a {found.kind}.")
    return found


def evaluation_sources(
    store: Store, config: PipelineConfig, found: AnyModel | ForeignModelConfig, tasks: Sequence[str]
) -> Sources:
    """What a model is evaluated on: `tasks` are some of `base`, `core`, `chat` and `text`, which is `data.source`.

    Without tasks: a base model is evaluated as the pipeline does it, a chat model on questions, a foreign model on
    CORE. Raises `BadConfig` for tasks that do not fit the model.
    """
    own = found if isinstance(found, Model) else None
    is_chat = own is not None and not is_base(own)
    if not tasks:
        usual = ["chat"] if is_chat else ["base", "core"] if own else ["core"]
        tasks = [task for task in usual if task != "core" or config.core_bundle.source or not own]
    for task in tasks:
        if task not in TASKS:
            raise BadConfig(
                f"There are no tasks `{task}`.", hint=f"There are {', '.join(f'`{each}`' for each in TASKS)}."
            )
    if "base" in tasks and (own is None or is_chat):
        raise BadConfig(
            "Only a base model of the store has held-out rows.", hint="Evaluate others on a text: `--text`."
        )
    if "chat" in tasks and own is not None and not is_chat:
        raise BadConfig("A base model answers no questions of a chat.", hint="Evaluate it on `core`.")
    if "core" in tasks and not config.core_bundle.source:
        raise BadConfig("CORE needs the files of its tasks.", hint="Name their folder or zip file with `--bundle`.")
    return Sources(
        rows=rows_of(own) if own and "base" in tasks else None,
        bundle=core_bundle(config.core_bundle) if "core" in tasks else None,
        conversations=conversations(config.conversations) if "chat" in tasks else None,
        vocabulary=vocabulary_of(own) if own and "chat" in tasks else None,
        shards=text_shards(config.data, store) if "text" in tasks else None,
    )


def text_shards(config: DataConfig, store: Store) -> list[ShardConfig]:
    """The shards of a source, of which nothing is held out."""
    listed = list_shards(config, store, keep=False)
    return [shard.model_copy(update={"validation": "none", "validation_documents": 0}) for shard in listed]


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
    """The base model that a chat model was made from, by fine-tuning and what may follow it."""
    base = _inputs(chat, "base", Model)[0]
    return base if is_base(base) else base_of(base)


def vocabulary_of(model: Model) -> Vocabulary:
    """The vocabulary that a base or chat model uses."""
    return _inputs(model if is_base(model) else base_of(model), "vocabulary", Vocabulary)[0]


def rows_of(base: Model) -> list[Rows]:
    """The rows that a base model was trained and validated on."""
    return _inputs(base, "rows", Rows)


def evaluations_of(store: Store, model: Model) -> list[Evaluation]:
    """The newest evaluation of a model, and of the base model that it was made from, if there are any."""
    found: list[Evaluation] = []
    base = model.key if is_base(model) else base_key(store, model.manifest)
    for stage, key in (("evaluate_chat", model.key), ("evaluate_core", base), ("evaluate_base", base)):
        of_model = [each for each in store.manifests(stage) if each.inputs["model"][0].key == key]
        for manifest in sorted(of_model, key=lambda each: each.producer.ended, reverse=True):
            if store.find(manifest.stage, manifest.key):
                found.append(Evaluation(store, manifest, reused=True))
                break
    return found


def evaluations_to_compare(store: Store, reference: str) -> tuple[str, list[Evaluation]]:
    """A name for tables, and the newest evaluation of a model by each stage; or the evaluation that is named.

    The model may be a foreign one, as for `any_model`. Raises `NotFound` if there is none.
    """
    found = _contender(store, reference)
    if not found.evaluations:
        raise NotFound(found.problem, hint=f"`nanochat evaluate {reference}` evaluates a model.")
    return found.name, found.evaluations


@dataclass(frozen=True)
class _Contender:
    """A model that is compared with others."""

    name: str
    model: AnyModel | None
    """None: it is no longer in the store."""
    evaluations: list[Evaluation]
    problem: str = ""
    """What is missing: a sentence."""


def _contender(store: Store, reference: str) -> _Contender:
    """The model or evaluation that is named. Raises `NotFound` for what the store has no trace of."""
    if _is_not_of_the_store(store, reference):
        models = _records_of(store, reference)
        evaluations = _newest_of(store, models)
        if not evaluations:
            hint = f"`nanochat evaluate {reference} --tasks chat`, or `--tasks core --bundle FOLDER`, evaluates it."
            raise NotFound(f"`{reference}` has no evaluation in {store.objects.root}.", hint=hint)
        return _Contender(
            reference, _model_or_none(store, evaluations[0].manifest.inputs["model"][0].name), evaluations
        )
    try:
        manifest = store.resolve(reference)
    except NotFound as error:
        gone = _gone_model(store, reference)
        if gone is None:
            raise
        name = reference if reference in store.aliases() else f"{gone[0]} {gone[1][:8]}"
        problem = error.message if name == reference else f"The model {name} is no longer in the store."
        return _Contender(name, None, _newest_of(store, [gone]), problem)
    name = reference if reference in store.aliases() else f"{manifest.stage} {manifest.key[:8]}"
    if manifest.kind == Evaluation.__name__:
        made_from = _model_or_none(store, manifest.inputs["model"][0].name)
        if store.find(manifest.stage, manifest.key) is None:
            return _Contender(name, made_from, [], f"The files of {name} are no longer in the store.")
        problem = "" if made_from else f"The model of {name} is no longer in the store."
        return _Contender(name, made_from, [Evaluation(store, manifest, reused=True)], problem)
    evaluations, model = _newest_of(store, [manifest.name]), _model_or_none(store, manifest.name)
    problems = [
        *([] if store.find(*manifest.name) else [f"The files of {name} are no longer in the store."]),
        *([] if evaluations else [f"`{reference}` has no evaluation in {store.objects.root}."]),
    ]
    return _Contender(name, model, evaluations, " ".join(problems))


def _gone_model(store: Store, reference: str) -> Name | None:
    """A model without a manifest: the target of an alias, or one that an evaluation in the store was made from."""
    if (target := store.aliases().get(reference)) is not None:
        return target.stage, target.key
    stage, _, prefix = reference.rpartition("/")
    if len(prefix) < 8:
        return None
    models = {
        each.inputs["model"][0].name
        for evaluates in EVALUATION_STAGES
        for each in store.survey(evaluates)[0]
        if "model" in each.inputs
    }
    found = [
        name for name in models if stage in ("", name[0]) and name[1].startswith(prefix) and store.read(*name) is None
    ]
    return found[0] if len(found) == 1 else None


def _model_or_none(store: Store, name: Name) -> AnyModel | None:
    manifest = store.find(*name)
    found = store.artifact(manifest, reused=True) if manifest else None
    return found if isinstance(found, AnyModel) else None


def _newest_of(store: Store, models: Sequence[Name]) -> list[Evaluation]:
    """The newest evaluation of a model by each stage."""
    found: list[Evaluation] = []
    for stage in [each.name for each in all_stages().values() if each.kind is Evaluation]:
        mine = [each for each in store.manifests(stage) if any(ref.name in models for ref in each.parents)]
        for newest in sorted(mine, key=lambda each: each.producer.ended, reverse=True):
            if store.find(newest.stage, newest.key):
                found.append(Evaluation(store, newest, reused=True))
                break
    return found


def _is_not_of_the_store(store: Store, reference: str) -> bool:
    """Whether a reference is a foreign model: what the store has comes first."""
    if is_foreign(reference):
        return True
    try:
        store.resolve(reference)
    except NotFound:
        return local_path(reference).exists()
    return False


def _records_of(store: Store, address: str) -> list[Name]:
    """The artifacts of a foreign model: those of files on this machine by their hashes, those of the Hub by their name.

    The network is not used: `hf://org/name@revision` is a revision that was named before, or a commit.
    """
    records = [(each.name, ForeignModelConfig.model_validate(each.config)) for each in store.manifests(FOREIGN_STAGE)]
    if is_local(address):
        files = set(find_model(address, ForeignOptions()).files)
        return [name for name, record in records if files <= set(record.files)]
    repo, revision, gguf = parse_hub_address(address)
    found: list[Name] = []
    for name, record in records:
        recorded, commit, _ = (None, None, "") if is_local(record.source) else parse_hub_address(record.source)
        if recorded == repo and revision in (None, commit, record.revision) and gguf in ("", record.gguf):
            found.append(name)
    return found


def comparison(
    store: Store, references: Sequence[str], confidence: float
) -> tuple[ComparisonConfig, list[Evaluation], list[AnyModel]]:
    """Several models with their evaluations. What is missing of one is a sentence in the config; the rest is compared.

    Raises `BadConfig` for fewer than two names, and `NotFound` if the store has fewer than two of the models.
    """
    if len(set(references)) < 2 or len(set(references)) < len(references):
        raise BadConfig("A comparison takes two or more different models or evaluations.")
    found: list[_Contender] = []
    absent: list[NotFound] = []
    for reference in references:
        try:
            found.append(_contender(store, reference))
        except NotFound as error:
            absent.append(error)
    if len(found) < 2:
        raise absent[0]
    config = parse(
        ComparisonConfig,
        {
            "models": [each.name for each in found for _ in each.evaluations],
            "names": [each.name for each in found],
            "model_names": [each.name for each in found if each.model],
            "problems": [*(each.problem for each in found if each.problem), *(error.message for error in absent)],
            "confidence": confidence,
        },
    )
    evaluations = [evaluation for each in found for evaluation in each.evaluations]
    return config, evaluations, [each.model for each in found if each.model]


def with_compared_models(config: PipelineConfig, store: Store) -> PipelineConfig:
    """The config with the evaluations of the models that its report compares with (`report.against`)."""
    if config.report.compared:
        return config
    found: list[ComparedModelConfig] = []
    for reference in config.report.against:
        if reference == "last":
            if last := last_run(store, config.canonical()):
                compared = _compared(last[0], [f"{stage}/{key}" for stage, key in last[1].items()])
                found.append(compared.model_copy(update={"is_last_run": True}))
        elif reference == "foreign":
            models = {each.name: each for each in store.manifests(FOREIGN_STAGE)}
            evaluated = newest_evaluations(store, set(models)) if models else {}
            for name, evaluations in evaluated.items():
                found.append(_compared(foreign_name(models[name].config), evaluations))
        else:
            try:
                name, evaluations = evaluations_to_compare(store, reference)
                found.append(_compared(name, [f"{each.stage}/{each.key}" for each in evaluations]))
            except NotFound as error:  # the report shows the rest
                found.append(ComparedModelConfig(name=reference, missing=error.message))
    report = config.report.model_copy(update={"compared": tuple(found)})
    return config.model_copy(update={"report": report})


def _compared(name: str, evaluations: Sequence[str]) -> ComparedModelConfig:
    return ComparedModelConfig(name=name, evaluations=tuple(sorted(evaluations)))


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


def base_key(store: Store, chat: Manifest) -> str:
    """The key of the base model of a chat model; also if that is no longer in the store."""
    before = chat.inputs["base"][0]
    made = None if before.stage in BASE_STAGES else store.read(before.stage, before.key)
    return base_key(store, made) if made else before.key


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
