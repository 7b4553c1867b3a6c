"""What a run of a graph would do. Reads the store and changes nothing."""

from dataclasses import dataclass

from nanochat.execution.graph import AnyNode, Results, nodes
from nanochat.execution.stage import Inputs
from nanochat.lineage.differences import StageCall, why_not_reused
from nanochat.store.artifacts import Artifact, references
from nanochat.store.store import Store


@dataclass(frozen=True)
class Planned:
    """What would happen to one node."""

    node: AnyNode
    artifact: Artifact | None
    """The artifact in the store; None if the stage would run."""
    why: str
    """Why the stage would run; empty if it would not."""


def plan(graph: object, store: Store) -> list[Planned]:
    """One entry per node, in the order in which they would run."""
    found = Results()
    return [_plan(node, store, found) for node in nodes(graph)]


def _plan(node: AnyNode, store: Store, found: Results) -> Planned:
    missing = sorted({parent.stage.name for parent in node.parents if parent not in found})
    if missing:
        return Planned(node, None, f"its input comes from {', '.join(missing)}, which would run")
    inputs = found.inputs_of(node)
    artifact = node.stage.find(node.config, inputs, store)
    if artifact is None:
        return Planned(node, None, _why(node, inputs, store))
    found[node] = artifact
    return Planned(node, artifact, "")


def _why(node: AnyNode, inputs: Inputs, store: Store) -> str:
    given = {name: references(each) for name, each in inputs.items()}
    return why_not_reused(store, StageCall(node.stage.name, node.stage.version, node.config.canonical(), given))
