"""The server: its two ways to ask, its limits, and that it survives what is thrown at it."""

import base64
import http.client
import io
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from plusx.engines import Array, Engine, open_engine
from plusx.errors import InputError
from plusx.export import export
from plusx.predict import predict
from plusx.records import Run
from plusx.serve import serve
from plusx.serve.batching import Batcher, FullError, LateError, Limits, batch_difference
from plusx.serve.protocol import RefusedError, parse
from tests.images import COLOURS, noisy
from tests.serving import Served, ask_in_a_loop, serving


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


RED = encoded(noisy(COLOURS["red"], 7, (40, 30)))


@pytest.fixture(scope="module")
def server(colours: tuple[Path, Run]) -> Iterator[Served]:
    with serving(colours[1].folder, "--max-request-mib", "4", "--max-megapixels", "4", "--max-batch", "8") as served:
        yield served


def ok(server: Served) -> None:
    """The next good request is answered right."""
    assert server.predict(RED)["class"] == "red"


def some_inputs(count: int) -> Array:
    return np.random.default_rng(count).normal(size=(count, 3, 16, 16)).astype(np.float32)


def model_name(server: Served) -> str:
    _, body, _ = server.ask("POST", "/predict", RED)
    return str(json.loads(body)["model"])


# what people ask


def test_an_image_is_named_as_predict_names_it(server: Served, colours: tuple[Path, Run], tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(RED)
    told = server.predict(RED)
    (ours,) = predict(colours[1].folder, tmp_path / "red.png", top=3).to_dict()["images"]
    assert [one["class"] for one in told["top"]] == [one["class"] for one in ours["top"]]
    for one, two in zip(told["top"], ours["top"], strict=True):
        assert one["probability_percent"] == pytest.approx(two["probability_percent"], abs=1e-3)
    status, body, _ = server.ask("POST", "/predict?top=1", RED)
    assert (status, len(json.loads(body)["top"])) == (200, 1)


def form(content: bytes, boundary: str = "frontier") -> tuple[bytes, dict[str, str]]:
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    return head.encode() + content + f"\r\n--{boundary}--\r\n".encode(), {
        "content-type": f"multipart/form-data; boundary={boundary}"
    }


def test_a_form_with_a_file(server: Served) -> None:
    body, headers = form(RED)
    status, answer, _ = server.ask("POST", "/predict", body, headers)
    assert (status, json.loads(answer)["class"]) == (200, "red")


def test_curl(server: Served, tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(RED)
    address = f"http://127.0.0.1:{server.port}/predict"
    for words in (["--data-binary", f"@{tmp_path / 'red.png'}"], ["-F", f"file=@{tmp_path / 'red.png'}"]):
        done = subprocess.run(["curl", "-sf", *words, address], capture_output=True, check=True)
        assert json.loads(done.stdout)["class"] == "red"


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("count", [1, 5])
def test_tritons_own_client(server: Served, colours: tuple[Path, Run], binary: bool, count: int) -> None:
    inputs = some_inputs(count)
    name = model_name(server)
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(name)
        assert client.is_model_ready(name, "1")
        assert client.get_server_metadata()["name"] == "plusx"
        about = client.get_model_metadata(name)
        assert about["inputs"] == [{"name": "images", "datatype": "FP32", "shape": [-1, 3, 16, 16]}]
        assert about["parameters"]["classes"] == ["blue", "green", "red"]
        asked = triton.InferInput("images", list(inputs.shape), "FP32")
        asked.set_data_from_numpy(inputs, binary_data=binary)
        wanted = triton.InferRequestedOutput("logits", binary_data=binary)
        for outputs in ([wanted], None):
            answer = client.infer(name, [asked], outputs=outputs, request_id="seven")
            assert answer.get_response()["id"] == "seven"
            exact = open_engine(colours[1].folder, "torch").run(inputs)
            np.testing.assert_allclose(answer.as_numpy("logits"), exact, rtol=1e-4, atol=1e-4)


def test_an_exported_file_with_its_own_preprocessing(colours: tuple[Path, Run], tmp_path: Path) -> None:
    out = export(colours[1].folder, "onnx", output=tmp_path / "net.onnx", preprocessing=True, dynamic_batch=True).path
    with serving(out) as served:
        ok(served)
        pixels = np.asarray(noisy(COLOURS["green"], 2, (50, 33)).convert("RGB"))[None]
        with triton.InferenceServerClient(f"127.0.0.1:{served.port}") as client:
            asked = triton.InferInput("images", list(pixels.shape), "UINT8")
            asked.set_data_from_numpy(pixels)
            assert client.infer(model_name(served), [asked]).as_numpy("logits").argmax() == 1


def test_the_page_is_whole_and_asks_nobody_else(server: Served) -> None:
    status, body, headers = server.ask("GET", "/")
    text = body.decode()
    assert status == 200
    assert "connect-src 'self'" in headers["content-security-policy"]
    assert "http://" not in text
    assert "https://" not in text
    assert "__ABOUT__" not in text


def test_metrics_count(server: Served) -> None:
    ok(server)
    server.ask("POST", "/predict", b"no image")
    _, body, headers = server.ask("GET", "/metrics")
    text = body.decode()
    assert headers["content-type"].startswith("text/plain")
    assert 'plusx_requests_total{path="/predict",status="200"}' in text
    assert 'plusx_errors_total{status="400"}' in text
    for name in ("plusx_queue_rows", "plusx_batch_rows_bucket", "plusx_request_seconds_bucket", "plusx_engine_seconds"):
        assert name in text


def test_a_token(colours: tuple[Path, Run]) -> None:
    with serving(colours[1].folder, "--token", "secret") as served:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "secret"}):
            status, body, told = served.ask("POST", "/predict", RED, headers)
            assert (status, told["www-authenticate"]) == (401, "Bearer")
            assert b"secret" not in body
        assert served.ask("GET", "/metrics")[0] == 401
        assert served.ask("GET", "/v2/health/ready")[0] == 200
        assert served.ask("GET", "/")[0] == 200
        assert served.predict(RED, authorization="Bearer secret")["class"] == "red"


# what is wrong


def infer_body(**changes: Any) -> dict[str, Any]:
    one = {"name": "images", "shape": [1, 3, 16, 16], "datatype": "FP32", "data": [0.5] * 768} | changes
    return {"inputs": [{key: value for key, value in one.items() if value is not None}]}


WRONG: list[tuple[Any, int]] = [
    (b"", 400),
    (b"{", 400),
    (b"[]", 400),
    (b"\xff\xfe", 400),
    (b"[" * 100_000, 400),
    ({"inputs": []}, 400),
    ({"inputs": [1]}, 400),
    ({"inputs": infer_body()["inputs"] * 2}, 400),
    (infer_body(name="image"), 400),
    (infer_body(datatype="FP64"), 400),
    (infer_body(shape=[1, 3, 16]), 400),
    (infer_body(shape=[1, 3, 16, 17]), 400),
    (infer_body(shape=[0, 3, 16, 16]), 400),
    (infer_body(shape=[-1, 3, 16, 16]), 400),
    (infer_body(shape=[10**30, 3, 16, 16]), 400),
    (infer_body(shape=[9, 3, 16, 16]), 413),
    (infer_body(shape="1,3,16,16"), 400),
    (infer_body(data=[0.5] * 767), 400),
    (infer_body(data=None), 400),
    (infer_body(data=["a"] * 768), 400),
    (infer_body(data=[True] * 768), 400),
    (infer_body(data=[None] * 768), 400),
    (infer_body(data=[[1], [2, 3]]), 400),
    (infer_body(data=[1e300] * 768), 400),
    (infer_body(data=[10**400] * 768), 400),
    (infer_body(parameters=[]), 400),
    (infer_body(parameters={"binary_data_size": 3072}), 400),
    (infer_body() | {"id": 7}, 400),
    (infer_body() | {"outputs": [{"name": "probabilities"}]}, 400),
    (infer_body() | {"outputs": "logits"}, 400),
    (infer_body() | {"outputs": [{"name": "logits", "parameters": {"classification": 3}}]}, 400),
    (json.dumps(infer_body()).replace("0.5", "NaN").encode(), 400),
]


@pytest.mark.parametrize("index", range(len(WRONG)))
def test_wrong_tensors_are_refused_in_one_line(server: Served, index: int) -> None:
    body, expected = WRONG[index]
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, answer, _ = server.ask("POST", f"/v2/models/{model_name(server)}/infer", content)
    assert status == expected
    assert "\n" not in json.loads(answer)["error"]
    ok(server)


@pytest.mark.parametrize("header", ["", "x", "-1", "99999999", "1e3", "0"])
def test_wrong_lengths_of_the_header(server: Served, header: str) -> None:
    content = json.dumps(infer_body()).encode()
    headers = {"Inference-Header-Content-Length": header}
    assert server.ask("POST", f"/v2/models/{model_name(server)}/infer", content, headers)[0] == 400
    ok(server)


def test_what_is_not_there(server: Served) -> None:
    for method, path, expected in (
        ("GET", "/v2/models/other", 404),
        ("POST", "/v2/models/other/infer", 404),
        ("GET", f"/v2/models/{model_name(server)}/versions/2", 404),
        ("GET", "/nothing", 404),
        ("GET", "/docs", 404),
        ("GET", "/openapi.json", 404),
        ("GET", "/predict", 405),
        ("DELETE", "/", 405),
    ):
        status, body, _ = server.ask(method, path)
        assert status == expected
        assert json.loads(body)["error"]


def bomb() -> bytes:
    """A PNG of 200 megapixels in some 200 kB."""
    file = io.BytesIO()
    Image.new("1", (20_000, 10_000)).save(file, "PNG")
    return file.getvalue()


def strange_images() -> dict[str, tuple[bytes, set[int]]]:
    red = noisy(COLOURS["red"], 1, (60, 50))
    jpeg = encoded(red, "JPEG", quality=95)
    frames = [noisy(COLOURS["red"], k, (40, 40)).convert("P") for k in range(3)]
    animated = io.BytesIO()
    frames[0].save(animated, "GIF", save_all=True, append_images=frames[1:])
    return {
        "empty": (b"", {400}),
        "noise": (np.random.default_rng(0).bytes(5000), {400}),
        "truncated PNG": (encoded(red)[:200], {400}),
        "truncated JPEG": (jpeg[: len(jpeg) // 2], {400}),
        "a bomb": (bomb(), {413}),
        "CMYK": (encoded(red.convert("CMYK"), "JPEG", quality=95), {200}),
        "grey": (encoded(red.convert("L")), {200}),
        "with alpha": (encoded(red.convert("RGBA")), {200}),
        "sixteen bits": (encoded(Image.fromarray(np.full((9, 9), 40_000, np.uint16))), {200}),
        "animated": (animated.getvalue(), {200}),
        "a polyglot": (jpeg + b"<script>alert(1)</script>PK\x03\x04" + bytes(500), {200}),
        "one pixel": (encoded(Image.new("RGB", (1, 1), (200, 0, 0))), {200}),
        "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg" width="1e9" height="1e9"/>', {400}),
        "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\nquit\n", {400}),
        "larger than allowed": (encoded(Image.new("L", (3000, 2000))), {413}),
    }


def test_strange_images_are_refused_or_named(server: Served) -> None:
    ok(server)
    before = server.memory_mib()
    for name, (content, expected) in strange_images().items():
        for body, headers in ((content, {}), form(content)):
            status, answer, _ = server.ask("POST", "/predict", body, headers)
            assert status in expected, (name, status, answer)
    assert server.memory_mib() - before < 100
    ok(server)


def test_limits_of_size(server: Served) -> None:
    status, body, _ = server.ask("POST", "/predict", bytes(5 << 20))
    assert (status, json.loads(body)["error"]) == (413, f"a body of more than {4 << 20} bytes")
    ok(server)


def raw(server: Served, *parts: bytes, pause: float = 0.0, wait: float = 5.0) -> bytes:
    """Bytes as they are, and all that comes back until the server or the wait ends."""
    found = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=wait) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
            while content := connection.recv(65536):
                found += content
        except (TimeoutError, ConnectionError):
            pass
    return found


def test_chunked_and_broken_requests(server: Served) -> None:
    chunk = f"{len(RED):x}\r\n".encode() + RED + b"\r\n0\r\n\r\n"
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    assert b" 200 " in raw(server, head + b"Transfer-Encoding: chunked\r\n\r\n", chunk)
    endless = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    assert b" 413 " in raw(server, head + b"Transfer-Encoding: chunked\r\n\r\n", *[endless] * 6)
    for request in (
        b"nonsense\r\n\r\n",
        head + b"Content-Length: -5\r\n\r\n",
        head + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        head + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"GET " + b"/" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ):
        answer = raw(server, request, wait=2)
        assert answer == b"" or answer.split()[1].startswith(b"4"), request[:60]
    raw(server, head + b"Content-Length: 1000\r\n\r\n", b"short", wait=0.2)  # and goes away
    ok(server)


def test_slow_clients_do_not_stop_others(colours: tuple[Path, Run]) -> None:
    code = """
from importlib import import_module
import_module("plusx.serve").HEADER_SECONDS = 1
app = import_module("plusx.serve.app")
made = app.Options.__init__
app.Options.__init__ = lambda self, *given, **named: made(self, *given, **{**named, "body_seconds": 1})
"""
    with serving(colours[1].folder, code=code) as served:
        slow = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(20)]
        for connection in slow[:10]:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHos")
        for connection in slow[10:]:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nab")
        start = time.monotonic()
        ok(served)
        assert time.monotonic() - start < 1
        for index, connection in enumerate(slow):
            connection.settimeout(5)
            try:
                answer = connection.recv(4096)
            except ConnectionError:
                answer = b""
            assert (b" 408 " in answer) if index >= 10 else answer == b""
            connection.close()
        ok(served)


def test_disconnects_do_no_harm(server: Served) -> None:
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(RED) + RED)
    ok(server)


def mutated(chance: np.random.Generator, content: bytes) -> bytes:
    found = bytearray(content)
    for _ in range(int(chance.integers(1, 6))):
        at = int(chance.integers(0, max(1, len(found))))
        match int(chance.integers(5)):
            case 0 if found:
                found[at % len(found)] ^= 1 << int(chance.integers(8))
            case 1:
                del found[at : at + int(chance.integers(1, 40))]
            case 2:
                found[at:at] = chance.bytes(int(chance.integers(1, 20)))
            case 3:
                found[at:at] = found[: int(chance.integers(1, 30))]
            case _:
                found[at:at] = [b"null", b"-1", b"1e999", b'"', b"{}", b"[]", b"\\u0000"][int(chance.integers(7))]
    return bytes(found)


def hammer(server: Served, count: int, seed: int = 0) -> dict[int, int]:
    """Mutations of good requests; how often each status came."""
    import http.client

    chance = np.random.default_rng(seed)
    name, found = model_name(server), dict[int, int]()
    text = json.dumps(infer_body(data=[0.5] * 768)).encode()
    head = json.dumps(infer_body(data=None, parameters={"binary_data_size": 3072})).encode()
    plain, headers = form(RED)
    seeds: list[tuple[str, bytes, dict[str, str]]] = [
        (f"/v2/models/{name}/infer", text, {}),
        (f"/v2/models/{name}/infer", head + bytes(3072), {"Inference-Header-Content-Length": str(len(head))}),
        ("/predict", RED, {}),
        ("/predict", plain, headers),
    ]
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    for index in range(count):
        path, body, given = seeds[index % len(seeds)]
        connection.request("POST", path, mutated(chance, body), given)
        answer = connection.getresponse()
        answer.read()
        found[answer.status] = found.get(answer.status, 0) + 1
    connection.close()
    return found


def test_mutated_requests(server: Served) -> None:
    found = hammer(server, 800)
    assert set(found) <= {200, 400, 413}
    assert found[400] > 200
    ok(server)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_mutated_requests(server: Served) -> None:
    ok(server)
    before = server.memory_mib()
    found = hammer(server, 20_000, seed=1)
    print(found, f"{server.memory_mib() - before:.0f} MiB more")
    assert set(found) <= {200, 400, 413}
    assert server.memory_mib() - before < 100
    ok(server)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
fields = st.dictionaries(st.sampled_from(["name", "shape", "datatype", "data", "parameters"]), json_values)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()), changes=fields)
def test_any_body_is_parsed_or_refused(colours: tuple[Path, Run], body: bytes, changes: dict[str, Any]) -> None:
    card = open_engine(colours[1].folder, "torch").card
    statuses = set()
    for content in (body, json.dumps(infer_body(**changes)).encode()):
        try:
            parse(content, None, card, 8, 1e6)
        except RefusedError as problem:
            statuses.add(problem.status)
    assert statuses <= set(range(400, 500))


# the queue


class Slow(Engine):
    """Gives each row its own first value, after a while."""

    name = "torch"

    def __init__(self, card: Any, seconds: float = 0.0) -> None:
        super().__init__(card, 1)
        self.seconds, self.batches = seconds, list[int]()

    def _run(self, inputs: Array) -> Array:
        time.sleep(self.seconds)
        self.batches.append(len(inputs))
        return inputs[:, :1, 0, 0].copy()


@pytest.fixture(scope="module")
def card(colours: tuple[Path, Run]) -> Any:
    return open_engine(colours[1].folder, "torch").card


def row(value: float, rows: int = 1) -> Array:
    return np.full((rows, 3, 16, 16), value, np.float32)


def test_everybody_gets_their_own_answer(card: Any) -> None:
    engine = Slow(card, 0.002)
    batcher = Batcher(engine, Limits(8, 0.002, 1000))
    futures = [(k, batcher.submit(row(k, 1 + k % 3), time.monotonic() + 30)) for k in range(200)]
    for k, future in futures:
        assert future.result(30).tolist() == [[k]] * (1 + k % 3)
    batcher.stop()
    assert max(engine.batches) <= 8
    assert len(engine.batches) < 120  # together, not one by one


def test_a_full_queue_refuses_and_late_ones_do_not_run(card: Any) -> None:
    engine = Slow(card, 0.2)
    batcher = Batcher(engine, Limits(2, 0.0, 4))
    first = batcher.submit(row(1), time.monotonic() + 30)
    time.sleep(0.05)
    late = batcher.submit(row(2, 2), time.monotonic() + 0.01)
    kept = batcher.submit(row(3, 2), time.monotonic() + 30)
    with pytest.raises(FullError):
        batcher.submit(row(4), time.monotonic() + 30)
    assert first.result(5).tolist() == [[1]]
    with pytest.raises(LateError):
        late.result(5)
    assert kept.result(5).tolist() == [[3], [3]]
    batcher.stop()
    assert engine.batches == [1, 2]


def test_a_late_one_beside_others_does_not_end_the_engine(card: Any) -> None:
    batcher = Batcher(Slow(card, 0.2), Limits(4, 0.0, 64))
    first = batcher.submit(row(1), time.monotonic() + 30)
    time.sleep(0.05)
    kept = batcher.submit(row(2), time.monotonic() + 30)
    late = batcher.submit(row(3), time.monotonic() + 0.01)
    assert first.result(5).tolist() == [[1]]
    assert kept.result(5).tolist() == [[2]]
    with pytest.raises(LateError):
        late.result(5)
    assert batcher.alive
    batcher.stop()


def test_a_lone_request_does_not_wait(card: Any) -> None:
    batcher = Batcher(Slow(card), Limits(8, 5.0, 64))
    start = time.monotonic()
    for k in range(5):
        batcher.submit(row(k), time.monotonic() + 30).result(5)
    assert time.monotonic() - start < 1
    batcher.stop()


def test_the_delay_is_a_bound(card: Any) -> None:
    engine = Slow(card, 0.05)
    batcher = Batcher(engine, Limits(8, 0.1, 64))
    futures = [batcher.submit(row(k), time.monotonic() + 30) for k in range(3)]
    start = time.monotonic()
    for future in futures:
        future.result(5)
    assert time.monotonic() - start < 0.5
    batcher.stop()


def test_an_engine_that_fails_fails_its_own_batch(card: Any) -> None:
    class Broken(Slow):
        def _run(self, inputs: Array) -> Array:
            if inputs[0, 0, 0, 0] == 13:
                raise RuntimeError("no")
            return super()._run(inputs)

    batcher = Batcher(Broken(card), Limits(1, 0.0, 64))
    bad = batcher.submit(row(13), time.monotonic() + 30)
    good = batcher.submit(row(1), time.monotonic() + 30)
    with pytest.raises(RuntimeError, match="no"):
        bad.result(5)
    assert good.result(5).tolist() == [[1]]
    batcher.stop()


@pytest.mark.parametrize("name", ["openvino", "onnxruntime", "torch"])
def test_answers_hardly_depend_on_company(colours: tuple[Path, Run], name: Any) -> None:
    """The largest difference is measured when a server starts, and told; here is its bound."""
    engine = open_engine(colours[1].folder, name)
    assert batch_difference(engine, 16) < 1e-4 * np.abs(engine.run(some_inputs(16))).max()


# load


def load(server: Served, clients: int, seconds: float) -> tuple[list[float], int]:
    """Requests by some clients in a loop: seconds of those that were answered, and how many were refused."""
    found = ask_in_a_loop(server.port, model_name(server), [1, 3, 16, 16], clients, seconds)
    return found["seconds"], found["refused"]


SLOW_ENGINE = """
import time
import plusx.engines as engines
_run = engines.Engine.run
def run(self, inputs):
    time.sleep(0.05)
    return _run(self, inputs)
engines.Engine.run = run
"""


def overload(source: Path, seconds: float) -> None:
    """Clients ten times as many as the queue has room for."""
    options = ("--max-batch", "4", "--queue", "4", "--deadline-ms", "2000", "--engine", "openvino")
    with serving(source, *options, code=SLOW_ENGINE) as served:
        load(served, 8, 0.5)
        before = served.memory_mib()
        times, refused = load(served, 80, seconds)
        assert refused > len(times)
        assert len(times) >= 10 * seconds  # it goes on answering: at most 80 a second
        assert np.percentile(times, 99) < 2.0  # the deadline
        assert served.memory_mib() - before < 60
        print(f"{len(times)} answered, p99 {np.percentile(times, 99):.3f} s, {refused} refused")
        ok(served)


def test_a_lone_client_waits_little_longer_than_the_engine_takes(colours: tuple[Path, Run]) -> None:
    """benchmarks/serving.py measures it, and the throughput, on a real network."""
    engine = open_engine(colours[1].folder)
    engine.run(some_inputs(1))
    start = time.perf_counter()
    for _ in range(20):
        engine.run(some_inputs(1))
    alone = (time.perf_counter() - start) / 20
    with serving(colours[1].folder) as served:
        load(served, 1, 0.3)
        times, refused = load(served, 1, 1.5)
    assert refused == 0
    assert np.median(times) < alone + 0.010  # 3 ms where nothing else runs


def test_overload(colours: tuple[Path, Run]) -> None:
    overload(colours[1].folder, 3)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_overload_for_a_minute(colours: tuple[Path, Run]) -> None:
    overload(colours[1].folder, 60)


# its life


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_when_all_is_answered(colours: tuple[Path, Run], number: signal.Signals) -> None:
    with serving(colours[1].folder, "--max-batch", "1", code=SLOW_ENGINE.replace("0.05", "0.4")) as served:
        found: list[dict[str, Any]] = []
        asking = [threading.Thread(target=lambda: found.append(served.predict(RED))) for _ in range(3)]
        for thread in asking:
            thread.start()
        time.sleep(0.3)
        served.process.send_signal(number)
        for thread in asking:
            thread.join()
        assert [one["class"] for one in found] == ["red"] * 3
        assert served.process.wait(10) == 0


def test_a_second_ctrl_c_ends_it_at_once(colours: tuple[Path, Run]) -> None:
    slow = SLOW_ENGINE.replace("0.05", "8 * (threading.current_thread().name == 'plusx-engine')")
    with serving(colours[1].folder, code=f"import threading{slow}") as served:
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
        connection.request("POST", "/predict", RED)
        time.sleep(0.3)
        start = time.monotonic()
        for _ in range(2):
            served.process.send_signal(signal.SIGINT)
            time.sleep(0.5)
        assert served.process.wait(4) == 130
        assert time.monotonic() - start < 4
        connection.close()
        assert served.process.stderr is not None
        assert served.process.stderr.read() == "plusx: interrupted\n"


STUCK_ENGINE = f"""
import atexit, sys, threading
{SLOW_ENGINE.replace("0.05", "25 * (threading.current_thread().name == 'plusx-engine')")}
atexit.register(time.sleep, 25)  # as a runtime that waits for its threads when the interpreter ends
import plusx.serve
sys.modules["plusx.serve"].DRAIN_SECONDS ="""


def refused(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) != 0


SLOWLY_ENDED = """
import uvicorn
_run_server = uvicorn.Server.run
uvicorn.Server.run = lambda *given, **named: (_run_server(*given, **named), time.sleep(3))
"""


@pytest.mark.parametrize(
    ("number", "drain", "more", "code"),
    [
        (signal.SIGINT, 29, "", 130),
        pytest.param(signal.SIGINT, 29, SLOWLY_ENDED, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 29, "", 143, marks=pytest.mark.slow),
        (None, 2, "", 0),
    ],
)
def test_an_engine_that_is_stuck_does_not_keep_it(
    colours: tuple[Path, Run], number: signal.Signals | None, drain: int, more: str, code: int
) -> None:
    """A second signal ends it though all clients are gone; without one it ends after a while."""
    with serving(colours[1].folder, "--deadline-ms", "300", code=f"{STUCK_ENGINE} {drain}{more}") as served:
        assert served.ask("POST", "/predict", RED)[0] == 504
        served.process.send_signal(number or signal.SIGINT)
        until = time.monotonic() + 30
        while not refused(served.port) and time.monotonic() < until:
            time.sleep(0.05)
        assert refused(served.port)
        time.sleep(1)  # by now it waits for the engine alone
        start = time.monotonic()
        if number is not None:
            assert served.process.poll() is None
            served.process.send_signal(number)
        assert served.process.wait(5) == code
        assert time.monotonic() - start < 4
        assert served.process.stderr is not None
        assert served.process.stderr.read() == ("plusx: interrupted\n" if code else "")


def test_ports_and_options(digits_run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = [sys.executable, "-m", "plusx", "serve", str(digits_run.folder), "--port", str(taken.getsockname()[1])]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "cannot listen on 127.0.0.1" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    for options, words_ in (
        ({"port": 70_000}, "port"),
        ({"max_batch": 0}, "max_batch"),
        ({"queue": 3}, "smaller than max_batch"),
        ({"deadline_ms": 0}, "deadline_ms"),
        ({"max_delay_ms": -1}, "max_delay_ms"),
        ({"token": ""}, "token"),
        ({"host": "no.such.host.invalid"}, "cannot listen"),
    ):
        with pytest.raises(InputError, match=words_):
            serve(digits_run.folder, **options)


def test_the_page_in_a_browser(server: Served, tmp_path: Path) -> None:
    """Chromium shows the page, and names an image that a script drops on it."""
    import shutil

    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium")
    _, body, _ = server.ask("GET", "/")
    drop = (
        f"<script>const raw = Uint8Array.from(atob('{base64.b64encode(RED).decode()}'), c => c.charCodeAt(0));"
        "const carried = new DataTransfer(); carried.items.add(new File([raw], 'red.png', {type: 'image/png'}));"
        "document.dispatchEvent(new DragEvent('drop', {dataTransfer: carried, cancelable: true}));</script></body>"
    )
    page = body.decode().replace("</body>", drop)
    with serving_page(page, server.port) as port:
        words = [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
        words += ["--virtual-time-budget=8000", "--dump-dom", f"http://127.0.0.1:{port}/"]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert "<li><b>red</b><span>" in done.stdout
    assert "Looking" not in done.stdout.split("<script>")[0]


def serving_page(page: str, port: int) -> Any:
    """The page with a script of the test's, from one port; what it posts goes on to the server's."""
    import http.client
    from contextlib import contextmanager
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        def _send(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self._send(200, page.encode(), "text/html; charset=utf-8")

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["content-length"]))
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("POST", self.path, content)
            answer = connection.getresponse()
            self._send(answer.status, answer.read(), "application/json")
            connection.close()

        def log_message(self, *_: Any) -> None: ...

    @contextmanager
    def run() -> Iterator[int]:
        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
            thread = threading.Thread(target=httpd.serve_forever)
            thread.start()
            try:
                yield httpd.server_address[1]
            finally:
                httpd.shutdown()
                thread.join()

    return run()
