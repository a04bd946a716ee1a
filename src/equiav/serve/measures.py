"""What the service counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import Scope

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
FILES = (1, 2, 4, 8, 16, 32)


class Measures:
    """Counters of one service; their labels take few values, whatever clients send."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = of = CollectorRegistry()
        self._requests = Counter("equiav_requests", "Requests answered.", ["route", "status"], registry=of)
        self._seconds = Histogram(
            "equiav_request_seconds", "Time to the end of it.", ["route"], buckets=SECONDS, registry=of
        )
        self.in_hand = Gauge("equiav_in_hand", "Embeds and searches in hand, those that wait included.", registry=of)
        self.refused_files = Counter("equiav_refused_files", "Files that could not be used.", ["reason"], registry=of)
        self.batch = Histogram("equiav_batch_files", "Files embedded together.", buckets=FILES, registry=of)

    def answered(self, scope: Scope, status: int, seconds: float) -> None:
        """Count a request."""
        route = getattr(scope.get("route"), "path", "other")
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self._registry)
