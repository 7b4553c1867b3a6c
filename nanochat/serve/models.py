"""The models that are served: each has replicas of one artifact, and the artifact of a followed alias may change."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Sequence
from functools import partial

from nanochat.errors import NotFound
from nanochat.inference.request import Request
from nanochat.model.architecture import Architecture
from nanochat.model.files import load_architecture
from nanochat.serve.answer_pieces import Marks
from nanochat.serve.error_envelope import ApiError
from nanochat.serve.following import Follower
from nanochat.serve.generation import EngineFailed, Generation
from nanochat.serve.options import ServeOptions
from nanochat.serve.replica import EngineFace, Replica
from nanochat.store.artifacts import Artifact
from nanochat.store.manifest import Manifest
from nanochat.store.store import Store
from nanochat.tokenizer.bpe import Tokenizer

LoadEngine = Callable[[Artifact, Tokenizer, ServeOptions, int], EngineFace]
Report = Callable[[str], None]
LOADING_RETRY_S = 5
MAX_RETRY_S = 60
WATCH_EVERY_S = 1.0
MAX_FAILED_LOADS = 5
"""Once every engine has failed to start so often in a row, after it had run, the server ends: about a minute."""
_replicas = itertools.count()


class Deployment:
    """The replicas of one artifact."""

    def __init__(self, artifact: Artifact, options: ServeOptions, load: LoadEngine) -> None:
        """Starts the replicas. Reads files: raises `DamagedArtifact`, `NotFound` or an error of the store."""
        self.artifact = artifact
        self.manifest: Manifest = artifact.manifest
        self.reference = f"{artifact.stage}/{artifact.key}"
        self.architecture: Architecture = load_architecture(artifact.path)
        self.tokenizer = Tokenizer.load(artifact.path / "vocabulary.json")
        self.marks = Marks.of(self.tokenizer)
        self._options, self._load = options, load
        self.replicas: list[Replica] = []
        self.answer_s = 1.0
        """Moving average of the seconds that an HTTP request takes."""

    @property
    def fingerprint(self) -> str:
        """OpenAI's `system_fingerprint`: which artifact it is, in short."""
        return self.reference[: -len(self.artifact.key)] + self.artifact.key[:12]

    @property
    def context_tokens(self) -> int:
        return self.architecture.sequence_len

    @property
    def ready(self) -> bool:
        return any(replica.state == "ready" for replica in self.replicas)

    async def start(self) -> None:
        """Loads the engines, one after the other. Raises the error of the first that fails."""
        for number in range(self._options.replicas):
            self._start_replica(number)
            await self.replicas[-1].loaded()

    def _start_replica(self, number: int) -> None:
        place = next(_replicas)

        def load(again: bool) -> EngineFace:
            if again:  # its files may have been removed since
                self.artifact.store.payloads.forget(self.manifest)
            return self._load(self.artifact, self.tokenizer, self._options, place)

        self.replicas.append(Replica(load, f"replica {number} of {self.reference[:20]}"))

    def submit(self, requests: Sequence[Request], interval_s: float) -> Generation:
        """Passes prompts to the replica with the fewest answers; for `interval_s` see `Generation`.

        Raises `ApiError`: 503 if no replica runs, 429 if the queues of all are full.
        """
        running = [replica for replica in self.replicas if replica.state == "ready"]
        if not running:
            raise ApiError(
                503, "The model is being loaded.", code="model_loading", headers={"Retry-After": str(LOADING_RETRY_S)}
            )
        replica = min(running, key=lambda each: each.answers)
        if replica.answers >= self._options.slots + self._options.queue:
            raise ApiError(
                429, "The server is busy: its queue is full.", code="queue_full",
                headers={"Retry-After": str(self._retry_after_s())},
            )  # fmt: skip
        return replica.submit(requests, interval_s)

    def finished(self, began: float) -> None:
        """Counts a request that began at this monotonic time."""
        self.answer_s += 0.1 * (time.monotonic() - began - self.answer_s)

    def _retry_after_s(self) -> int:
        return min(MAX_RETRY_S, max(1, math.ceil(self.answer_s)))

    async def close(self) -> None:
        """Ends the replicas and frees their memory; what still runs fails."""
        await asyncio.gather(*(replica.close() for replica in self.replicas))
        self.replicas.clear()

    async def retire(self) -> None:
        """Ends the replicas once their answers are finished."""
        while any(replica.answers for replica in self.replicas):
            await asyncio.sleep(0.1)
        await self.close()


class ServedModel:
    """A name that clients use for a model."""

    def __init__(self, name: str, artifact: Artifact) -> None:
        self.name, self.artifact = name, artifact
        self.deployment: Deployment | None = None
        self.follower: Follower | None = None
        """If the name is an alias that is followed."""

    @property
    def ready(self) -> bool:
        return self.deployment is not None and self.deployment.ready


class Models:
    """All models that are served, by name."""

    def __init__(self, store: Store, options: ServeOptions, load: LoadEngine, report: Report) -> None:
        """Resolves the names, and loads nothing. Raises `NotFound`."""
        self.store, self.options = store, options
        self._load, self._report = load, report
        self._retiring: set[asyncio.Task[None]] = set()
        self.by_name: dict[str, ServedModel] = {}
        for name in dict.fromkeys([*options.models, *options.follow]):
            self.by_name[name] = model = ServedModel(name, self._model(name))
            if name in options.follow:
                model.follower = Follower(
                    name, lambda model=model: model.artifact, self._model, partial(self._replace, model),
                    options.follow_every_s,
                )  # fmt: skip

    def _model(self, name: str) -> Artifact:
        artifact = self.store.artifact(self.store.resolve(name), reused=True)
        if artifact.kind != "Model":
            raise NotFound(
                f"`{name}` is a {artifact.kind}, not a model.", hint="`nanochat ls --stage sft` lists the chat models."
            )
        return artifact

    @property
    def ready(self) -> bool:
        return all(model.ready for model in self.by_name.values())

    @property
    def answers(self) -> int:
        """Unfinished answers of all models, without those of models that were replaced."""
        return sum(replica.answers for replica in self.replicas())

    def replicas(self) -> list[Replica]:
        """All replicas of the models that get new requests."""
        deployments = [model.deployment for model in self.by_name.values() if model.deployment]
        return [replica for each in deployments for replica in each.replicas]

    def find(self, name: str | None) -> Deployment:
        """The model of this name, or the default. Raises `ApiError`: 404, or 503 while it is loaded."""
        model = self.by_name.get(self.name(name))
        if model is None:
            known = ", ".join(f"`{each}`" for each in self.by_name)
            raise ApiError(
                404, f"There is no model `{str(name)[:100]}`; this server has {known}.", param="model",
                code="model_not_found",
            )  # fmt: skip
        if model.deployment is None:
            raise ApiError(
                503, "The model is being loaded.", code="model_loading", headers={"Retry-After": str(LOADING_RETRY_S)}
            )
        return model.deployment

    def name(self, name: str | None) -> str:
        """The name of a model, or of the default."""
        return next(iter(self.by_name)) if name is None else name

    async def load_all(self) -> None:
        """Loads every model. Raises the first error."""
        for model in self.by_name.values():
            began = time.monotonic()
            self._report(f"loading {model.name} ({model.artifact.stage}/{model.artifact.key[:12]})")
            model.deployment = await self._deploy(model.artifact)
            self._report(f"ready after {time.monotonic() - began:.1f} s: {model.name}")

    async def _deploy(self, artifact: Artifact) -> Deployment:
        deployment = await asyncio.to_thread(Deployment, artifact, self.options, self._load)
        try:
            await deployment.start()
        except BaseException:
            await deployment.close()
            raise
        return deployment

    async def follow(self) -> None:
        """Follows the aliases, and looks whether the engines run, until cancelled.

        Raises `EngineFailed` when no engine runs any more, and none can be started again.
        """
        followers = [model.follower.run() for model in self.by_name.values() if model.follower]
        await asyncio.gather(self._watch(), *followers)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            replicas = self.replicas()
            if replicas and all(replica.failed_loads >= MAX_FAILED_LOADS for replica in replicas):
                raise EngineFailed(
                    f"No engine runs, and none could be started again in {MAX_FAILED_LOADS} attempts.",
                    hint="The log has the reasons.",
                )

    async def _replace(self, model: ServedModel, artifact: Artifact) -> None:
        """Serves another artifact under this name: running answers finish on the old one."""
        self._report(f"loading {model.name} ({artifact.stage}/{artifact.key[:12]})")
        deployment = await self._deploy(artifact)
        before, model.deployment, model.artifact = model.deployment, deployment, artifact
        self._report(f"{model.name} is now {artifact.stage}/{artifact.key[:12]}")
        if before is not None:
            task = asyncio.create_task(before.retire())
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def finish(self) -> None:
        """Waits until no answer is generated any more."""
        while self.answers or self._retiring:
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        """Ends all engines; what still runs fails."""
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*(model.deployment.close() for model in self.by_name.values() if model.deployment))
