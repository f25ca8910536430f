"""Answering over HTTP: `serve` runs one network in one process.

    GET  /v2/health/live, /v2/health/ready, /v2, /v2/models/NAME     the Open Inference Protocol v2, as Triton's clients
    POST /v2/models/NAME/infer                                       and KServe's speak it, JSON or binary tensors
    POST /predict                                                    an image's bytes, or a form with a file
    GET  /                                                           a page to drop an image on
    GET  /metrics                                                    for Prometheus

Requests are gathered into batches (`batching`), within limits (`app.Options`).
"""

import importlib.util
import signal
import socket
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from plusx.artefact import Precision
from plusx.checkpoint import Weights
from plusx.engines import EngineName, open_engine
from plusx.errors import InputError
from plusx.interrupts import leave_unfinished

if TYPE_CHECKING:
    from plusx.serve.app import Options

HEADER_SECONDS = 10
"""How long a client may take to send a request's headers."""

DRAIN_SECONDS = 29
"""How long requests that are being answered may take once the server is told to end; all of that takes less than 30."""


def serve(
    source: str | Path | Weights,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    engine: EngineName | Literal["auto"] = "auto",
    precision: Precision | None = None,
    threads: int | None = None,
    max_batch: int = 16,
    max_delay_ms: float = 2.0,
    queue: int = 64,
    deadline_ms: float = 10_000,
    max_request_mib: float = 32,
    max_megapixels: float = 50,
    token: str | None = None,
) -> None:
    """Answer over HTTP until a signal comes; then answer what waits, and end.

    source: a run folder, weights file, Weights, or exported file; engine, precision, threads: as `open_engine` takes
    them. host: the address to listen on. port: 0 for any that is free. max_batch: images that run together;
    max_delay_ms: how long one waits for others. queue: images that wait; more are refused with 503 and Retry-After.
    deadline_ms: an answer that takes longer is refused with 504. max_request_mib, max_megapixels: larger requests and
    images are refused with 413. token: required of each request as a bearer token, health and the page aside.
    Raises InputError for options that do not fit, packages that are missing and a port that is taken, and
    KeyboardInterrupt for a second Ctrl-C, which does not wait for the answers.
    """
    missing = [name for name in ("fastapi", "uvicorn", "prometheus_client", "python_multipart") if not _has(name)]
    if missing:
        raise InputError(f"serve: {', '.join(missing)} not installed; pip install 'plusx[serve]' brings it")
    from plusx.serve.app import Options, create_app

    options = Options(max_batch, max_delay_ms, queue, deadline_ms, max_request_mib, max_megapixels, token=token)
    _check(options)
    listening = _listen(host, port)
    try:
        opened = open_engine(source, engine, precision=precision, threads=threads, cache=True)
        if opened.card.batch is not None and opened.card.batch > queue:
            raise InputError(
                f"queue {queue} is smaller than the {opened.card.batch} images that the network takes at once"
            )
        app = create_app(opened, options)
        where = f"http://{_address(listening)}"
        told = app.state.server
        print(
            f"plusx: serving {told.name} on {where} ({opened.name} {opened.card.precision}; {_same(told.difference)})",
            file=sys.stderr,
            flush=True,
        )
        _run(app, listening)
    finally:
        listening.close()


def _same(difference: float) -> str:
    """How far an answer depends on the batch it rode in, as tried."""
    if difference == 0:
        return "an image's logits were the same alone and in a batch"
    return f"an image's logits were the same alone and in a batch, to within {difference:.1g}"


def _has(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _check(options: "Options") -> None:
    for name, least, most in (("max_batch", 1, 4096), ("queue", 1, 100_000)):
        value = getattr(options, name)
        if type(value) is not int or not least <= value <= most:
            raise InputError(f"{name} {value!r} is not a whole number from {least:,} to {most:,}")
    if options.queue < options.max_batch:
        raise InputError(f"queue {options.queue} is smaller than max_batch {options.max_batch}, which has to fit in it")
    bounds = (
        ("max_delay_ms", 0, 10_000),
        ("deadline_ms", 1, 3_600_000),
        ("max_request_mib", 0.001, 4096),
        ("max_megapixels", 0.0001, 10_000),
    )
    for name, low, high in bounds:
        if not low <= getattr(options, name) <= high:
            raise InputError(f"{name} {getattr(options, name)!r} is not from {low:g} to {high:g}")
    if options.token is not None and (not options.token or not options.token.isascii()):
        raise InputError("token: an ASCII text that is not empty is needed")


def _listen(host: str, port: int) -> socket.socket:
    if type(port) is not int or not 0 <= port <= 65535:
        raise InputError(f"port {port!r} is not a whole number from 0 to 65535")
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=512
        )
    except (OSError, UnicodeError) as problem:
        why = problem.strerror if isinstance(problem, OSError) else problem
        raise InputError(f"serve: cannot listen on {host}, port {port}: {why}") from None


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _run(app: Any, listening: socket.socket) -> None:
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Impatient(H11Protocol):
        """Closes a connection on which a request's headers take too long."""

        waiting: Any = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            # asyncio does so only for sockets that name their protocol; else an answer's body waits 40 ms for its head
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.waiting = self.loop.call_later(HEADER_SECONDS, self.transport.abort)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:  # the headers are all there
                self._stop_waiting()
            elif self.waiting is None:  # a part of them; more of it does not start the time anew
                self.waiting = self.loop.call_later(HEADER_SECONDS, self.transport.abort)

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def _stop_waiting(self) -> None:
            if self.waiting is not None:
                self.waiting.cancel()
                self.waiting = None

    class Ending(uvicorn.Server):
        """Knows until when it may take to end, and which signals it took."""

        until = 0.0

        def handle_exit(self, sig: int, frame: Any) -> None:
            taken[sig] += 1
            super().handle_exit(sig, frame)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            self.until = time.monotonic() + DRAIN_SECONDS
            await super().shutdown(sockets)

    settings = uvicorn.Config(
        app,
        http=Impatient,
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        limit_concurrency=1000,
    )
    taken, came = Counter[int](), Counter[int]()
    before = {each: signal.signal(each, lambda sig, _: came.update([sig])) for each in (signal.SIGTERM, signal.SIGINT)}
    running, finished = Ending(settings), False
    try:
        running.run(sockets=[listening])
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    try:
        if running.force_exit:  # a second Ctrl-C
            raise KeyboardInterrupt
        for late in came - taken:  # uvicorn ends by raising again those that it took; others came after that
            signal.raise_signal(late)
        finished = app.state.server.stop(max(0.0, running.until - time.monotonic()))  # or the second one comes now
    finally:
        if not finished:
            leave_unfinished()
