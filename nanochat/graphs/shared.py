"""Graphs that have nodes in common: equal calls of a stage become one node, which runs once."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, cast

from nanochat.config.base import canonical_json
from nanochat.execution.graph import AnyNode, nodes
from nanochat.execution.stage import Given, Node, as_list

G = TypeVar("G")


def share(graphs: Mapping[str, G]) -> list[G]:
    """The graphs, in their order, with one node for equal calls of a stage.

    A node of all graphs keeps its label; the label of another one gets the name of the first graph that has it.
    """
    calls: dict[AnyNode, str] = {}
    users: dict[str, dict[str, None]] = {}
    for name, graph in graphs.items():
        for node in nodes(graph):  # inputs come first
            calls[node] = _call(node, calls)
            users.setdefault(calls[node], {})[name] = None
    shared: dict[AnyNode, AnyNode] = {}
    made: dict[str, AnyNode] = {}
    for node, call in calls.items():
        if call not in made:
            label = node.label if len(users[call]) == len(graphs) else f"{node.label} {next(iter(users[call]))}"
            made[call] = replace(
                node, label=label, inputs={name: _of(given, shared) for name, given in node.inputs.items()}
            )
        shared[node] = made[call]
    return [cast("G", _of(graph, shared)) for graph in graphs.values()]


def _call(node: AnyNode, calls: Mapping[AnyNode, str]) -> str:
    """A hash of all that makes two nodes equal: stage, config and inputs."""

    def identity(given: Given) -> str:
        return calls[given] if isinstance(given, Node) else f"{given.stage}/{given.key}"

    inputs = {name: [identity(each) for each in as_list(given)] for name, given in node.inputs.items()}
    parts = [node.stage.name, node.stage.version, node.config.canonical(), inputs]
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def _of(part: Any, shared: Mapping[AnyNode, AnyNode]) -> Any:
    """A part of a graph, or inputs of a node, with the shared nodes in place of its own."""
    if isinstance(part, Node):
        return shared[cast("AnyNode", part)]
    if isinstance(part, list | tuple):
        items = [_of(each, shared) for each in cast("Sequence[object]", part)]
        return items if isinstance(part, list) else tuple(items)
    if is_dataclass(part) and not isinstance(part, type):
        return replace(part, **{each.name: _of(getattr(part, each.name), shared) for each in fields(part)})
    return part
