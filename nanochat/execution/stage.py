"""What a stage is: a pure function of a frozen config and input artifacts, producing one artifact.

    @stage(version=1, produces=TokenShard, resource="cpu")
    def tokenize(config: TokensConfig, raw: RawShard, vocabulary: Vocabulary, *, out: Path, context: Context):
        '''Shown in the UI.'''

Inputs are recognised by their annotations. `Stage.run` asks the store for the key (name, version, config, digests of
the inputs); if the artifact is there it is reused, else the function computes it into an empty folder and the result is
published. Two runs that want one key do the work once; one that was silent for so long that the other took over drops
what it did, and waits for the other's. Bump `version` when the meaning of a stage changes;
`tests/test_stage_versions.py` fails when its source changed and nobody decided.
"""

from __future__ import annotations

import importlib
import inspect
import shutil
import time
import typing
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_type_hints

from nanochat.config.base import Config
from nanochat.config.compute import Compute
from nanochat.errors import NanochatError, StageFailed, WrongKind
from nanochat.events import Event, Reporter, Sink
from nanochat.failures import convert_errors
from nanochat.store.artifacts import Artifact
from nanochat.store.lease import HeldLease, LeaseLost, lease
from nanochat.store.manifest import compute_key
from nanochat.store.producer import describe_producer
from nanochat.store.store import Store

Metrics = dict[str, Any]
Inputs = Mapping[str, "Artifact | list[Artifact]"]

PUBLISHED_WITHIN_S = 600.0
"""The first node has so long to publish what all nodes have made."""
POLL_S = 1.0


class NotFirstNode(Exception):
    """The ranks of this node have done their part; the first node has the result."""


@dataclass(frozen=True)
class Context:
    """What a stage may use beside its config and inputs; nothing of it enters the key."""

    compute: Compute
    progress: Reporter
    checkpoints: str
    """URL under which training saves and finds its state, and nodes find each other."""
    folder: Path
    """Local folder of this run of the stage, for scratch and logs; kept when the stage fails."""


@dataclass(frozen=True)
class Input:
    """One input of a stage: which kind it takes, and whether a list of them."""

    kind: type[Artifact]
    many: bool


@dataclass(frozen=True)
class Stage:
    """A named, versioned step of the pipeline."""

    name: str
    version: int
    kind: type[Artifact]
    resource: Literal["cpu", "gpu"]
    summary: str
    config_type: type[Config]
    inputs: Mapping[str, Input]
    function: Callable[..., Metrics]

    def __reduce__(self) -> tuple[Any, ...]:
        """By its name: a worker on another machine has the same code."""
        return _stage_named, (self.function.__module__, self.name)

    def key(self, config: Config, inputs: Inputs) -> str:
        """What is asked for: hash of name, version, canonical config and the digests of the inputs."""
        self._check(config, inputs)
        digests = {name: [artifact.digest for artifact in _as_list(given)] for name, given in inputs.items()}
        return compute_key(self.name, self.version, config.canonical(), digests)

    def find(self, config: Config, inputs: Inputs, store: Store) -> Artifact | None:
        """The artifact, when the store has it."""
        manifest = store.find(self.name, self.key(config, inputs))
        return store.artifact(manifest, reused=True) if manifest else None

    def run(
        self,
        config: Config,
        inputs: Inputs,
        *,
        store: Store,
        compute: Compute,
        progress: Reporter,
        folder_root: Path,
        run_name: str = "",
    ) -> Artifact:
        """Reuses the artifact, or computes and publishes it.

        Raises a `NanochatError`; what was half done is left in `folder_root` for reading, never taken for an artifact.
        """
        with convert_errors(f"the stage `{self.name}`"):
            return self._run(config, inputs, store, compute, progress, folder_root, run_name)

    def _run(
        self,
        config: Config,
        inputs: Inputs,
        store: Store,
        compute: Compute,
        progress: Reporter,
        folder_root: Path,
        run_name: str,
    ) -> Artifact:
        if (found := self.find(config, inputs, store)) is not None:
            return found
        key = self.key(config, inputs)
        if compute.parallelism.node and self.resource == "gpu":
            return self._help_first_node(
                config, inputs, store, *self._prepare(key, store, compute, progress, folder_root)
            )

        def waiting(holder: str) -> None:
            progress.log(f"waiting for {holder}, which is making the same artifact")

        while True:
            with lease(store.objects, key, on_wait=waiting) as held:
                if (found := self.find(config, inputs, store)) is not None:
                    return found
                with suppress(LeaseLost):
                    fenced = progress.with_sink(_fence(held))
                    return self._compute(key, held, config, inputs, store, compute, fenced, folder_root, run_name)

    def _compute(
        self,
        key: str,
        held: HeldLease,
        config: Config,
        inputs: Inputs,
        store: Store,
        compute: Compute,
        progress: Reporter,
        folder_root: Path,
        run_name: str,
    ) -> Artifact:
        started = datetime.now(UTC)
        context, out = self._prepare(key, store, compute, progress, folder_root)
        metrics = self.function(config, **inputs, out=out, context=context)
        if not held.holds():
            raise _overtaken()
        manifest = store.publish(
            out,
            stage=self.name,
            stage_version=self.version,
            kind=self.kind.__name__,
            key=key,
            config=config.canonical(),
            inputs=dict(inputs),
            metrics=metrics,
            producer=describe_producer(started, run=run_name),
        )
        # A store that fails now does not fail what is published: `nanochat gc` finds these checkpoints too.
        with suppress(NanochatError):
            # Whoever took over before we published may train from them; whoever takes over later finds the artifact.
            if held.holds():
                store.objects.delete([entry.path for entry in store.objects.list(_checkpoints(key))])
        shutil.rmtree(context.folder, ignore_errors=True)
        return store.artifact(manifest, reused=False)

    def _help_first_node(self, config: Config, inputs: Inputs, store: Store, context: Context, out: Path) -> Artifact:
        """This node's ranks for what the first node makes; its artifact, once that has been published."""
        with suppress(NotFirstNode):
            self.function(config, **inputs, out=out, context=context)
        shutil.rmtree(context.folder, ignore_errors=True)
        deadline = time.monotonic() + PUBLISHED_WITHIN_S
        while (found := self.find(config, inputs, store)) is None:
            if time.monotonic() > deadline:
                raise StageFailed(f"The first node has not published what `{self.name}` made.")
            context.progress.log("waiting for the first node to publish")
            time.sleep(POLL_S)
        return found

    def _prepare(
        self, key: str, store: Store, compute: Compute, progress: Reporter, folder_root: Path
    ) -> tuple[Context, Path]:
        """What an attempt may use, and an empty folder for its payload."""
        folder = folder_root / self.name / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{key[:8]}-{uuid.uuid4().hex[:4]}"
        out = folder / "out"
        out.mkdir(parents=True)
        return Context(compute, progress, f"{store.objects.root}/{_checkpoints(key)}", folder), out

    def _check(self, config: Config, inputs: Inputs) -> None:
        if not isinstance(config, self.config_type):
            raise WrongKind(f"`{self.name}` takes a {self.config_type.__name__}, got a {type(config).__name__}.")
        if set(inputs) != set(self.inputs):
            raise WrongKind(f"`{self.name}` takes the inputs {sorted(self.inputs)}, got {sorted(inputs)}.")
        for name, taken in self.inputs.items():
            given = inputs[name]
            for artifact in _as_list(given):
                if not isinstance(artifact, taken.kind) or isinstance(given, list) != taken.many:
                    wanted = f"list[{taken.kind.__name__}]" if taken.many else taken.kind.__name__
                    raise WrongKind(f"`{self.name}` takes `{name}: {wanted}`, got {type(artifact).__name__}.")


def stage(
    *, version: int, produces: type[Artifact], resource: Literal["cpu", "gpu"]
) -> Callable[[Callable[..., Metrics]], Stage]:
    """Turns a function into a `Stage`; see the module's docstring for its signature."""

    def declare(function: Callable[..., Metrics]) -> Stage:
        hints = get_type_hints(function)
        parameters = list(inspect.signature(function).parameters)
        config_type = hints[parameters[0]]
        names = [name for name in parameters[1:] if name not in ("out", "context")]
        return Stage(
            name=function.__name__,
            version=version,
            kind=produces,
            resource=resource,
            summary=(inspect.getdoc(function) or "").split("\n")[0],
            config_type=config_type,
            inputs={name: _input(function.__name__, name, hints[name]) for name in names},
            function=function,
        )

    return declare


def _stage_named(module: str, name: str) -> Stage:
    return getattr(importlib.import_module(module), name)


def _input(stage_name: str, name: str, annotation: Any) -> Input:
    many = typing.get_origin(annotation) is list
    kind = typing.get_args(annotation)[0] if many else annotation
    if not (isinstance(kind, type) and issubclass(kind, Artifact)):
        raise TypeError(f"`{stage_name}`: the input `{name}` must be annotated with a kind of artifact")
    return Input(kind, many)


def _checkpoints(key: str) -> str:
    return f"v1/checkpoints/{key}"


def _fence(held: HeldLease) -> Sink:
    """A sink that ends the stage when its lease is lost."""

    def check(_: Event) -> None:
        if held.lost:
            raise _overtaken()

    return check


def _overtaken() -> LeaseLost:
    return LeaseLost("Another run took this artifact over, because this one was silent.")


def _as_list(given: Artifact | list[Artifact]) -> list[Artifact]:
    return given if isinstance(given, list) else [given]
