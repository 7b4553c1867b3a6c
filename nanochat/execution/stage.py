"""Stages and nodes. A stage is a pure function of a frozen config and input artifacts that produces one artifact.

    @stage(version=1, produces=TokenShard, resource="cpu")
    def tokenize(config: TokensConfig, raw: RawShard, vocabulary: Vocabulary, *, out: Path, context: Context):
        '''Shown in the UI.'''

Calling a stage builds a `Node` and runs nothing: `tokenize(config.tokens, raw=shard, vocabulary=vocabulary)`, where an
input is another node or an artifact. The annotations of the function declare the inputs. `attempt.py` runs a node.

Bump `version` when a stage computes something else; `tests/test_stage_versions.py` fails when the source of a stage
changed without a decision.
"""

from __future__ import annotations

import importlib
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Concatenate, Generic, Literal, TypeVar, get_type_hints

from nanochat.config.base import AbsentMeans, Config
from nanochat.config.compute import Compute
from nanochat.errors import WrongKind
from nanochat.events import Reporter
from nanochat.store.artifacts import Artifact
from nanochat.store.manifest import compute_key
from nanochat.store.store import Store

C = TypeVar("C", bound=Config)
A = TypeVar("A", bound=Artifact)
A_co = TypeVar("A_co", bound=Artifact, covariant=True)

Metrics = dict[str, Any]
Inputs = Mapping[str, Artifact | list[Artifact]]
"""Inputs of a call that can run: every input is an artifact."""


class NotFirstNode(Exception):
    """The ranks of this machine are done; the first machine has the result."""


@dataclass(frozen=True)
class Context:
    """What the function of a stage uses besides its config and inputs; no part of it enters the key."""

    compute: Compute
    progress: Reporter
    checkpoints: str
    """URL below which training saves its checkpoints, and the nodes of one training find each other."""
    folder: Path
    """Local folder of this attempt, for temporary files and logs; it stays when the stage fails."""


@dataclass(frozen=True)
class Input:
    """One input of a stage: its kind, and whether it is a list."""

    kind: type[Artifact]
    many: bool
    added: bool = False
    """Whether it was added after artifacts existed (`Annotated[list[…], AbsentMeans(())]`): if it is empty, it is left
    out of the key."""

    def __str__(self) -> str:
        return f"list[{self.kind.__name__}]" if self.many else self.kind.__name__


@dataclass(frozen=True, eq=False)
class Stage(Generic[C, A_co]):
    """A named, versioned step of a graph, which takes a config `C` and produces an artifact `A_co`."""

    name: str
    version: int
    kind: type[A_co]
    resource: Literal["cpu", "gpu"]
    summary: str
    config_type: type[C]
    inputs: Mapping[str, Input]
    function: Callable[..., Metrics]

    def __call__(self, config: C, *, item: str = "", **inputs: Given | Sequence[Given]) -> Node[A_co]:
        """A node of a graph. `item` distinguishes several nodes of one stage: `shard_00012`.

        Raises `WrongKind` for a config or input that the stage does not take.
        """
        self.check(config, inputs)
        frozen = {name: given if isinstance(given, Node | Artifact) else tuple(given) for name, given in inputs.items()}
        return Node(self, config, f"{self.name} {item}" if item else self.name, frozen)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the name: a worker on another machine has the same code."""
        return _stage_named, (self.function.__module__, self.name)

    def key(self, config: Config, inputs: Inputs) -> str:
        """Hash of name, version, canonical config and the digests of the inputs."""
        self.check(config, inputs)
        digests = {
            name: [artifact.digest for artifact in as_list(given)]
            for name, given in inputs.items()
            if as_list(given) or not self.inputs[name].added
        }
        return compute_key(self.name, self.version, config.canonical(), digests)

    def find(self, config: Config, inputs: Inputs, store: Store) -> A_co | None:
        """The artifact, if the store has it."""
        manifest = store.find(self.name, self.key(config, inputs))
        return typing.cast("A_co", store.artifact(manifest, reused=True)) if manifest else None

    def check(self, config: Config, inputs: Mapping[str, Given | Sequence[Given]]) -> None:
        """Raises `WrongKind` for a config, or for nodes or artifacts, that the stage does not take."""
        if not isinstance(config, self.config_type):
            raise WrongKind(f"`{self.name}` takes a {self.config_type.__name__}, got a {type(config).__name__}.")
        if inputs.keys() != self.inputs.keys():
            raise WrongKind(f"`{self.name}` takes the inputs {sorted(self.inputs)}, got {sorted(inputs)}.")
        for name, taken in self.inputs.items():
            given = inputs[name]
            for each in as_list(given):
                kind = each.stage.kind if isinstance(each, Node) else type(each)
                if not issubclass(kind, taken.kind) or isinstance(given, Node | Artifact) == taken.many:
                    raise WrongKind(f"`{self.name}` takes `{name}: {taken}`, got {kind.__name__}.")


@dataclass(frozen=True, eq=False)
class Node(Generic[A_co]):
    """One call of a stage in a graph, which will produce an artifact `A_co`. Two nodes are equal only if identical."""

    stage: Stage[Any, A_co]
    config: Config
    label: str
    """`tokenize shard_00012`: unique in a graph."""
    inputs: Mapping[str, Given | Sequence[Given]]

    @property
    def parents(self) -> list[Node[Any]]:
        """The nodes among the inputs."""
        return [each for given in self.inputs.values() for each in as_list(given) if isinstance(each, Node)]


Given = Node[Any] | Artifact
"""One input of a node."""

T = TypeVar("T", Artifact, Given)


def as_list(given: T | Sequence[T]) -> Sequence[T]:
    return [given] if isinstance(given, Node | Artifact) else given


def stage(
    *, version: int, produces: type[A], resource: Literal["cpu", "gpu"]
) -> Callable[[Callable[Concatenate[C, ...], Metrics]], Stage[C, A]]:
    """Turns a function into a `Stage`; the docstring of the module shows its signature."""

    def declare(function: Callable[Concatenate[C, ...], Metrics]) -> Stage[C, A]:
        hints = get_type_hints(function, include_extras=True)
        parameters = list(inspect.signature(function).parameters)
        names = [name for name in parameters[1:] if name not in ("out", "context")]
        return Stage(
            name=function.__name__,
            version=version,
            kind=produces,
            resource=resource,
            summary=(inspect.getdoc(function) or "").split("\n")[0],
            config_type=hints[parameters[0]],
            inputs={name: _input(function.__name__, name, hints[name]) for name in names},
            function=function,
        )

    return declare


def _stage_named(module: str, name: str) -> Stage[Any, Any]:
    return getattr(importlib.import_module(module), name)


def _input(stage_name: str, name: str, annotation: Any) -> Input:
    added = typing.get_origin(annotation) is Annotated
    if added:
        annotation, *marks = typing.get_args(annotation)
        assert all(isinstance(mark, AbsentMeans) and mark.value == () for mark in marks), name
    many = typing.get_origin(annotation) is list
    kind = typing.get_args(annotation)[0] if many else annotation
    if not (isinstance(kind, type) and issubclass(kind, Artifact)):
        raise TypeError(f"`{stage_name}`: the input `{name}` must be annotated with a kind of artifact")
    return Input(kind, many, added)
