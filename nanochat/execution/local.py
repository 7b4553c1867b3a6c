"""Runs a graph in this process, without Prefect. The nodes of a group run at the same time, on threads."""

from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.config.compute import Compute
from nanochat.errors import NanochatError, Stopped
from nanochat.events import Reporter, Sink, StopRequest
from nanochat.execution.attempt import Attempt
from nanochat.execution.graph import AnyNode, Failures, Group, Results, groups
from nanochat.store.artifacts import Artifact
from nanochat.store.store import Store


def run_local(
    graph: object,
    store: Store,
    compute: Compute,
    folder_root: Path,
    sinks: Sequence[Sink] = (),
    failures: Failures | None = None,
) -> Results:
    """Reuses or computes the artifact of every node, level by level; `sinks` receive the events.

    Raises the error of the first node that failed, after the other nodes of its group have ended. With `failures`, the
    errors are put there, and every node that does not depend on a failed one runs.
    """
    run = _LocalRun(store, compute, folder_root, tuple(sinks), Results(), StopRequest(), failures)
    levels = groups(graph)
    for node in [node for group in levels for node in group.nodes]:
        run.reporter(node).emit("queued")
    for group in levels:
        run.run_group(group)
    return run.results


@dataclass(frozen=True)
class _LocalRun:
    store: Store
    compute: Compute
    folder_root: Path
    sinks: tuple[Sink, ...]
    results: Results
    stop: StopRequest
    """A thread cannot be ended from outside: a node that runs beside one that failed ends at its next event."""
    failures: Failures | None
    """If given, an error is put here and does not end the run."""

    def run_group(self, group: Group) -> None:
        if not group.is_parallel:
            for node in group.nodes:
                self._run(node, self.compute)
            return
        count = len(group.nodes)
        with ThreadPoolExecutor(self.compute.data_workers.at_once(count)) as pool:
            futures = [pool.submit(self._run, node, self.compute.shared(count)) for node in group.nodes]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            except BaseException:
                self.stop.request("Another node of the run failed, or the run was stopped.")
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def reporter(self, node: AnyNode) -> Reporter:
        return Reporter(node.label, node.stage.name, (self.stop, *self.sinks))

    def _run(self, node: AnyNode, compute: Compute) -> None:
        if self.failures is None:
            self._produce(node, compute)
            return
        if any(parent not in self.results for parent in node.parents):
            return
        try:
            self._produce(node, compute)
        except Stopped:
            raise
        except NanochatError as error:
            self.failures[node] = error

    def _produce(self, node: AnyNode, compute: Compute) -> None:
        progress = self.reporter(node)
        progress.emit("started")
        inputs = self.results.inputs_of(node)
        try:
            attempt = Attempt(node.stage, node.config, inputs, self.store, compute, self.folder_root, progress)
            artifact = attempt.produce()
        except NanochatError as error:
            if not self.stop.reason:
                progress.emit("failed", error=str(error))
            raise
        emit_finished(progress, artifact)
        self.results[node] = artifact


def emit_finished(progress: Reporter, artifact: Artifact) -> None:
    seconds = 0.0 if artifact.reused else artifact.manifest.producer.seconds
    fields: dict[str, Any] = {"key": artifact.key, "cached": artifact.reused, "metrics": artifact.metrics}
    progress.emit("finished", seconds=seconds, **fields)
