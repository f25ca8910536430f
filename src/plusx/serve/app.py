"""The server's paths: the Open Inference Protocol under /v2, POST /predict, a page at /, /metrics."""

import asyncio
import hmac
import json
import math
import sys
import time
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from PIL import Image
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from plusx import __version__
from plusx.data import decode
from plusx.engines import Array, Engine
from plusx.errors import DataError
from plusx.pictures import Picture, decode_picture
from plusx.serve.batching import Batcher, FullError, LateError, Limits, batch_difference
from plusx.serve.metrics import Metrics
from plusx.serve.protocol import HEADER, RefusedError, answer, largest_body, metadata, parse
from plusx.triton import repository_name

PAGE = Path(__file__).with_name("page.html")
DECODERS = 2
"""Images that are decoded at once: what bounds the memory of large ones."""

HELD_BYTES = 256 << 20
"""Of bodies that are being read or answered: with more, new ones are refused."""

LINGER_SECONDS = 1
"""How long a body that is too large is still read."""

_OPEN = ("/", "/v2/health/live", "/v2/health/ready")


@dataclass(frozen=True)
class Options:
    """What a server allows; see `plusx.serve.serve`."""

    max_batch: int = 16
    max_delay_ms: float = 2.0
    queue: int = 64
    deadline_ms: float = 10_000
    max_request_mib: float = 32
    max_megapixels: float = 50
    body_seconds: float = 30
    token: str | None = None


class Server:
    """An engine, its batcher and its counters, and what the paths do with them."""

    def __init__(self, engine: Engine, options: Options) -> None:
        self.engine, self.options, self.metrics = engine, options, Metrics()
        self.name = repository_name(engine.card)
        self.held = 0  # bytes of bodies that are being read or answered
        self.max_batch = engine.card.batch or options.max_batch  # a fixed batch gains nothing by more
        self.difference = batch_difference(engine, self.max_batch)
        limits = Limits(self.max_batch, options.max_delay_ms / 1000, options.queue)
        self.batcher = Batcher(engine, limits, self.metrics.ran)
        self.decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="plusx-decode")
        self.decoding = 0
        self.ready = True

    def stop(self, timeout: float) -> bool:
        """Answer what waits, and end; whether that was done within `timeout` seconds."""
        self.ready = False
        self.decoders.shutdown(wait=False, cancel_futures=True)
        self.batcher.stop(timeout)
        return not self.batcher.alive

    async def infer(self, request: Request) -> Response:
        """POST /v2/models/NAME/infer."""
        card = self.engine.card
        if (packed := request.headers.get("content-encoding", "identity").lower()) != "identity":
            raise RefusedError(415, f"content-encoding {packed[:20]!r}: bodies are taken as they are")
        most = largest_body(card, self.max_batch)
        body = await self.body(request, most)
        pixels = self.options.max_megapixels * 1e6
        asked = parse(body, request.headers.get(HEADER), card, self.max_batch, pixels)
        content, headers = answer(await self.run(asked.inputs, request), asked, self.name)
        return Response(content, headers=headers)

    async def predict(self, request: Request) -> Response:
        """POST /predict."""
        top = request.query_params.get("top", "5")
        if not (top.isascii() and top.isdecimal() and len(top) < 8 and int(top) >= 1):
            raise RefusedError(400, f"top: {top[:20]!r} is not a whole number of at least 1")
        content = await self.image(request)
        if self.decoding >= self.options.queue:
            raise RefusedError(503, "too many images wait to be decoded", 1)
        self.decoding += 1
        try:
            decoding = asyncio.get_running_loop().run_in_executor(self.decoders, self.decode, content)
            pixels = await asyncio.wait_for(decoding, self.left(request))
        except TimeoutError:
            raise RefusedError(504, f"no answer within {self.options.deadline_ms:g} ms", 1) from None
        finally:
            self.decoding -= 1
        logits = (await self.run(pixels, request))[0].astype(np.float64)
        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        best = np.argsort(-shares, kind="stable")[: int(top)]
        labels = self.engine.card.labels
        ranked = [{"class": labels[k], "probability_percent": 100 * float(shares[k])} for k in best]
        return JSONResponse({"model": self.name, **ranked[0], "top": ranked})

    def decode(self, content: bytes) -> Array:
        """An image's bytes → the engine's input, one row. Raises RefusedError."""
        try:
            with decode.quiet(), decode.open_header(BytesIO(content)) as image:  # the header alone
                width, height = image.size
        except Image.DecompressionBombError:
            raise RefusedError(413, "the image is too large by far") from None
        except Exception:  # Pillow raises what its formats raise
            raise RefusedError(400, "no image that can be read") from None
        if width * height > self.options.max_megapixels * 1e6:
            words = f"{width} by {height} pixels; at most {self.options.max_megapixels:g} megapixels are taken"
            raise RefusedError(413, words)
        card = self.engine.card
        try:
            pixels = decode_picture(Picture("the image", content), card.input_size, card.channels)
        except DataError as problem:
            raise RefusedError(400, str(problem)) from None
        return self.engine.prepare(pixels.numpy())

    async def run(self, inputs: Array, request: Request) -> Array:
        """The logits, within the deadline, which counts from when the request came. Raises RefusedError."""
        try:
            future = self.batcher.submit(inputs, time.monotonic() + self.left(request))
        except FullError:
            raise RefusedError(503, "the queue is full", 1) from None
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self.left(request))
        except (LateError, TimeoutError):
            raise RefusedError(504, f"no answer within {self.options.deadline_ms:g} ms", 1) from None

    def left(self, request: Request) -> float:
        """Seconds until a request's deadline."""
        return float(request.state.since) + self.options.deadline_ms / 1000 - time.monotonic()

    async def body(self, request: Request, most: float = math.inf) -> bytes:
        """All of a request's body, within the limits of size and time. Raises RefusedError.

        most: bytes that such a request can need.
        """
        limit = int(min(self.options.max_request_mib * 2**20, most))
        said = request.headers.get("content-length", "0")
        parts: list[bytes] = []
        size, over = 0, said.isdecimal() and int(said[:20]) > limit
        full = self.batcher.waiting >= self.options.queue  # refused before its body costs memory
        try:
            async with asyncio.timeout(LINGER_SECONDS if over else self.options.body_seconds) as patience:
                async for part in request.stream():
                    size += len(part)
                    if size > limit and not over:
                        over = True
                        patience.reschedule(asyncio.get_running_loop().time() + LINGER_SECONDS)
                    if size > 4 * limit:  # somewhat more is read, and dropped, so that the client sees the answer
                        break
                    full = full or self.held + len(part) > HELD_BYTES
                    if over or full:
                        parts.clear()
                        self.give_back(request)
                        continue
                    parts.append(part)
                    self.held += len(part)
                    request.state.held += len(part)
        except TimeoutError:
            if not over:
                words = f"the body did not come within {self.options.body_seconds:g} s"
                raise RefusedError(408, words) from None
        if over:
            raise RefusedError(413, f"a body of more than {limit} bytes")
        if full:
            raise RefusedError(503, "the queue is full", 1)
        return b"".join(parts)

    def give_back(self, request: Request) -> None:
        """Count a request's bytes as held no longer."""
        self.held -= request.state.held
        request.state.held = 0

    async def image(self, request: Request) -> bytes:
        """The image's bytes: the body, or the first file of a form. Raises RefusedError."""
        body = await self.body(request)
        if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            if not body:
                raise RefusedError(400, "no image: send its bytes, or a form with a file")
            return body

        async def stream() -> AsyncGenerator[bytes, None]:
            yield body

        try:
            form = await MultiPartParser(request.headers, stream(), max_files=1, max_fields=8).parse()
        except (MultiPartException, KeyError, ValueError, AssertionError, UnicodeError) as problem:
            raise RefusedError(400, f"not a form: {' '.join(str(problem).split())[:120]}") from None
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        try:
            if not files:
                raise RefusedError(400, "the form has no file")
            return await files[0].read()
        finally:
            await form.close()

    def allows(self, request: Request) -> bool:
        """Whether a request may be answered: no token is asked for, it is open to all, or the token is right."""
        if self.options.token is None or request.url.path in _OPEN:
            return True
        given = request.headers.get("authorization", "").encode()
        kind, _, token = given.partition(b" ")
        return kind.lower() == b"bearer" and hmac.compare_digest(token, self.options.token.encode())


def create_app(engine: Engine, options: Options) -> FastAPI:
    """The application; whoever runs it ends `app.state.server`."""
    server = Server(engine, options)
    app = FastAPI(title="plusx", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.server = server
    app.middleware("http")(_around(server))
    app.add_exception_handler(HTTPException, _plain_error)
    _add_protocol(app, server)
    page = _page(server)

    @app.get("/")
    async def _root() -> HTMLResponse:
        policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src blob: data:; "
        return HTMLResponse(page, headers={"content-security-policy": f"{policy}connect-src 'self'"})

    @app.post("/predict")
    async def _predict(request: Request) -> Response:
        return await server.predict(request)

    @app.get("/metrics")
    async def _metrics() -> Response:
        server.metrics.queue.set(server.batcher.waiting)
        return Response(server.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


def _add_protocol(app: FastAPI, server: Server) -> None:
    @app.get("/v2")
    async def _about() -> dict[str, Any]:
        return {
            "name": "plusx",
            "version": __version__,
            "extensions": ["binary_tensor_data"],
            "models": [server.name],
        }

    @app.get("/v2/health/live")
    async def _live() -> Response:
        return Response(status_code=200 if server.batcher.alive else 503)

    @app.get("/v2/health/ready")
    async def _ready() -> Response:
        return Response(status_code=200 if server.ready and server.batcher.alive else 503)

    for prefix in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):

        @app.get(prefix)
        async def _model(name: str, version: str = "1") -> dict[str, Any]:
            _check_name(server, name, version)
            card, difference = server.engine.card, server.difference
            return metadata(card, server.name, f"plusx_{server.engine.name}", difference)

        @app.get(f"{prefix}/ready")
        async def _model_ready(name: str, version: str = "1") -> Response:
            _check_name(server, name, version)
            return Response(status_code=200 if server.ready and server.batcher.alive else 503)

        @app.post(f"{prefix}/infer")
        async def _infer(request: Request, name: str, version: str = "1") -> Response:
            _check_name(server, name, version)
            return await server.infer(request)


def _check_name(server: Server, name: str, version: str) -> None:
    if name != server.name or version != "1":
        raise RefusedError(404, f"no model {name[:60]!r} of version {version[:20]!r}; there is {server.name!r}, 1")


def _around(server: Server) -> Callable[[Request, Callable[[Request], Awaitable[Response]]], Awaitable[Response]]:
    """Each request: allowed, timed, counted, and whatever is wrong with it told in one line of JSON."""

    async def around(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        start = request.state.since = time.monotonic()
        request.state.held = 0
        try:
            if not server.allows(request):
                raise RefusedError(401, "a bearer token is needed")
            response = await call(request)
        except (Exception, asyncio.CancelledError) as problem:
            response = _refusal(_refused(problem))
            _let_go(problem)
        finally:
            server.give_back(request)
        route = request.scope.get("route")
        path = getattr(route, "path", "other")
        with suppress(ValueError):
            server.metrics.answered(path, response.status_code, time.monotonic() - start)
        return response

    return around


def _let_go(problem: BaseException | None) -> None:
    """Free what an error holds: the frames it, and those before it, went through, and they the body.

    These are rings, which the garbage collector comes to much later: it counts objects, not their bytes.
    """
    while problem is not None:
        traceback.clear_frames(problem.__traceback__)
        problem.__traceback__ = None
        before, problem.__context__ = problem.__context__, None
        problem = before


def _refused(problem: BaseException) -> RefusedError:
    """What to answer for whatever went wrong."""
    match problem:
        case RefusedError():
            return problem
        case ClientDisconnect():  # nobody reads it; it is counted as nginx counts it
            return RefusedError(499, "the client went away")
        case asyncio.CancelledError():
            return RefusedError(503, "the server is ending")
    reason = " ".join(f"{type(problem).__name__}: {problem}".split())[:300]
    print(f"plusx: serve: the engine failed: {reason}", file=sys.stderr, flush=True)
    return RefusedError(500, f"the engine failed: {type(problem).__name__}")


def _refusal(problem: RefusedError) -> Response:
    headers = {} if problem.retry_after is None else {"retry-after": str(problem.retry_after)}
    if problem.status == 401:
        headers["www-authenticate"] = "Bearer"
    if problem.status in (408, 413):
        headers["connection"] = "close"  # the rest of the body is not read
    return JSONResponse({"error": problem.message}, problem.status, headers=headers)


async def _plain_error(_: Request, problem: Exception) -> Response:
    assert isinstance(problem, HTTPException)
    return JSONResponse({"error": str(problem.detail)}, problem.status_code, headers=problem.headers)


def _page(server: Server) -> str:
    card = server.engine.card
    about = {"model": server.name, "classes": len(card.labels), "token": server.options.token is not None}
    about |= {"engine": f"{server.engine.name} {card.precision}", "size": card.input_size}
    told = json.dumps(about).replace("<", "\\u003c")
    return PAGE.read_text(encoding="utf-8").replace("__ABOUT__", told)
