"""Counters of the server, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector


class Metrics:
    """What is counted. A path is one of the server's own or "other": strangers' paths would grow without end."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("unimo_requests", "answers", ["path", "status"], registry=self.registry)
        self.seconds = Histogram("unimo_request_seconds", "time to the answer's end", ["path"], registry=self.registry)
        self.passes = Counter("unimo_model_passes", "forward passes", registry=self.registry)
        self.rows = Counter("unimo_model_rows", "rows of forward passes", registry=self.registry)
        self.waiting = Gauge("unimo_rows_waiting", "rows waiting for the model", registry=self.registry)
        ProcessCollector(registry=self.registry)  # memory, CPU, open files

    def request(self, path: str, status: int, seconds: float) -> None:
        self.requests.labels(path, status).inc()
        self.seconds.labels(path).observe(seconds)

    def model_pass(self, rows: int) -> None:
        self.passes.inc()
        self.rows.inc(rows)
