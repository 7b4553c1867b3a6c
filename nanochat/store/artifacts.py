"""Artifacts as stages receive and return them: one class per kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from nanochat.store.manifest import InputRef, Manifest
from nanochat.store.objects import Objects
from nanochat.store.payloads import Payloads


class ArtifactStore(Protocol):
    """The part of `Store` that code with an artifact may use."""

    objects: Objects
    payloads: Payloads

    def read(self, stage: str, key: str) -> Manifest | None: ...
    def find(self, stage: str, key: str) -> Manifest | None: ...
    def artifact(self, manifest: Manifest, *, reused: bool) -> Artifact: ...


class Artifact:
    """A typed reference to the result of a stage; the subclass is its kind. `reused` if the store had it already."""

    def __init__(self, store: ArtifactStore, manifest: Manifest, *, reused: bool) -> None:
        self.store, self.manifest, self.reused = store, manifest, reused
        self.stage, self.kind, self.key, self.digest = manifest.stage, manifest.kind, manifest.key, manifest.digest
        self.metrics = manifest.metrics

    @property
    def path(self) -> Path:
        """Local folder of the payload; each process verifies it once. Raises `DamagedArtifact`."""
        return self.store.payloads.fetch(self.manifest)


class RawShard(Artifact):
    """Validated raw text: `train.parquet` and `validation.parquet`, each only if it has documents; column `text`."""


class Vocabulary(Artifact):
    """A tokenizer."""


class TokenShard(Artifact):
    """The tokens of one raw shard."""


class Rows(Artifact):
    """Packed rows of one token shard."""


class DataCard(Artifact):
    """Statistics and samples of the text of a run."""


class Conversations(Artifact):
    """Conversations as rows with a loss mask, and held-out questions."""


class Problems(Artifact):
    """Problems of reinforcement learning, with their rewards, and held-out ones."""


class Pairs(Artifact):
    """Pairs of answers of which one is preferred, and held-out ones."""


class AnyModel(Artifact):
    """A model that can be evaluated: `Model` or `ForeignModel`."""


class Model(AnyModel):
    """Weights, architecture and vocabulary."""


class ForeignModel(AnyModel):
    """A model of another program: where its files are, and their hashes; no copy of them."""


class Evaluation(Artifact):
    """Scores of a model."""


class CoreBundle(Artifact):
    """The tasks of CORE, as `core.yaml`, `eval_meta_data.csv` and `eval_data/`."""


class Report(Artifact):
    """A report with numbers, plots and lineage."""


class HuggingFaceModel(Artifact):
    """A model as transformers loads it, with its tokenizer, modelling code and model card."""


KINDS = {kind.__name__: kind for kind in (*Artifact.__subclasses__(), *AnyModel.__subclasses__())}
"""Name in a manifest → class: the classes of this module."""


def references(artifacts: Artifact | Sequence[Artifact]) -> list[InputRef]:
    """The entries of a manifest's `inputs` for these artifacts."""
    several = [artifacts] if isinstance(artifacts, Artifact) else artifacts
    return [InputRef(stage=a.stage, kind=a.kind, key=a.key, digest=a.digest) for a in several]
