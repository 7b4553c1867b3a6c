"""What the server adds to the engine, and what serving clients together brings over one by one.

python -m benchmarks.serving [--depth 4] [--clients 32] [--tokens 128] [--rounds 5]

One process has the model with random weights. In turns, it generates the same answers

- with the engine alone,
- with the server, for clients that stream at the same time,
- with the server, for one client after the other (a quarter of them).

The clients are one process of their own, which reads bytes and parses nothing. On a machine with few cores, it takes
time from the server as well. Prints tokens/s, medians over the rounds, and their ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from nanochat.config.training import ModelConfig
from nanochat.inference.engine import Engine
from nanochat.inference.request import Request, SamplingParameters
from nanochat.model.architecture import Architecture
from nanochat.model.files import save_model
from nanochat.model.gpt import GPT
from nanochat.serve.loading import load_engine
from nanochat.serve.options import ServeOptions
from nanochat.serve.server import Server, listen
from nanochat.store.producer import describe_producer
from nanochat.store.store import Store
from nanochat.tokenizer.bpe import Tokenizer

PROMPT_TOKENS = 32
READ_BYTES = 1 << 16


def main() -> None:
    arguments = _arguments()
    if arguments.client:
        print(asyncio.run(run_clients(arguments.client, arguments.clients, arguments.tokens, arguments.one_by_one)))
        return
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), arguments)


def measure(folder: Path, arguments: argparse.Namespace) -> None:
    store = Store(str(folder / "store"), folder / "cache")
    publish(store, folder / "model", arguments.depth)
    ready = threading.Event()
    options = ServeOptions(slots=arguments.clients)
    server = Server(store, options, load_engine, lambda line: print(line, file=sys.stderr), ready.set)
    listening = listen("127.0.0.1", 0)
    address = f"127.0.0.1:{listening.getsockname()[1]}"
    thread = threading.Thread(target=server.run_on, args=(listening,))
    thread.start()
    ready.wait()
    deployment = server.serving.models.find(None)
    alone = load_engine(deployment.artifact, deployment.tokenizer, options, 0)
    rates: dict[str, list[float]] = {"engine alone": [], "server, together": [], "server, one by one": []}
    loop_us: list[float] = []
    for round_ in range(arguments.rounds + 1):  # the first warms up
        found = (
            engine_rate(alone, arguments.clients, arguments.tokens),
            timed(server, lambda: client_rate(address, arguments, one_by_one=False), loop_us, arguments),
            client_rate(address, arguments, one_by_one=True),
        )
        for name, rate in zip(rates, found, strict=True):
            rates[name] += [rate] * (round_ > 0)
    server.should_exit = True
    thread.join()
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, median in medians.items():
        print(f"{name:20} {median:10,.0f} tokens/s   ({min(rates[name]):,.0f} to {max(rates[name]):,.0f})")
    print(f"the server takes {1 - medians['server, together'] / medians['engine alone']:.1%} of the engine's rate")
    print(f"the event loop needs {statistics.median(loop_us[1:]):.0f} µs of processor time for each token")
    print(f"together is {medians['server, together'] / medians['server, one by one']:.1f} times one by one")


def timed(server: Server, work: Callable[[], float], loop_us: list[float], arguments: argparse.Namespace) -> float:
    """The result of `work`; adds the processor time of the event loop's thread for each of its tokens."""
    (replica,) = server.serving.models.replicas()

    def processor_time() -> float:
        async def read() -> float:
            return time.thread_time()

        return asyncio.run_coroutine_threadsafe(read(), replica.loop).result()

    before = processor_time()
    result = work()
    loop_us.append(1e6 * (processor_time() - before) / (arguments.clients * arguments.tokens))
    return result


def publish(store: Store, folder: Path, depth: int) -> None:
    """A model of the profiles' shape with bytes as vocabulary, and random weights."""
    tokenizer = Tokenizer.from_merges([])
    model = GPT(Architecture(model=ModelConfig(depth=depth), vocab_size=tokenizer.vocab_size, sequence_len=1024))
    model.init_weights(1)
    save_model(folder, model)
    tokenizer.save(folder / "vocabulary.json")
    manifest = store.publish(
        folder, stage="sft", stage_version=1, kind="Model", key="0" * 64, config={}, inputs={}, metrics={},
        producer=describe_producer(datetime.now(UTC)),
    )  # fmt: skip
    store.set_alias("chat/latest", manifest)


def prompt(client: int) -> list[int]:
    """Ids of ordinary characters, different for each client."""
    return [32 + (client * 7 + place) % 90 for place in range(PROMPT_TOKENS)]


def engine_rate(engine: Engine, clients: int, tokens: int) -> float:
    """Generated tokens/s of the engine in a loop."""
    sampling = SamplingParameters(max_tokens=tokens, temperature=0, calculator=False, logit_bias=NO_SPECIALS)
    began = time.perf_counter()
    for client in range(clients):
        engine.submit(Request(prompt=[engine.tokenizer.bos, *prompt(client)], sampling=sampling))
    generated = 0
    while engine.has_work:
        generated += sum(len(delta.ids) for delta in engine.step())
    return generated / (time.perf_counter() - began)


NO_SPECIALS = {token: -100.0 for token in range(256, 265)}
"""Keeps a random model from ending its answers."""


def client_rate(address: str, arguments: argparse.Namespace, *, one_by_one: bool) -> float:
    clients = max(1, arguments.clients // 4) if one_by_one else arguments.clients
    line = [sys.executable, "-m", "benchmarks.serving", "--client", address, "--clients", str(clients),
            "--tokens", str(arguments.tokens), *["--one-by-one"] * one_by_one]  # fmt: skip
    return float(subprocess.check_output(line, text=True))


async def run_clients(address: str, clients: int, tokens: int, one_by_one: bool) -> float:
    """Requested tokens/s of all clients."""
    began = time.perf_counter()
    if one_by_one:
        for client in range(clients):
            await stream(address, client, tokens)
    else:
        await asyncio.gather(*(stream(address, client, tokens) for client in range(clients)))
    return clients * tokens / (time.perf_counter() - began)


async def stream(address: str, client: int, tokens: int) -> None:
    """Reads a streamed completion."""
    body = json.dumps(
        {"prompt": prompt(client), "max_tokens": tokens, "temperature": 0, "stream": True, "logit_bias": NO_SPECIALS}
    ).encode()
    reader, writer = await asyncio.open_connection(*address.split(":"))
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    received = b""
    while data := await reader.read(READ_BYTES):
        received += data
    assert b"[DONE]" in received, received[-500:]
    writer.close()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--client", default="", help=argparse.SUPPRESS)
    parser.add_argument("--one-by-one", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
