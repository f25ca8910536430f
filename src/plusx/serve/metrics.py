"""What /metrics tells Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "plusx_requests", "Requests answered, by path and status.", ["path", "status"], registry=self.registry
        )
        self.errors = Counter("plusx_errors", "Requests answered with 4xx or 5xx.", ["status"], registry=self.registry)
        self.queue = Gauge("plusx_queue_rows", "Images that wait.", registry=self.registry)
        self.batches = Histogram(
            "plusx_batch_rows",
            "Images that ran together.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=self.registry,
        )
        self.engine = Histogram(
            "plusx_engine_seconds",
            "Seconds of the engine for a batch.",
            buckets=tuple(0.0005 * 2**k for k in range(15)),
            registry=self.registry,
        )
        self.latency = Histogram(
            "plusx_request_seconds",
            "Seconds from a request to its answer.",
            ["path"],
            buckets=tuple(0.001 * 2**k for k in range(15)),
            registry=self.registry,
        )

    def ran(self, rows: int, seconds: float) -> None:
        """A batch went through the engine."""
        self.batches.observe(rows)
        self.engine.observe(seconds)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self.requests.labels(path, str(status)).inc()
        self.latency.labels(path).observe(seconds)
        if status >= 400:
            self.errors.labels(str(status)).inc()

    def text(self) -> bytes:
        """As Prometheus reads it."""
        return generate_latest(self.registry)
