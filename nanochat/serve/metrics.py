"""Metrics for Prometheus. Names are those of vLLM with `nanochat:` instead of `vllm:`, so that its dashboards fit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from nanochat.inference.request import FinishReason
from nanochat.serve.models import Models

LATENCIES_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
TOKEN_LATENCIES_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
MODEL = "model_name"


class _Engines(Collector):
    """Reads the state of the engines at each scrape."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return ()

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """One sample per model, the sum of its replicas."""
        running = GaugeMetricFamily("nanochat:num_requests_running", "Answers that are generated.", labels=[MODEL])
        waiting = GaugeMetricFamily("nanochat:num_requests_waiting", "Answers that wait for a slot.", labels=[MODEL])
        ready = GaugeMetricFamily("nanochat:replicas_ready", "Engines that run.", labels=[MODEL])
        restarts = CounterMetricFamily("nanochat:engine_restarts", "Engines that failed.", labels=[MODEL])
        failing = GaugeMetricFamily("nanochat:follow_failing", "1: the alias cannot be followed.", labels=[MODEL])
        for name, model in self._models.by_name.items():
            replicas = model.deployment.replicas if model.deployment else []
            statistics = [replica.engine.statistics for replica in replicas if replica.engine]
            running.add_metric([name], sum(each.running for each in statistics))
            waiting.add_metric([name], sum(each.waiting for each in statistics))
            ready.add_metric([name], sum(replica.state == "ready" for replica in replicas))
            restarts.add_metric([name], sum(replica.restarts for replica in replicas))
            if model.follower is not None:
                failing.add_metric([name], model.follower.failing)
        yield from (running, waiting, ready, restarts, failing)


class Metrics:
    """All metrics of one server."""

    def __init__(self, models: Models) -> None:
        disable_created_metrics()  # a series more for each counter and histogram, which nothing reads
        self._registry = CollectorRegistry()
        self._registry.register(_Engines(models))
        self._prompt = self._counter("prompt_tokens", "Tokens of prompts.")
        self._generated = self._counter("generation_tokens", "Generated tokens.")
        self._finished = self._counter("request_success", "Finished answers.", "finished_reason")
        self._refused = Counter("nanochat:http_errors", "Responses with an error.", ["status"], registry=self._registry)
        self._first = self._histogram("time_to_first_token_seconds", "From the request to its first token.")
        self._whole = self._histogram("e2e_request_latency_seconds", "From the request to its end.")
        self._token = self._histogram(
            "request_time_per_output_token_seconds", "Mean time between tokens of a request.", TOKEN_LATENCIES_S
        )

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"nanochat:{name}", meaning, [MODEL, *labels], registry=self._registry)

    def _histogram(self, name: str, meaning: str, buckets: tuple[float, ...] = LATENCIES_S) -> Histogram:
        return Histogram(f"nanochat:{name}", meaning, [MODEL], buckets=buckets, registry=self._registry)

    def count_error(self, status: int) -> None:
        """A response with a status of 400 or more."""
        self._refused.labels(str(status)).inc()

    def count_request(
        self,
        model: str,
        *,
        prompt_tokens: int,
        answers: list[tuple[int, FinishReason]],
        first_s: float | None,
        whole_s: float,
    ) -> None:
        """A request that ended: the tokens and reason of each answer, and its times."""
        generated = sum(tokens for tokens, _ in answers)
        self._prompt.labels(model).inc(prompt_tokens)
        self._generated.labels(model).inc(generated)
        for _, reason in answers:
            self._finished.labels(model, reason).inc()
        if first_s is not None:
            self._first.labels(model).observe(first_s)
            longest = max(tokens for tokens, _ in answers)
            if longest > 1:
                self._token.labels(model).observe((whole_s - first_s) / (longest - 1))
        self._whole.labels(model).observe(whole_s)

    def text(self) -> bytes:
        """The metrics in Prometheus's text format."""
        return generate_latest(self._registry)
