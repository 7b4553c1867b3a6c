"""What differs between two artifacts of one stage, and where the difference began.

A key is a hash of a stage's version, its config and the digests of its inputs. Where an input differs, its ancestors
are compared, up to the config or version that differs: there the difference began.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

from nanochat.console import is_number
from nanochat.store.artifacts import ArtifactStore
from nanochat.store.manifest import InputRef, Manifest
from nanochat.store.store import Store

MAX_PER_ANCESTOR = 12
"""Config differences reported of one ancestor. Of an input of many shards, only the first that differs is followed."""

What = Literal["config", "version", "input", "code", "packages", "hardware", "metric"]


@dataclass(frozen=True)
class Difference:
    """One thing that differs."""

    where: str
    """The stage; for an ancestor also the path to it: `sft ← base: pretrain`."""
    what: What
    name: str
    before: Any
    after: Any

    def __str__(self) -> str:
        if self.what == "input":
            return f"{self.where}: {self.name}"
        change = f"{_short(self.before)} → {_short(self.after)}"
        numbers = self.what == "metric" and is_number(self.before) and is_number(self.after) and self.before
        share = f" ({(self.after - self.before) / abs(self.before):+.1%})" if numbers else ""
        return f"{self.where}: {self.name} {change}{share}"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class StageCall:
    """A call of a stage that may never have run."""

    stage: str
    stage_version: int
    config: dict[str, Any]
    inputs: Mapping[str, Sequence[InputRef]]


KeyParts = Manifest | StageCall
"""Has the parts of a key."""


def key_differences(store: ArtifactStore, before: KeyParts, after: KeyParts) -> list[Difference]:
    """What makes the keys differ, nearest first; empty if they are equal."""
    return list(_key_differences(store, before, after, after.stage, set()))


def other_differences(before: Manifest, after: Manifest) -> list[Difference]:
    """What differs and is not part of the key: code, machine, packages, metrics, and the digest of equal keys."""
    stage, old, new = after.stage, before.producer, after.producer
    found: list[Difference] = []
    fields: dict[What, tuple[str, ...]] = {
        "code": ("code_version", "code_sha256", "git_commit", "git_dirty"),
        "hardware": ("host", "hardware"),
        "packages": ("packages",),
    }
    for what, names in fields.items():
        for name in names:
            found += [Difference(stage, what, *each) for each in changes(getattr(old, name), getattr(new, name), name)]
    found += [Difference(stage, "metric", *each) for each in changes(before.metrics, after.metrics)]
    if before.digest != after.digest and before.key == after.key:
        found.append(Difference(stage, "input", "same key, different bytes", "", ""))
    return found


def changes(before: Any, after: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """`(name, before, after)` of what differs in two values; nested names have dots."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        old, new = cast("Mapping[str, Any]", before), cast("Mapping[str, Any]", after)
        for name in sorted(old.keys() | new.keys()):
            yield from changes(old.get(name), new.get(name), f"{prefix}.{name}" if prefix else name)
    elif before != after:
        yield prefix, before, after


def digests(parts: KeyParts, name: str) -> list[str]:
    """The digests of one input."""
    return [reference.digest for reference in parts.inputs.get(name, [])]


def _key_differences(
    store: ArtifactStore, before: KeyParts, after: KeyParts, where: str, seen: set[tuple[str, str]]
) -> Iterator[Difference]:
    if before.stage_version != after.stage_version:
        yield Difference(where, "version", "version of the stage", before.stage_version, after.stage_version)
    for change in list(changes(before.config, after.config))[:MAX_PER_ANCESTOR]:
        yield Difference(where, "config", *change)
    for name in sorted(set(before.inputs) | set(after.inputs)):
        old, new = before.inputs.get(name, []), after.inputs.get(name, [])
        if digests(before, name) == digests(after, name):
            continue
        if len(old) != len(new):
            yield Difference(where, "input", f"{len(old)} artifacts as `{name}`, now {len(new)}", len(old), len(new))
        pair = next(((a, b) for a, b in zip(old, new, strict=False) if a.digest != b.digest), None)
        if pair:
            stage = pair[1].stage
            path = f"{where} ← {name}: {stage}" if name != stage else f"{where} ← {name}"
            yield from _input_differences(store, *pair, path, seen)


def _input_differences(
    store: ArtifactStore, old: InputRef, new: InputRef, where: str, seen: set[tuple[str, str]]
) -> Iterator[Difference]:
    """Where the difference of two inputs began. Each pair is followed once, however many paths lead to it."""
    if (old.key, new.key) in seen:
        return
    seen.add((old.key, new.key))
    before, after = store.read(old.stage, old.key), store.read(new.stage, new.key)
    if before is None or after is None:
        gone = old if before is None else new
        yield Difference(where, "input", f"{gone.stage} {gone.key[:8]} has left the store", old.digest, new.digest)
    elif old.stage != new.stage:
        yield Difference(where, "input", f"made by {new.stage}, before by {old.stage}", old.digest, new.digest)
    elif old.key == new.key:
        yield Difference(where, "input", "same key, different bytes", old.digest, new.digest)
    else:
        yield from _key_differences(store, before, after, where, seen)


def _short(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


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
