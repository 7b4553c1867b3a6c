"""Runs a graph as Prefect tasks: which nodes share a task, and on which task runner it runs.

Groups of shards run on the runner that `Compute.data_workers.task_runner` names; other nodes run on threads of this
process, beside the flow. Of a group with many nodes, each task has several: a thousand tasks that only find cached
artifacts would take minutes, and a thousand pages would not be read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Any

from prefect.client.schemas.objects import State
from prefect.exceptions import UnfinishedRun
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.control import CONTROL
from flows.task_data import Call, CallInput, CallResult, TaskCalls, TaskResults, Upstream
from flows.tasks import stage_task
from nanochat.config.compute import Compute
from nanochat.errors import NanochatError, StageFailed, Stopped
from nanochat.events import Reporter
from nanochat.execution.graph import AnyNode, Failures, Group, groups, nodes
from nanochat.execution.local import emit_finished
from nanochat.execution.stage import Given, Stage
from nanochat.store.artifacts import Artifact
from nanochat.store.store import Store

MAX_SINGLE = 64
"""A group with at most this many nodes has one task per node, unless `Compute.data_workers.shards_per_task` is set."""
MAX_TASKS = 32
"""Number of tasks of a larger group."""
POLL_EVERY_S = 0.5


@dataclass(frozen=True, eq=False)
class Submitted:
    """A submitted task."""

    nodes: Sequence[AnyNode]
    calls: TaskCalls
    future: PrefectFuture[TaskResults]
    reporters: Mapping[str, Reporter]
    """Label → reporter, for tasks in other processes: their events do not reach the sinks of this one."""
    done: Event = field(default_factory=Event)

    def __post_init__(self) -> None:
        # a future of Dask may break when a time limit for its result passes
        self.future.add_done_callback(lambda _: self.done.set())

    @property
    def stage(self) -> Stage[Any, Any]:
        return self.nodes[0].stage

    def ended(self, timeout_s: float) -> bool:
        """Whether the task ends within this time; raises `StageFailed` when its worker is gone."""
        if not self.done.wait(timeout_s):
            return False
        try:
            self.future.result(raise_on_failure=False)
        except UnfinishedRun:  # it never started, because a task before it failed
            return True
        except Exception as error:
            raise StageFailed(f"`{self.calls.label}` was lost ({error!r}).", hint="Start the run again.") from error
        return True

    def error(self) -> NanochatError:
        """The error with which the task ended; raises `Stopped`."""
        try:
            expect_success(self.calls.label, self.future.state)
        except Stopped:
            raise
        except NanochatError as error:
            return error
        raise AssertionError(f"{self.calls.label} did not fail")

    def results(self) -> Sequence[CallResult]:
        """One result per node; raises the error with which the task ended."""
        expect_success(self.calls.label, self.future.state)
        return self.future.result().results


@dataclass(frozen=True)
class Executor:
    """Submits the tasks of one graph, in the order of its levels."""

    store: Store
    compute: Compute
    local: ThreadPoolTaskRunner
    """For nodes that run beside the flow."""
    for_shards: TaskRunner[Any]
    in_pool: ThreadPoolTaskRunner
    """For nodes that wait for the pool `gpu_pool`: as many of them as the pool has work for."""
    gpu_pool: str = ""
    """Work pool for stages that train or evaluate; empty: this process."""
    tasks: list[Submitted] = field(default_factory=list)
    origin: dict[AnyNode, tuple[Submitted, int]] = field(default_factory=dict)
    """Node → its task, and its index in the task."""

    def run(self, graph: object, failures: Failures | None = None) -> dict[AnyNode, CallResult]:
        """Runs every node of a graph; raises the error of the first task that failed, or `Stopped`.

        With `failures`, the errors are put there, and the results are those of the nodes that have one.
        """
        for group in groups(graph):
            self._submit_group(group, skip=failures is not None)
        self._wait()
        found: dict[AnyNode, CallResult] = {}
        for task in self.tasks:
            if failures is None or task.future.state.is_completed():
                found.update(zip(task.nodes, task.results(), strict=True))
            elif task.future.state.is_final():
                failures.update(dict.fromkeys(task.nodes, task.error()))
        if failures is not None:
            for node in nodes(graph):
                if node not in found and node not in failures:
                    failures[node] = StageFailed(f"`{node.label}` did not start, because a task before it failed.")
        return found

    def _submit_group(self, group: Group, *, skip: bool) -> None:
        """Submits the nodes of a group; with `skip`, without those that cannot start because another one failed."""
        remote = group.is_parallel and self.for_shards is not self.local
        able = [node for node in group.nodes if self._can_start(node, remote=remote)] if skip else group.nodes
        if not able:
            return
        if not group.is_parallel:
            in_pool = group.stage.resource == "gpu" and self.gpu_pool
            for node in able:
                self._submit([node], self.in_pool if in_pool else self.local, self.compute)
            return
        count = len(able)
        size = self.compute.data_workers.shards_per_task or (-(-count // MAX_TASKS) if count > MAX_SINGLE else 1)
        parts = self._parts(able, size)
        # another process has a core of its own; tasks in this process share the cores
        compute = self.compute.with_workers(1) if remote else self.compute.shared(len(parts))
        for part in parts:
            self._submit(part, self.for_shards, compute)

    def _can_start(self, node: AnyNode, *, remote: bool) -> bool:
        """Whether the inputs of a node were submitted, and of a `remote` one also made, in a run that skips failures.

        In this process, Prefect waits for the inputs of a task, and does not start it if one has failed. Task runners
        with other processes differ in what they make of a failed input, so they get no such task.
        """
        if any(parent not in self.origin for parent in node.parents):
            return False
        if not remote:
            return True
        before = {self.origin[parent][0] for parent in node.parents}
        for task in before:
            while not task.ended(POLL_EVERY_S):
                pass
        return all(task.future.state.is_completed() for task in before)

    def _parts(self, given: Sequence[AnyNode], size: int) -> list[Sequence[AnyNode]]:
        """The nodes of each task: up to `size`, whose newest inputs come from one task.

        The runs of an experiment may have a vocabulary each: one that fails then ends no task of the others.
        """
        place = {task: position for position, task in enumerate(self.tasks)}
        by_task: dict[int, list[AnyNode]] = {}
        for node in given:
            newest = max((place[self.origin[parent][0]] for parent in node.parents), default=-1)
            by_task.setdefault(newest if size > 1 else -1, []).append(node)
        return [some[start : start + size] for some in by_task.values() for start in range(0, len(some), size)]

    def _submit(self, nodes: Sequence[AnyNode], runner: TaskRunner[Any], compute: Compute) -> None:
        upstream: dict[Submitted, int] = {}

        def call_input(given: Given) -> CallInput:
            if isinstance(given, Artifact):
                return given.manifest
            task, result = self.origin[given]
            return Upstream(upstream.setdefault(task, len(upstream)), result)

        def call(node: AnyNode) -> Call:
            inputs = {
                name: [call_input(each) for each in given] if isinstance(given, Sequence) else call_input(given)
                for name, given in node.inputs.items()
            }
            return Call(node.config, node.label, inputs)

        stage, calls = nodes[0].stage, TaskCalls([call(node) for node in nodes])
        remote = runner not in (self.local, self.in_pool)
        parameters = dict(
            stage=stage,
            calls=calls,
            upstream=[self._as_parameter(task, remote) for task in upstream],
            store=self.store.objects.root,
            compute=compute,
            gpu_pool=self.gpu_pool,
        )
        reporters = {node.label: CONTROL.get().reporter(node.label, stage.name) for node in nodes}
        for reporter in reporters.values():
            reporter.emit("queued")
            if remote:
                reporter.emit("started")
        future = runner.submit(stage_task(stage, calls.label), parameters, wait_for=self._before(stage))
        task = Submitted(nodes, calls, future, reporters if remote else {})
        self.tasks.append(task)
        self.origin.update({node: (task, position) for position, node in enumerate(nodes)})

    def _before(self, stage: Stage[Any, Any]) -> list[PrefectFuture[TaskResults]]:
        """Tasks that must end first without being an input.

        With several nodes, stages that train or evaluate run one after the other: otherwise two of them could hold half
        of the nodes each, and wait forever.
        """
        if self.compute.parallelism.nodes == 1 or stage.resource != "gpu":
            return []
        return [task.future for task in self.tasks if task.stage.resource == "gpu"][-1:]

    def _wait(self) -> None:
        """Waits for all tasks. Reports the nodes of tasks in other processes when these tasks end.

        Raises `Stopped` when a stop of the run is requested meanwhile.
        """
        remote = [task for task in self.tasks if task.reporters]
        while remote:
            remote[0].ended(POLL_EVERY_S)
            for task in [task for task in remote if task.ended(0)]:
                remote.remove(task)
                self._report(task)
            for task in remote:
                for reporter in task.reporters.values():
                    reporter.log("")  # raises if a stop was requested
        for task in self.tasks:
            task.future.wait()

    def _as_parameter(self, task: Submitted, remote: bool) -> PrefectFuture[TaskResults] | TaskResults:
        """An upstream task as a parameter: its future, or its results where a future cannot be sent."""
        if not remote or task.reporters:
            return task.future
        task.future.wait()
        if not task.future.state.is_completed():
            for each in self.tasks:  # raise the error of the first that failed, not that this one never started
                if each.ended(0):
                    expect_success(each.calls.label, each.future.state)
        return TaskResults(task.results())

    def _report(self, task: Submitted) -> None:
        """Emits the events of a task in another process, and notes its artifacts in the run record."""
        state = task.future.state
        if not state.is_completed():  # failed, or never started because a task before it failed
            error = state.result(raise_on_failure=False) if state.is_failed() else None
            if isinstance(error, NanochatError):
                CONTROL.get().reporter(task.calls.label, task.stage.name).emit("failed", error=str(error))
            return
        for node, result in zip(task.nodes, task.results(), strict=True):
            self.store.requested.add(result.manifest.name)
            emit_finished(task.reporters[node.label], self.store.artifact(result.manifest, reused=result.reused))


def expect_success(label: str, state: State[Any]) -> None:
    """Raises the error with which a task ended."""
    if state.is_cancelled():
        raise Stopped(state.message or "Cancelled.")
    if state.is_failed() or state.is_crashed():
        error = state.result(raise_on_failure=False)
        if isinstance(error, NanochatError):
            raise error
        raise StageFailed(
            f"`{label}` failed: {error!r}.", hint="This is a bug in nanochat; the log of the task has the traceback."
        )
