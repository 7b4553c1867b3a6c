"""Graphs as data: a graph is a dataclass of nodes, of lists of nodes, and of other graphs. Executors share this module.

A group contains the nodes of one stage on one level. Nodes on level 0 have no input from the graph; each other node is
one level above the highest of its inputs. An executor runs the groups in order, or each one when its inputs exist.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, cast

from nanochat.errors import NanochatError
from nanochat.execution.stage import A, Given, Inputs, Node, Stage
from nanochat.store.artifacts import Artifact

AnyNode = Node[Any]
Failures = dict[AnyNode, NanochatError]
"""The error of each node that failed, in a run that goes on without what depends on them."""


@dataclass(frozen=True)
class Group:
    """Nodes of one stage that do not depend on each other: shards, or the runs of an experiment."""

    nodes: Sequence[AnyNode]

    @property
    def stage(self) -> Stage[Any, Any]:
        return self.nodes[0].stage

    @property
    def is_parallel(self) -> bool:
        """Whether its nodes run at the same time; stages that train or evaluate run one at a time on a machine."""
        return len(self.nodes) > 1 and self.stage.resource == "cpu"


class Results:
    """The artifact of each node that has run."""

    def __init__(self) -> None:
        self._artifacts: dict[AnyNode, Artifact] = {}

    def __getitem__(self, node: Node[A]) -> A:
        artifact = self._artifacts[node]
        assert isinstance(artifact, node.stage.kind)
        return artifact

    def __setitem__(self, node: Node[A], artifact: A) -> None:
        self._artifacts[node] = artifact

    def __contains__(self, node: AnyNode) -> bool:
        return node in self._artifacts

    def inputs_of(self, node: AnyNode) -> Inputs:
        """The inputs of a node, with artifacts in place of nodes."""

        def artifact(given: Given) -> Artifact:
            return self[given] if isinstance(given, Node) else given

        return {
            name: artifact(given) if isinstance(given, Node | Artifact) else [artifact(each) for each in given]
            for name, given in node.inputs.items()
        }


def groups(graph: object) -> list[Group]:
    """The groups of a graph, lowest level first, and within a level in the order of the graph's fields."""
    levels: dict[AnyNode, int] = {}
    for root in _nodes(graph):
        _set_level(root, levels)
    labels = [node.label for node in levels]
    assert len(set(labels)) == len(labels), f"labels are not unique: {labels}"
    found: dict[tuple[int, int], list[AnyNode]] = {}
    for node, level in levels.items():
        found.setdefault((level, id(node.stage)), []).append(node)
    return [Group(nodes) for _, nodes in sorted(found.items(), key=lambda entry: entry[0][0])]


def nodes(graph: object) -> list[AnyNode]:
    """All nodes of a graph, each after its inputs."""
    return [node for group in groups(graph) for node in group.nodes]


def _set_level(node: AnyNode, levels: dict[AnyNode, int]) -> int:
    if node not in levels:
        levels[node] = max((_set_level(parent, levels) + 1 for parent in node.parents), default=0)
    return levels[node]


def _nodes(graph: object) -> Iterator[AnyNode]:
    if isinstance(graph, Node):
        yield graph
    elif is_dataclass(graph):
        for field in fields(graph):
            yield from _nodes(getattr(graph, field.name))
    elif isinstance(graph, Sequence):
        for each in cast("Sequence[object]", graph):
            yield from _nodes(each)
    elif isinstance(graph, Mapping):
        raise TypeError("a graph is made of dataclasses and lists")
