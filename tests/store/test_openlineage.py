"""OpenLineage events: one for each artifact, in an order in which they can be sent, and always the same."""

from __future__ import annotations

import uuid

from nanochat.lineage.openlineage import events
from nanochat.store.artifacts import Artifact
from nanochat.store.manifest import Manifest
from nanochat.store.store import Store


def test_one_event_each_and_inputs_come_before_what_is_made_of_them(
    store: Store, made: tuple[list[Artifact], Manifest]
) -> None:
    raw, top = made
    found = events(store, top)
    assert len(found) == 2 * len(raw) + 2
    reported: set[tuple[str, str]] = set()
    for event in found:
        for each in event["inputs"]:
            assert (each["name"], each["facets"]["version"]["datasetVersion"]) in reported
        (output,) = event["outputs"]
        reported.add((output["name"], output["facets"]["version"]["datasetVersion"]))
    assert found[-1]["outputs"][0]["name"] == top.folder
    assert found[-1]["job"]["name"] == "pretrain"
    assert {each["namespace"] for event in found for each in event["inputs"]} == {store.objects.root}


def test_an_artifact_is_always_the_same_run(store: Store, made: tuple[list[Artifact], Manifest]) -> None:
    raw, top = made
    runs = [uuid.UUID(event["run"]["runId"]) for event in events(store, top)]
    assert len(set(runs)) == len(runs)
    assert events(store, top) == events(store, top)
    down = events(store, raw[0].manifest, down=True)
    assert down[0]["job"]["name"] == "download"
    assert {uuid.UUID(event["run"]["runId"]) for event in down} < set(runs)


def test_the_fields_are_those_of_the_spec(store: Store, made: tuple[list[Artifact], Manifest]) -> None:
    commit = made[1].producer.model_copy(update={"git_commit": "facade" * 6, "git_dirty": True})
    event = events(store, made[1].model_copy(update={"producer": commit}))[-1]
    assert event.keys() == {
        "eventType", "eventTime", "run", "job", "inputs", "outputs", "producer", "schemaURL",
    }  # fmt: skip
    assert event["eventType"] == "COMPLETE"
    assert event["eventTime"] == commit.ended.isoformat()
    assert event["schemaURL"].startswith("https://openlineage.io/spec/2-0-2/")
    code = event["job"]["facets"]["sourceCodeLocation"]
    assert (code["type"], code["url"]) == ("git", f"swh:1:rev:{'facade' * 6}")
    assert code["version"].endswith("-dirty")
    unknown = commit.model_copy(update={"git_commit": ""})
    assert events(store, made[1].model_copy(update={"producer": unknown}))[-1]["job"]["facets"] == {}
