"""What sets two artifacts of one stage apart, down to where it began; and so why one was made and not reused.

A key is made of a stage's version, its config and the digests of its inputs. Where an input differs, the ancestors are
followed up until a config or a version differs: that is where the difference began.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from nanochat.store.manifest import InputRef, Manifest
from nanochat.store.store import Store

MOST = 12
"""Differences that are told of one ancestor; of an input of many shards, only the first that differ are followed."""


@dataclass(frozen=True)
class Difference:
    """One thing that differs."""

    where: str
    """The stage, and of an ancestor the way to it: `sft ← base: pretrain`."""
    what: str
    """`config`, `version`, `input`, `code`, `packages`, `hardware`, `metric`."""
    name: str
    before: Any
    after: Any

    def __str__(self) -> str:
        if self.what == "input":
            return f"{self.where}: {self.name}"
        change = f"{_short(self.before)} → {_short(self.after)}"
        numbers = _is_number(self.before) and _is_number(self.after) and self.what == "metric" and self.before
        share = f" ({(self.after - self.before) / abs(self.before):+.1%})" if numbers else ""
        return f"{self.where}: {self.name} {change}{share}"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Asked(Protocol):
    """What a key is made of: a manifest has it, and so has a call that is only planned."""

    @property
    def stage(self) -> str: ...
    @property
    def stage_version(self) -> int: ...
    @property
    def config(self) -> dict[str, Any]: ...
    @property
    def inputs(self) -> Mapping[str, Sequence[InputRef]]: ...


@dataclass(frozen=True)
class Call:
    """A call of a stage that may never have been made."""

    stage: str
    stage_version: int
    config: dict[str, Any]
    inputs: Mapping[str, Sequence[InputRef]]


def in_key(store: Store, before: Asked, after: Asked) -> list[Difference]:
    """What makes the keys differ, nearest first; empty: they ask for the same."""
    return list(_in_key(store, before, after, after.stage, set()))


def beside_key(before: Manifest, after: Manifest) -> list[Difference]:
    """What differs without being asked for: who made it, and what came out."""
    stage, old, new = after.stage, before.producer, after.producer
    found = []
    for what, names in {
        "code": ("code_version", "code_sha256", "git_commit", "git_dirty"),
        "hardware": ("host", "hardware"),
        "packages": ("packages",),
    }.items():
        for name in names:
            found += [Difference(stage, what, *each) for each in _changes(name, getattr(old, name), getattr(new, name))]
    found += [Difference(stage, "metric", *each) for each in _changes("", before.metrics, after.metrics)]
    if before.digest != after.digest and before.key == after.key:
        found.append(Difference(stage, "input", "the same was asked for, and other bytes came out", "", ""))
    return found


def nearest(store: Store, asked: Asked, *, before: Manifest | None = None) -> Manifest | None:
    """Of the artifacts of its stage, made earlier than `before`, the one that differs in the fewest things."""
    best: tuple[int, float, Manifest] | None = None
    for manifest in store.manifests(asked.stage):
        if before is not None and (manifest.key == before.key or manifest.producer.ended > before.producer.started):
            continue
        count = _distance(manifest, asked)
        age = -manifest.producer.ended.timestamp()
        if best is None or (count, age) < best[:2]:
            best = (count, age, manifest)
    return best[2] if best else None


def _distance(there: Asked, asked: Asked) -> int:
    names = set(there.inputs) | set(asked.inputs)
    inputs = sum(_digests(there, name) != _digests(asked, name) for name in names)
    configs = len(list(_changes("", there.config, asked.config)))
    return inputs + configs + (there.stage_version != asked.stage_version)


def _in_key(store: Store, before: Asked, after: Asked, where: str, seen: set[tuple[str, str]]) -> Iterator[Difference]:
    if before.stage_version != after.stage_version:
        yield Difference(where, "version", "version of the stage", before.stage_version, after.stage_version)
    for change in list(_changes("", before.config, after.config))[:MOST]:
        yield Difference(where, "config", *change)
    for name in sorted(set(before.inputs) | set(after.inputs)):
        old, new = before.inputs.get(name, []), after.inputs.get(name, [])
        if _digests(before, name) == _digests(after, name):
            continue
        if len(old) != len(new):
            yield Difference(where, "input", f"{len(old)} artifacts as `{name}`, now {len(new)}", len(old), len(new))
        pairs = [(a, b) for a, b in zip(old, new, strict=False) if a.digest != b.digest]
        for a, b in pairs[:1]:
            yield from _below(
                store, a, b, f"{where} ← {name}: {b.stage}" if name != b.stage else f"{where} ← {name}", seen
            )


def _below(store: Store, old: InputRef, new: InputRef, where: str, seen: set[tuple[str, str]]) -> Iterator[Difference]:
    """Where the difference of two inputs began. Each pair is followed once, however many ways lead to it."""
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
        yield Difference(where, "input", "the same was asked for, and other bytes came out", old.digest, new.digest)
    else:
        yield from _in_key(store, before, after, where, seen)


def _digests(asked: Asked, name: str) -> list[str]:
    return [reference.digest for reference in asked.inputs.get(name, [])]


def _changes(prefix: str, before: Any, after: Any) -> Iterator[tuple[str, Any, Any]]:
    """`(name, before, after)` of what differs in two values, nested names with dots."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in sorted(before.keys() | after.keys()):
            yield from _changes(f"{prefix}.{name}" if prefix else str(name), before.get(name), after.get(name))
    elif before != after:
        yield prefix, before, after


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
