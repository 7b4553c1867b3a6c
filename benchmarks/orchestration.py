"""The cost of orchestration. Prints a table; all is measured in this run, through the command line.

    python benchmarks/orchestration.py                        # the demo, a task, then 1,000 shards on SQLite
    python benchmarks/orchestration.py --postgres postgresql+asyncpg://user:password@127.0.0.1/name
    python benchmarks/orchestration.py --shards 200 --skip-demo --skip-task

The demo is computed once, in one process, without Prefect. Then the unchanged run is repeated in turns, with and
without Prefect, on a server that is up. All stages are cached, so the difference is the cost of orchestration for the
demo: the start of Prefect's client, and its tasks. (With `--computed-twice` the demo is also computed with Prefect;
but two trainings differ by more than the goal.)

The cost of one task is measured apart: very small pipelines of few and of many shards, all cached, again in turns with
and without Prefect. The difference per additional task is its cost, with its page, its log lines and its share of the
store; what is left at zero tasks is the start.

For the shards, a site is started (`nanochat up`) on SQLite, and on Postgres if one is given. There the pipeline runs
on that many shards of a very small world, down to a very small model: computed, then cached twice. Meanwhile a client
sends the server the requests of a page of the UI, twice a second, and measures the response times.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

REQUEST_EVERY_S = 0.5
FEW_SHARDS, MANY_SHARDS = 4, 44
"""Up to 64 shards have a task per stage each: 20 tasks, and 140."""
SMALL = (
    "data.world.documents_per_shard=10", "data.validation_documents=1", "tokenizer.vocab_size=512",
    "rows.sequence_len=64", "pretrain.model.depth=1", "pretrain.batch_tokens=512", "pretrain.horizon.unit=steps",
    "pretrain.horizon.amount=4", "pretrain.evaluate_every_steps=0", "base_evaluation.evaluation_tokens=512",
    "base_evaluation.sample_tokens=4", "base_evaluation.free_samples=1",
    'conversations.train=[{"task":"world","limit":20}]', 'conversations.validation=[{"task":"world","limit":5}]',
    'conversations.questions=[{"task":"world","limit":5}]', "conversations.sequence_len=128", "sft.batch_tokens=512",
    "sft.evaluate_every_steps=0", "chat_evaluation.limit=5", "chat_evaluation.max_tokens=4",
)  # fmt: skip


@dataclass(frozen=True)
class Home:
    """A folder (`NANOCHAT_HOME`), and the command line on it."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def nanochat(self, *arguments: str) -> str:
        environment = {**os.environ, "NANOCHAT_HOME": str(self.folder), "COLUMNS": "200", **self.environment}
        environment.pop("PREFECT_API_URL", None)
        command = [sys.executable, "-m", "nanochat.cli", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            sys.exit(f"`nanochat {' '.join(arguments)}` ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def run(self, *arguments: str) -> tuple[float, int, int]:
        """Seconds, stages computed and stages cached of one `nanochat run`."""
        began = time.perf_counter()
        output = self.nanochat("run", *arguments)
        seconds = time.perf_counter() - began
        counted = re.search(r"(\d+) computed, (\d+) cached", output)
        if counted is None:
            sys.exit(f"`nanochat run` printed no number of cached stages:\n{output}")
        return seconds, int(counted[1]), int(counted[2])

    @contextmanager
    def up(self) -> Iterator[str]:
        """Starts a site; yields the address of its API."""
        try:
            self.nanochat("up", "--no-gpu")
            yield json.loads((self.folder / "prefect" / "site.json").read_text())["api_url"]
        finally:
            self.nanochat("down")


class ServerLoad:
    """Requests the list of runs and a run's tasks from a server while the block lasts."""

    def __init__(self, api_url: str) -> None:
        self._api_url, self._ending, self.answers_s = api_url, threading.Event(), []
        self._thread = threading.Thread(target=self._request, daemon=True)

    def __enter__(self) -> ServerLoad:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def _request(self) -> None:
        body = json.dumps({"limit": 50}).encode()
        while not self._ending.wait(REQUEST_EVERY_S):
            began = time.perf_counter()
            for path in ("flow_runs/filter", "task_runs/filter"):
                request = urllib.request.Request(
                    f"{self._api_url}/{path}", body, {"Content-Type": "application/json"}, method="POST"
                )
                try:
                    with urllib.request.urlopen(request, timeout=60) as answer:
                        answer.read()
                except OSError:  # counts with the time that it took
                    pass
            self.answers_s.append(time.perf_counter() - began)

    def summary(self) -> str:
        """Median, 99th percentile and slowest answer, in milliseconds."""
        in_order = sorted(self.answers_s)
        p99 = in_order[min(len(in_order) - 1, int(0.99 * len(in_order)))]
        return f"{1e3 * statistics.median(in_order):.0f} / {1e3 * p99:.0f} / {1e3 * in_order[-1]:.0f} ms"


class PeakMemory:
    """The largest resident memory of this process's `nanochat run` child, while the block lasts."""

    def __init__(self) -> None:
        self.most_bytes, self._ending = 0, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def _sample(self) -> None:
        me = psutil.Process()
        while not self._ending.wait(0.2):
            for child in me.children():
                try:
                    self.most_bytes = max(self.most_bytes, child.memory_info().rss)
                except psutil.Error:
                    continue


def in_turns(home: Home, turns: int, *arguments: str) -> tuple[list[float], list[float], int]:
    """Seconds of a cached run without and with Prefect, in turns after a first, and its number of tasks."""
    plain, prefect, tasks = [], [], 0
    for turn in range(turns + 1):
        without_s, *_ = home.run("--plain", *arguments)
        with_s, computed, tasks = home.run(*arguments)
        assert computed == 0
        if turn:
            plain.append(without_s)
            prefect.append(with_s)
    return plain, prefect, tasks


def demo(turns: int, computed_twice: bool) -> Iterator[tuple[str, str]]:
    """Rows of the table: the cost of orchestration for the demo."""
    with tempfile.TemporaryDirectory(prefix="nanochat-bench-") as folder:
        home = Home(Path(folder))
        took_s, stages, _ = home.run("--plain", "--profile", "demo")
        yield f"the demo, {stages} stages, computed without Prefect", f"{took_s:.1f} s"
        alone_s, _, _ = home.run("--profile", "demo")  # starts its own server
        with home.up():
            plain, prefect, _ = in_turns(home, turns, "--profile", "demo")
            if computed_twice:
                other = (Path(folder) / "other").as_uri()
                yield "the demo, computed with Prefect", f"{home.run('--profile', 'demo', '--store', other)[0]:.1f} s"
        extra = [with_it - without for with_it, without in zip(prefect, plain, strict=True)]
        yield "again, all cached: without Prefect", f"{statistics.median(plain):.2f} s"
        yield "again, all cached: with Prefect, its server up", f"{statistics.median(prefect):.2f} s"
        yield "again, all cached: with Prefect, server started for the run", f"{alone_s:.2f} s"
        yield (
            "orchestration, as a share of the demo (goal 1%)",
            f"{statistics.median(extra) / took_s:.2%} ({min(extra):.2f} to {max(extra):.2f} s)",
        )


def a_task(turns: int) -> Iterator[tuple[str, str]]:
    """Rows of the table: the cost of an additional cached task with and without Prefect, and of the start."""
    with tempfile.TemporaryDirectory(prefix="nanochat-bench-") as folder:
        home = Home(Path(folder))
        with home.up():
            took: dict[int, tuple[float, float]] = {}
            for count in (FEW_SHARDS, MANY_SHARDS):
                home.run("--plain", *small(count))
                plain, prefect, tasks = in_turns(home, turns, *small(count))
                took[tasks] = statistics.median(plain), statistics.median(prefect)
                yield (
                    f"{tasks} tasks, all cached",
                    f"{took[tasks][0]:.2f} s without Prefect, {took[tasks][1]:.2f} s with",
                )
        (few, (few_plain_s, few_s)), (many, (many_plain_s, many_s)) = took.items()
        plain_s, prefect_s = (many_plain_s - few_plain_s) / (many - few), (many_s - few_s) / (many - few)
        cost_s = prefect_s - plain_s
        yield (
            "orchestration, an additional task (goal 30 ms)",
            f"{1e3 * cost_s:.0f} ms ({1e3 * prefect_s:.0f} with Prefect, {1e3 * plain_s:.0f} without)",
        )
        yield "orchestration, the start of its client", f"{few_s - few_plain_s - few * cost_s:.2f} s"


def small(count: int) -> list[str]:
    """Arguments of `nanochat run`: `count` shards of a very small world, down to a very small model."""
    return [word for change in (f"data.world.shards={count}", *SMALL) for word in ("--set", change)]


def shards(count: int, books: str, environment: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Rows of the table: `count` mapped shards, computed and cached, and the server's response times."""
    with tempfile.TemporaryDirectory(prefix="nanochat-bench-") as folder:
        home = Home(Path(folder), environment)
        with home.up() as api_url:
            for what in ("computed", "cached", "cached, once more"):
                with ServerLoad(api_url) as load, PeakMemory() as memory:
                    seconds, computed, cached = home.run(*small(count))
                yield (
                    f"{count:,} shards, {books}, {what}: {computed + cached:,} artifacts",
                    f"{seconds:.1f} s, memory {memory.most_bytes / 1e6:,.0f} MB, responses {load.summary()}",
                )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--postgres", default="", help="connection URL of an empty database, for the shards once more")
    parser.add_argument("--turns", type=int, default=5, help="repetitions of cached runs")
    parser.add_argument("--skip-demo", action="store_true")
    parser.add_argument("--skip-task", action="store_true")
    parser.add_argument("--computed-twice", action="store_true", help="compute the demo with Prefect, too")
    given = parser.parse_args(arguments)
    console = Console()
    table = Table("what", "measured", title=f"{os.cpu_count()} cores; responses: median / 99% / slowest")
    rows: list[Iterator[tuple[str, str]]] = []
    if not given.skip_demo:
        rows.append(demo(given.turns, given.computed_twice))
    if not given.skip_task:
        rows.append(a_task(given.turns))
    if given.shards:
        rows.append(shards(given.shards, "SQLite", {}))
        if given.postgres:
            rows.append(shards(given.shards, "Postgres", {"PREFECT_SERVER_DATABASE_CONNECTION_URL": given.postgres}))
    for part in rows:
        for what, measured in part:
            console.log(f"{what}: {measured}")
            table.add_row(what, measured)
    console.print(table)


if __name__ == "__main__":
    main()
