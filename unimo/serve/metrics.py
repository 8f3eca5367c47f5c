"""Counters of the server as Prometheus text (exposition format 0.0.4)."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import Counter
from pathlib import Path

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds


class Metrics:
    """What is counted. A label is one of the server's own paths or "other": strangers' paths would grow without end."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.seconds: dict[str, list[int]] = {}
        self.total_seconds: Counter[str] = Counter()
        self.in_flight = self.passes = self.rows = 0

    def request(self, path: str, status: int, seconds: float) -> None:
        self.requests[path, status] += 1
        self.seconds.setdefault(path, [0] * (len(BUCKETS) + 1))[bisect_left(BUCKETS, seconds)] += 1
        self.total_seconds[path] += seconds  # type: ignore[assignment]

    def model_pass(self, rows: int) -> None:
        self.passes += 1
        self.rows += rows

    def text(self, waiting: int) -> str:
        """All of it. waiting: rows in the queue now."""
        lines = ["# TYPE unimo_requests_total counter"]
        for (path, status), n in sorted(self.requests.items()):
            lines.append(f'unimo_requests_total{{path="{path}",status="{status}"}} {n}')
        lines.append("# TYPE unimo_request_seconds histogram")
        for path, counts in sorted(self.seconds.items()):
            total = 0
            for edge, n in zip((*BUCKETS, "+Inf"), counts):
                total += n
                lines.append(f'unimo_request_seconds_bucket{{path="{path}",le="{edge}"}} {total}')
            lines.append(f'unimo_request_seconds_sum{{path="{path}"}} {self.total_seconds[path]:.6f}')
            lines.append(f'unimo_request_seconds_count{{path="{path}"}} {total}')
        for name, kind, value in (
            ("model_passes_total", "counter", self.passes),
            ("model_rows_total", "counter", self.rows),
            ("requests_in_flight", "gauge", self.in_flight),
            ("rows_waiting", "gauge", waiting),
            ("resident_bytes", "gauge", resident_bytes()),
        ):
            lines += [f"# TYPE unimo_{name} {kind}", f"unimo_{name} {value}"]
        return "\n".join(lines) + "\n"


def resident_bytes() -> int:
    """Memory of this process now; 0 where the system does not tell."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0
