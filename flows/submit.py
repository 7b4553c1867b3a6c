"""The graph as Prefect tasks: which calls go together into one, and on which task runner.

Stages that are mapped over shards go to the runner of `Compute.data_workers`; all others to threads of this process,
beside the flow. A task has one call, or several when there are more shards than a stage should have tasks:
a thousand tasks that only find what is there would take minutes, and nobody reads their pages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from threading import Event
from typing import Any

from prefect.client.schemas.objects import State
from prefect.exceptions import UnfinishedRun
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.calls import Batch, Call, Calls, Given, Made, Upstream
from flows.control import CONTROL
from flows.tasks import emit_finished, stage_task
from nanochat.config.base import Config
from nanochat.config.compute import Compute
from nanochat.config.data import DataConfig, ShardConfig
from nanochat.errors import NanochatError, StageFailed, Stopped
from nanochat.events import Reporter
from nanochat.execution.stage import Stage
from nanochat.graphs.pipeline import Each, deal, list_shards
from nanochat.store.artifacts import Artifact
from nanochat.store.store import Store

ONE_EACH = 64
"""Up to so many shards have a task each, unless `Compute.data_workers.shards_per_task` says how many a task has."""
MOST_TASKS = 32
"""Of a stage of more."""
ASK_EVERY_S = 0.5


@dataclass(frozen=True, eq=False)
class Submitted:
    """A task on its way."""

    stage: Stage
    calls: Calls
    future: PrefectFuture[Batch]
    progress: Mapping[str, Reporter]
    """Label → where to say how its call is, for calls in other processes: they cannot say it themselves."""
    done: Event = field(default_factory=Event)

    def __post_init__(self) -> None:
        # asked for its result with a limit of time, a future of Dask may break when the limit passes
        self.future.add_done_callback(lambda _: self.done.set())

    def ended(self, timeout_s: float) -> bool:
        """Whether it has, after so long at most; raises `StageFailed` when whoever worked on it is gone."""
        if not self.done.wait(timeout_s):
            return False
        try:
            self.future.result(raise_on_failure=False)
        except UnfinishedRun:  # it never began, because one before it failed
            return True
        except Exception as error:
            raise StageFailed(f"`{self.calls.label}` was lost ({error!r}).", hint="Start the run again.") from error
        return True

    def made(self) -> Sequence[Made]:
        """What it made; raises the error with which it ended."""
        expect_success(self.calls.label, self.future.state)
        return self.future.result().made


@dataclass(frozen=True, eq=False)
class Promise:
    """An artifact that a task will make."""

    task: Submitted
    place: int

    def made(self) -> Made:
        return self.task.made()[self.place]


Handle = Promise | Artifact
"""What a task will make, or what was there before the run."""


@dataclass(frozen=True)
class PrefectRun:
    """Executes the graph as Prefect tasks; its handles are promises."""

    store: Store
    compute: Compute
    here: ThreadPoolTaskRunner
    for_shards: TaskRunner[Any]
    gpu_pool: str = ""
    """Work pool for stages that train or examine; empty: here."""
    tasks: list[Submitted] = field(default_factory=list)
    """In the order of the graph."""

    def shards(self, data: DataConfig) -> tuple[ShardConfig, ...]:
        return list_shards(data, self.store)

    def __call__(self, stage: Stage, config: Config, **inputs: Handle | list[Handle]) -> Handle:
        (handle,) = self._submit(stage, [(config, stage.name, inputs)], self.here, self.compute)
        return handle

    def map(
        self, stage: Stage, configs: Sequence[Config], names: Sequence[str], **inputs: Each | Handle | list[Handle]
    ) -> list[Handle]:
        calls = [
            (config, f"{stage.name} {name}", deal(place, inputs))
            for place, (config, name) in enumerate(zip(configs, names, strict=True))
        ]
        runner = self.for_shards if stage.resource == "cpu" else self.here
        together = len(calls) > ONE_EACH and stage.resource == "cpu"
        size = self.compute.data_workers.shards_per_task or (-(-len(calls) // MOST_TASKS) if together else 1)
        starts = range(0, len(calls), size)
        # another process has a core of its own; here, tasks share the cores
        compute = self.compute.shared(len(starts)) if runner is self.here else self.compute.with_workers(1)
        return [
            handle for begin in starts for handle in self._submit(stage, calls[begin : begin + size], runner, compute)
        ]

    def _submit(
        self,
        stage: Stage,
        calls: Sequence[tuple[Config, str, Mapping[str, Any]]],
        runner: TaskRunner[Any],
        compute: Compute,
    ) -> Iterator[Handle]:
        number: dict[Submitted, Upstream] = {}
        numbers = count()

        def given(handle: Handle) -> Given:
            if isinstance(handle, Artifact):
                return handle.manifest
            if handle.task not in number:
                number[handle.task] = Upstream(next(numbers))
            return Upstream(number[handle.task].task, handle.place)

        work = Calls(
            [
                Call(
                    config,
                    label,
                    {name: [given(h) for h in g] if isinstance(g, list) else given(g) for name, g in inputs.items()},
                )
                for config, label, inputs in calls
            ]
        )
        far = runner is not self.here
        parameters = dict(
            stage=stage,
            calls=work,
            upstream=[self._carried(each, far) for each in number],
            store=self.store.objects.root,
            compute=compute,
            gpu_pool=self.gpu_pool,
        )
        progress = {call.label: CONTROL.get().reporter(call.label, stage.name) for call in work.calls} if far else {}
        for each in progress.values():
            each.emit("started")
        future = runner.submit(stage_task(stage, work.label), parameters, wait_for=self._before(stage))
        submitted = Submitted(stage, work, future, progress)
        self.tasks.append(submitted)
        return (Promise(submitted, place) for place in range(len(work.calls)))

    def _before(self, stage: Stage) -> list[PrefectFuture[Batch]]:
        """Tasks that must end first, although they are no inputs.

        Over several nodes, training stages run one after the other, in the order of the graph. Otherwise two stages
        could each take half of the nodes and wait for ever.
        """
        if self.compute.parallelism.nodes == 1 or stage.resource != "gpu":
            return []
        return [task.future for task in self.tasks if task.stage.resource == "gpu"][-1:]

    def wait(self) -> None:
        """Until every task has ended. Of those in other processes is told, as soon as they have, how they went.

        Raises `Stopped` when the run is told to end meanwhile.
        """
        away = [task for task in self.tasks if task.progress]
        while away:
            away[0].ended(ASK_EVERY_S)
            for task in [task for task in away if task.ended(0)]:
                away.remove(task)
                self._heard(task)
            for task in away:
                for progress in task.progress.values():
                    progress.log("")
        for task in self.tasks:
            task.future.wait()

    def _carried(self, task: Submitted, far: bool) -> PrefectFuture[Batch] | Batch:
        """What a task is given of one before it: its future, or the result where a future would not arrive."""
        if not far or task.progress:
            return task.future
        task.future.wait()
        if not task.future.state.is_completed():
            for each in self.tasks:  # the error of the first that failed, and not that this one never began
                if each.ended(0):
                    expect_success(each.calls.label, each.future.state)
        return Batch(task.made())

    def _heard(self, task: Submitted) -> None:
        """Tells who watches how calls in another process went, and notes what the run has in its hands."""
        state = task.future.state
        if not state.is_completed():  # failed, or never begun because one before it did
            error = state.result(raise_on_failure=False) if state.is_failed() else None
            if isinstance(error, NanochatError):
                CONTROL.get().reporter(task.calls.label, task.stage.name).emit("failed", error=str(error))
            return
        for call, made in zip(task.calls.calls, task.future.result().made, strict=True):
            self.store.requested.add(made.manifest.name)
            seconds = 0.0 if made.reused else made.manifest.producer.seconds
            artifact = self.store.artifact(made.manifest, reused=made.reused)
            emit_finished(task.progress[call.label], artifact, seconds)


def expect_success(label: str, state: State[Any]) -> None:
    """Raises the error with which a task ended."""
    if state.is_cancelled():
        raise Stopped(state.message or "Cancelled.")
    if state.is_failed() or state.is_crashed():
        error = state.result(raise_on_failure=False)
        if isinstance(error, NanochatError):
            raise error
        raise StageFailed(f"`{label}` broke: {error!r}.", hint="That is a mistake of ours; its log has the traceback.")
