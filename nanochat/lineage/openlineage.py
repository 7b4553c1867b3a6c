"""Lineage as OpenLineage run events, for catalogues of many systems (Marquez, DataHub …).

A stage is a job, the computation of an artifact a run, an artifact a dataset, its digest the dataset's version. Every
artifact in the store is complete, so each run has a single event: COMPLETE.
"""

import uuid
from typing import Any

from nanochat.lineage.ancestry import family, oldest_first
from nanochat.store.manifest import InputRef, Manifest, artifact_folder
from nanochat.store.store import Store

SPEC = "https://openlineage.io/spec"
RUNS = uuid.uuid5(uuid.NAMESPACE_URL, "urn:nanochat:runs")


def events(store: Store, manifest: Manifest, *, down: bool = False) -> list[dict[str, Any]]:
    """One event for the artifact and for each ancestor, or with `down` each descendant; oldest first.

    An artifact always gives the same event, so that it can be sent twice.
    """
    return [_event(store.objects.root, each) for each in oldest_first(family(store, manifest, down=down))]


def _event(root: str, manifest: Manifest) -> dict[str, Any]:
    producer = _producer(manifest)
    inputs = {ref.name: ref for ref in manifest.parents}  # each once, even if it is several inputs
    return {
        "eventType": "COMPLETE",
        "eventTime": manifest.producer.ended.isoformat(),
        "run": {"runId": str(uuid.uuid5(RUNS, "/".join(manifest.name)))},
        "job": {"namespace": "nanochat", "name": manifest.stage, "facets": _code(manifest)},
        "inputs": [_dataset(root, producer, ref) for ref in inputs.values()],
        "outputs": [_dataset(root, producer, manifest)],
        "producer": producer,
        "schemaURL": f"{SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent",
    }


def _producer(manifest: Manifest) -> str:
    return f"pkg:generic/nanochat@{manifest.producer.code_version}"


def _dataset(root: str, producer: str, artifact: Manifest | InputRef) -> dict[str, Any]:
    version = {"datasetVersion": artifact.digest}
    return {
        "namespace": root,
        "name": artifact_folder(*artifact.name),
        "facets": {"version": _facet(producer, "DatasetVersionDatasetFacet", version)},
    }


def _code(manifest: Manifest) -> dict[str, Any]:
    """The commit that made it, as a SWHID: that names a commit without the address of a repository."""
    made = manifest.producer
    if not made.git_commit:
        return {}
    place = {
        "type": "git",
        "url": f"swh:1:rev:{made.git_commit}",
        "version": f"{made.git_commit}{'-dirty' if made.git_dirty else ''}",
    }
    return {"sourceCodeLocation": _facet(_producer(manifest), "SourceCodeLocationJobFacet", place)}


def _facet(producer: str, kind: str, fields: dict[str, Any]) -> dict[str, Any]:
    return {"_producer": producer, "_schemaURL": f"{SPEC}/facets/1-0-1/{kind}.json#/$defs/{kind}", **fields}
