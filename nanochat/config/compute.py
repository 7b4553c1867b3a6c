"""How to run: `Compute`, which never enters a key."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from nanochat.config.base import MAX_SECONDS, Config
from nanochat.settings import cores


class DataWorkers(Config):
    """The workers that process shards: download, tokenize, pack."""

    count: Annotated[int, Field(ge=0, le=1024)] = 0
    """Shards processed at the same time, and threads of the tokenizer, shared by the shards; 0: the number of cores."""
    task_runner: Literal["threads", "processes", "dask", "ray"] = "threads"
    """What runs the shards: threads or processes of this machine, or a Dask or Ray cluster (needs its package)."""
    scheduler: str = ""
    """Address of the Dask scheduler (`tcp://host:8786`) or Ray head (`ray://host:10001`); empty: a cluster of `count`
    workers on this machine, for the run."""
    shards_per_task: Annotated[int, Field(ge=0)] = 0
    """Shards per Prefect task; 0: one, or as many as make 32 tasks of more than 64 shards."""

    def threads(self) -> int:
        """`count`, or the number of cores."""
        return self.count or cores()

    def at_once(self, shards: int) -> int:
        """How many of these shards are processed at the same time."""
        return max(1, min(shards, self.threads()))


class Parallelism(Config):
    """The processes that train together, and how they divide a training batch."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to train on; `auto` takes the GPUs if there are any."""
    ranks: Annotated[int, Field(ge=0, le=1024)] = 0
    """Training processes on this node; 0: one per GPU, or one on a CPU."""
    nodes: Annotated[int, Field(ge=1, le=1 << 20)] = 1
    """Nodes that train together."""
    node: Annotated[int, Field(ge=0)] = 0
    """Index of this node, from 0. Node 0 publishes the results; the others train with it and wait for them."""
    rendezvous: str = ""
    """`host:port` on node 0, where the nodes connect; empty: node 0 writes its address to the store."""
    micro_batch_rows: Annotated[int, Field(ge=0)] = 0
    """Rows of one forward and backward pass on one rank; 0: chosen automatically. The batch stays the same (gradient
    accumulation)."""
    exact: bool = False
    """Bit-identical results on 1, 2, 4, 8, … ranks of CPUs: gradients of single rows are summed in one fixed order, on
    one thread per rank. Slow; without it, other numbers of ranks round differently. Refused on GPUs."""

    @field_validator("exact")
    @classmethod
    def _exact_needs_a_power_of_two(cls, exact: bool, others: ValidationInfo) -> bool:
        ranks = others.data.get("ranks", 0) * others.data.get("nodes", 1)
        if exact and ranks & (ranks - 1):
            raise PydanticCustomError("ranks", "sums are exact on 1, 2, 4, 8, … ranks; these are {n}", {"n": ranks})
        return exact


class Kernels(Config):
    """Which implementations compute the network."""

    compile: Literal["auto", "on", "off"] = "auto"
    """`torch.compile`: the network and the loss on GPUs, the loss on CPUs, where `auto` compiles for a vocabulary of
    8,192 or more if there is a C++ compiler. Compiled code is cached for the next start."""
    attention: Literal["auto", "flash3", "flash4", "flex", "sdpa"] = "auto"
    """Attention kernel; `auto` takes the first of these that runs here, and logs it."""


class Checkpointing(Config):
    """When training saves a checkpoint, and which checkpoints it keeps."""

    every_s: Annotated[float, Field(gt=0, le=MAX_SECONDS)] = 180.0
    """Seconds of training between checkpoints."""
    keep: Annotated[int, Field(ge=1)] = 2
    """Newest checkpoints kept while a stage trains."""
    keep_every_steps: Annotated[int, Field(ge=0)] = 0
    """Also keep checkpoints whose step is a multiple of this, as long as the stage trains; 0: none."""


class Supervision(Config):
    """When a stage that makes no progress is stopped."""

    watchdog_timeout_s: Annotated[float, Field(ge=0, le=MAX_SECONDS)] = 60.0
    """A rank that completes no step for this long, or for ten times its slowest step if that is longer, ends the run;
    0: never."""
    timeout_s: Annotated[float, Field(ge=0, le=MAX_SECONDS)] = 0.0
    """A stage that runs longer than this is stopped; 0: never."""


class Tracking(Config):
    """Where the metrics of training go."""

    log_every_steps: Annotated[int, Field(ge=1)] = 1
    """Steps per line of the metrics file. Between two lines, training does not wait for the device."""
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Experiment trackers that also receive the metrics; each needs its package."""


class GpuJob(Config):
    """What a stage that trains or evaluates requests from a work pool that starts a job for it, as Kubernetes does.

    What is not set is as the pool has it. Without a GPU work pool, or in one of processes, this has no effect.
    """

    gpus: Annotated[int, Field(ge=0, le=1024)] = 0
    """GPUs of each node; 0: as the pool has it."""
    cpu: Annotated[str, Field(pattern=r"^(\d+(\.\d+)?|\d+m)?$")] = ""
    """Cores of each node: `32`, `500m`."""
    memory: Annotated[str, Field(pattern=r"^(\d+(\.\d+)?([kMGTP]i?)?)?$")] = ""
    """Memory of each node: `512Gi`."""
    node_selector: tuple[Annotated[str, Field(pattern=r"^[^=\s]+=[^=\s]*$")], ...] = ()
    """Labels that a node must have: `gpu.example.org/model=h100`."""

    def variables(self) -> dict[str, Any]:
        """The job variables of the pool that are set here."""
        labels = dict(label.split("=", 1) for label in self.node_selector)
        given = {"gpus": self.gpus, "cpu": self.cpu, "memory": self.memory, "node_selector": labels}
        return {name: value for name, value in given.items() if value}


def _with_old_names(schema: dict[str, Any]) -> None:
    """Lets old names pass a Prefect server, which checks the parameters of a run against this schema."""
    schema["additionalProperties"] = True


class Compute(Config):
    """How to run; never part of a key."""

    model_config = ConfigDict(json_schema_extra=_with_old_names)
    renamed_fields: ClassVar[Mapping[str, str]] = {
        "workers": "data_workers.count",
        "task_runner": "data_workers.task_runner",
        "scheduler": "data_workers.scheduler",
        "shards_per_task": "data_workers.shards_per_task",
        "device": "parallelism.device",
        "ranks": "parallelism.ranks",
        "nodes": "parallelism.nodes",
        "rendezvous": "parallelism.rendezvous",
        "node": "parallelism.node",
        "micro_batch_rows": "parallelism.micro_batch_rows",
        "exact": "parallelism.exact",
        "compile": "kernels.compile",
        "attention": "kernels.attention",
        "checkpoint_every_s": "checkpoints.every_s",
        "keep_checkpoints": "checkpoints.keep",
        "keep_checkpoint_every_steps": "checkpoints.keep_every_steps",
        "silence_s": "supervision.watchdog_timeout_s",  # plain-words: ok
        "timeout_s": "supervision.timeout_s",
        "log_every_steps": "tracking.log_every_steps",
        "trackers": "tracking.trackers",
    }

    data_workers: Annotated[DataWorkers, Field(title="Data workers")] = DataWorkers()
    """Workers that process shards."""
    parallelism: Annotated[Parallelism, Field(title="Parallelism")] = Parallelism()
    """Processes that train together."""
    kernels: Annotated[Kernels, Field(title="Kernels")] = Kernels()
    """Compilation and attention."""
    checkpoints: Annotated[Checkpointing, Field(title="Checkpoints")] = Checkpointing()
    """Checkpoints of training."""
    supervision: Annotated[Supervision, Field(title="Supervision")] = Supervision()
    """Timeouts."""
    tracking: Annotated[Tracking, Field(title="Tracking")] = Tracking()
    """Metrics and experiment trackers."""
    gpu_job: Annotated[GpuJob, Field(title="GPU job")] = GpuJob()
    """What training and evaluation request from a GPU work pool."""

    def with_workers(self, count: int) -> Self:
        """A copy with `count` data workers."""
        return self.model_copy(update={"data_workers": self.data_workers.model_copy(update={"count": count})})

    def shared(self, shards: int) -> Self:
        """A copy for each of these shards, with its share of the threads."""
        return self.with_workers(self.data_workers.threads() // self.data_workers.at_once(shards))

    def on_node(self, node: int, rendezvous: str) -> Self:
        """A copy for the node with this index and rendezvous address."""
        update = {"node": node, "rendezvous": rendezvous}
        return self.model_copy(update={"parallelism": self.parallelism.model_copy(update=update)})
