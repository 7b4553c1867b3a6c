"""Why a stage ran, or would run, and did not reuse an artifact: what of its key changed since the closest artifact."""

from nanochat.lineage.differences import KeyParts, changes, digests, key_differences
from nanochat.store.manifest import Manifest
from nanochat.store.store import Store

MAX_REASONS = 3


def closest_artifact(store: Store, call: KeyParts, *, before: Manifest | None = None) -> Manifest | None:
    """The artifact of the same stage with the fewest differences, the newest of several.

    With `before`: only those that were complete when that artifact's stage started.
    """
    best: tuple[int, float, Manifest] | None = None
    for manifest in store.manifests(call.stage):
        if before is not None and (manifest.key == before.key or manifest.producer.ended > before.producer.started):
            continue
        count = _count_differences(manifest, call)
        age = -manifest.producer.ended.timestamp()
        if best is None or (count, age) < best[:2]:
            best = (count, age, manifest)
    return best[2] if best else None


def why_not_reused(store: Store, call: KeyParts) -> str:
    """Why the store has no artifact for a stage call, in one line."""
    closest = closest_artifact(store, call)
    if closest is None:
        return "never made in this store"
    reasons = [str(each).removeprefix(f"{call.stage}: ") for each in key_differences(store, closest, call)]
    return "; ".join(reasons[:MAX_REASONS]) or "the artifact in the store is damaged"


def _count_differences(manifest: Manifest, call: KeyParts) -> int:
    names = set(manifest.inputs) | set(call.inputs)
    inputs = sum(digests(manifest, name) != digests(call, name) for name in names)
    configs = len(list(changes(manifest.config, call.config)))
    return inputs + configs + (manifest.stage_version != call.stage_version)
