"""Runs one call of a stage: reuses the artifact in the store, or computes and publishes it.

Several runs that need one artifact compute it once: the others wait for the lease of its key. A run that loses its
lease (it was suspended, or cut off from the store) drops its work and waits for the artifact of the run that took over.
"""

import shutil
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Generic

from nanochat.config.base import Config
from nanochat.config.compute import Compute
from nanochat.errors import NanochatError, StageFailed
from nanochat.events import Event, Reporter, silent
from nanochat.execution.energy import GpuEnergy
from nanochat.execution.recorded_warnings import recorded_warnings
from nanochat.execution.stage import A, Context, Inputs, NotFirstNode, Stage
from nanochat.failures import convert_errors
from nanochat.store.lease import HeldLease, LeaseLost, lease
from nanochat.store.producer import describe_producer
from nanochat.store.store import Store

PUBLISHED_WITHIN_S = 600.0
"""Time in which the first node must publish the artifact that all nodes computed."""
POLL_S = 1.0


@dataclass(frozen=True)
class Attempt(Generic[A]):
    """One call of a stage, with the store, the compute settings and the folder that this process uses for it."""

    stage: Stage[Any, A]
    config: Config
    inputs: Inputs
    store: Store
    compute: Compute
    folder_root: Path
    """Local folder that contains the folders of all attempts."""
    progress: Reporter = silent
    run_name: str = ""

    def produce(self) -> A:
        """Reuses the artifact, or computes and publishes it; raises a `NanochatError`.

        Partial results stay in `folder_root` for debugging; they never become an artifact.
        """
        with convert_errors(f"the stage `{self.stage.name}`"):
            if (found := self.find()) is not None:
                return found
            if self.compute.parallelism.node and self.stage.resource == "gpu":
                return self._help_first_node()
            while True:
                with lease(self.store.objects, self.key, on_wait=self._report_wait) as held:
                    if (found := self.find()) is not None:
                        return found
                    with suppress(LeaseLost):
                        return self._compute(held)

    @cached_property
    def key(self) -> str:
        return self.stage.key(self.config, self.inputs)

    @property
    def _checkpoints(self) -> str:
        return f"v1/checkpoints/{self.key}"

    def find(self) -> A | None:
        return self.stage.find(self.config, self.inputs, self.store)

    def _report_wait(self, holder: str) -> None:
        self.progress.log(f"waiting for {holder}, which is making the same artifact")

    def _compute(self, held: HeldLease) -> A:
        started = datetime.now(UTC)

        def check_lease(_: Event) -> None:
            if held.lost:
                raise _lease_lost()

        context, out = self._prepare()
        context = replace(context, progress=self.progress.with_sink(check_lease))
        meter = GpuEnergy() if self.stage.resource == "gpu" else None
        with recorded_warnings() as warnings:
            metrics = self.stage.function(self.config, **self.inputs, out=out, context=context)
        energy_j = meter.joules() if meter else None
        if not held.holds():
            raise _lease_lost()
        manifest = self.store.publish(
            out,
            stage=self.stage.name,
            stage_version=self.stage.version,
            kind=self.stage.kind.__name__,
            key=self.key,
            config=self.config.canonical(),
            inputs=dict(self.inputs),
            metrics=metrics,
            producer=describe_producer(started, run=self.run_name, energy_j=energy_j, warnings=warnings),
        )
        # The artifact is published: if the store fails now, the stage must not. `nanochat gc` deletes checkpoints too.
        with suppress(NanochatError):
            # A run that took over before the artifact was published may train from these checkpoints.
            if held.holds():
                self.store.objects.delete([entry.path for entry in self.store.objects.list(self._checkpoints)])
        shutil.rmtree(context.folder, ignore_errors=True)
        return self.stage.kind(self.store, manifest, reused=False)

    def _help_first_node(self) -> A:
        """Runs the ranks of this node; returns the artifact when the first node has published it."""
        context, out = self._prepare()
        with suppress(NotFirstNode):
            self.stage.function(self.config, **self.inputs, out=out, context=context)
        shutil.rmtree(context.folder, ignore_errors=True)
        deadline = time.monotonic() + PUBLISHED_WITHIN_S
        while (found := self.find()) is None:
            if time.monotonic() > deadline:
                raise StageFailed(f"The first node has not published the artifact of `{self.stage.name}`.")
            self.progress.log("waiting for the first node to publish")
            time.sleep(POLL_S)
        return found

    def _prepare(self) -> tuple[Context, Path]:
        """The context of the stage, and an empty folder for its payload."""
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{self.key[:8]}-{uuid.uuid4().hex[:4]}"
        folder = self.folder_root / self.stage.name / name
        out = folder / "out"
        out.mkdir(parents=True)
        return Context(self.compute, self.progress, f"{self.store.objects.root}/{self._checkpoints}", folder), out


def _lease_lost() -> LeaseLost:
    return LeaseLost("Another run took over this artifact, because this run did not renew its lease.")
