"""What a server holds and for how long: memory, time, queue, and who is let in. The attacks here once succeeded."""

import gc
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plusx.artefact import Card
from plusx.data.decode import decode
from plusx.engines import Array, Engine, open_engine
from plusx.errors import DataError, InputError, WeightsError
from plusx.export import export
from plusx.records import Run
from plusx.serve import serve
from plusx.serve.batching import batch_difference
from plusx.serve.protocol import LARGEST_JSON, RefusedError, parse
from tests.serving import Served, serving
from tests.test_serve import RED, infer_body, ok

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 40\n%%EndComments\nshowpage\n%%EOF\n"
APP = 'from importlib import import_module\napp = import_module("plusx.serve.app")\n'


@pytest.fixture(scope="module")
def server(colours: tuple[Path, Run]) -> Iterator[Served]:
    with serving(colours[1].folder, "--max-request-mib", "16") as served:
        yield served


@pytest.fixture(scope="module")
def card(colours: tuple[Path, Run]) -> Card:
    return open_engine(colours[1].folder, "torch").card


def counted(server: Served, status: int) -> float:
    """Requests that were answered so."""
    _, body, _ = server.ask("GET", "/metrics")
    lines = [line for line in body.decode().splitlines() if f'status="{status}"' in line and "_total{" in line]
    return sum(float(line.split()[-1]) for line in lines)


# what is run


def test_an_uploaded_program_is_not_run(tmp_path: Path, colours: tuple[Path, Run], monkeypatch: Any) -> None:
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho ran >> {tmp_path}/ran\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    (tmp_path / "image.jpg").write_bytes(EPS)
    with pytest.raises(DataError, match="not an image"):
        decode(tmp_path / "image.jpg", 16, 3)
    with serving(colours[1].folder) as served:
        assert served.ask("POST", "/predict", EPS)[0] == 400
        ok(served)
    assert not (tmp_path / "ran").exists()


# memory


def test_a_long_text_among_numbers_costs_nothing(card: Card) -> None:
    body = json.dumps(infer_body(data=["x" * 1_000_000] + [""] * 767)).encode()
    tracemalloc.start()
    with pytest.raises(RefusedError, match="numbers alone"):
        parse(body, None, card, 8, 1e6)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


@pytest.mark.parametrize("data", [[[0.5], ["a"]], [None], [True], [[1, [2]]], [{}], ["1"]])
def test_only_numbers_are_numbers(card: Card, data: list[Any]) -> None:
    with pytest.raises(RefusedError):
        parse(json.dumps(infer_body(data=data)).encode(), None, card, 8, 1e6)


def test_long_json_is_refused_before_it_is_parsed(card: Card) -> None:
    body = b'{"inputs":[' + b"[]," * (LARGEST_JSON // 3) + b"[]]}"
    start = time.perf_counter()
    for header in (None, str(len(body))):
        with pytest.raises(RefusedError) as told:
            parse(body, header, card, 8, 1e6)
        assert told.value.status == 413
    assert time.perf_counter() - start < 0.1


def test_refused_and_broken_uploads_are_not_kept(server: Served) -> None:
    body = b"no image " * 1_600_000
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 16000000\r\n\r\n"

    def some(count: int) -> None:
        for _ in range(count):
            assert server.ask("POST", "/predict", body)[0] == 400
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(head + body[:8_000_000])

    some(2)
    before = server.memory_mib()
    some(12)
    ok(server)
    assert server.memory_mib() - before < 40  # the refused ones are 165 MiB, and the broken ones 92


def test_who_goes_away_is_no_error_of_the_server(server: Served) -> None:
    before = counted(server, 500)
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\nab")
    until = time.monotonic() + 10
    while counted(server, 499) < 5 and time.monotonic() < until:
        time.sleep(0.05)
    assert counted(server, 499) >= 5
    assert counted(server, 500) == before


def test_all_bodies_together_are_bounded_and_given_back(colours: tuple[Path, Run]) -> None:
    with serving(colours[1].folder, code=f"{APP}app.HELD_BYTES = 2 << 20") as served:
        many = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(6)]
        for connection in many:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + bytes(10))
        time.sleep(0.3)
        for connection in many:
            connection.sendall(bytes(999_980))
        time.sleep(0.5)
        for connection in many:
            connection.sendall(bytes(10))
        answers = []
        for connection in many:
            connection.settimeout(20)
            answers.append(connection.recv(4096).split(b" ")[1])
            connection.close()
        assert set(answers) == {b"400", b"503"}
        assert answers.count(b"400") <= 2  # of those that were held whole: zeros are no image
        for _ in range(8):
            ok(served)
        body = bytes(1_500_000)
        assert served.ask("POST", "/predict", body)[0] == 400  # what was held was given back


# time


def test_headers_that_trickle_in_are_not_waited_for(colours: tuple[Path, Run]) -> None:
    code = 'from importlib import import_module\nimport_module("plusx.serve").HEADER_SECONDS = 1'
    with serving(colours[1].folder, code=code) as served:
        start = time.monotonic()
        with socket.create_connection(("127.0.0.1", served.port)) as connection:
            connection.settimeout(5)
            connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: x\r\n")
            with pytest.raises(OSError):  # noqa: PT012
                for number in range(40):
                    connection.sendall(b"X-%d: y\r\n" % number)
                    time.sleep(0.25)
        assert time.monotonic() - start < 5
        patient = http.client.HTTPConnection("127.0.0.1", served.port, timeout=5)  # one that waits between requests
        for _ in range(3):
            patient.request("GET", "/v2")
            assert b"plusx" in patient.getresponse().read()
            time.sleep(0.7)
        patient.close()
        ok(served)


def test_an_engine_that_is_slow_is_not_waited_for(colours: tuple[Path, Run]) -> None:
    code = """
import time
from plusx.engines import Engine
ran = Engine.run
Engine.run = lambda self, inputs: (time.sleep(1.5 * (len(inputs) == 1)), ran(self, inputs))[1]
"""
    with serving(colours[1].folder, "--deadline-ms", "400", "--max-batch", "1", code=code) as served:
        start = time.monotonic()
        status, body, told = served.ask("POST", "/predict", RED)
        assert (status, told["retry-after"]) == (504, "1"), body
        assert time.monotonic() - start < 1.2


# what is said


@pytest.mark.parametrize("top", ["0", "-1", "1.5", "x", "000000001" + "0" * 5000, "99999999", "²"])
def test_wrong_counts(server: Served, top: str) -> None:
    from urllib.parse import quote

    assert server.ask("POST", f"/predict?top={quote(top)}", RED)[0] == 400


def test_packed_bodies_are_named(server: Served, colours: tuple[Path, Run]) -> None:
    name = json.loads(server.ask("POST", "/predict", RED)[1])["model"]
    status, body, _ = server.ask("POST", f"/v2/models/{name}/infer", b"x", {"content-encoding": "gzip"})
    assert (status, b"gzip" in body) == (415, True)


def test_the_token_and_only_it(colours: tuple[Path, Run]) -> None:
    with serving(colours[1].folder, "--token", "secret") as served:
        for given in ("Bearer secre", "Bearer secrets", "Bearer SECRET", "Basic secret", "Bearer  secret", "Bearer "):
            assert served.ask("POST", "/predict", RED, {"authorization": given})[0] == 401, given
        assert served.predict(RED, authorization="bearer secret")["class"] == "red"


def test_the_model_says_how_images_are_prepared(server: Served, card: Card) -> None:
    name = json.loads(server.ask("POST", "/predict", RED)[1])["model"]
    told = json.loads(server.ask("GET", f"/v2/models/{name}")[1])["parameters"]
    assert card.mean != card.std
    assert (tuple(told["mean"]), tuple(told["std"])) == (card.mean, card.std)


def test_an_engine_that_fails_is_told_to_who_runs_the_server(colours: tuple[Path, Run]) -> None:
    code = """
from plusx.engines import Engine
ran = Engine.run
def run(self, inputs):
    if float(inputs.max()) > 900:
        raise RuntimeError("out of order")
    return ran(self, inputs)
Engine.run = run
"""
    with serving(colours[1].folder, code=code) as served:
        name = json.loads(served.ask("POST", "/predict", RED)[1])["model"]
        body = json.dumps(infer_body(data=[1000.0] * 768)).encode()
        status, told, _ = served.ask("POST", f"/v2/models/{name}/infer", body)
        assert (status, b"out of order" in told) == (500, False)
        assert served.process.stderr is not None
        assert served.process.stderr.readline() == "plusx: serve: the engine failed: RuntimeError: out of order\n"


def test_large_uint8_images_are_refused(card: Card) -> None:
    taking = card.replace(takes="uint8 NHWC")
    one = {
        "shape": [1, 1001, 1000, 3],
        "datatype": "UINT8",
        "data": None,
        "parameters": {"binary_data_size": 3_003_000},
    }
    head = json.dumps(infer_body(**one)).encode()
    with pytest.raises(RefusedError) as told:
        parse(head + bytes(3_003_000), str(len(head)), taking, 8, 1e6)
    assert told.value.status == 413
    assert parse(head + bytes(3_003_000), str(len(head)), taking, 8, 1.1e6).inputs.shape == (1, 1001, 1000, 3)


def test_how_far_answers_depend_on_company_is_measured(card: Card) -> None:
    class Company(Engine):
        name = "torch"

        def _run(self, inputs: Array) -> Array:
            return np.full((len(inputs), 3), 0.25 * (len(inputs) > 1), np.float32)

    assert batch_difference(Company(card, 1), 8) == 0.25


def test_a_queue_shorter_than_the_networks_own_batch(colours: tuple[Path, Run], tmp_path: Path) -> None:
    out = export(colours[1].folder, "onnx", output=tmp_path / "many.onnx", batch=20).path
    with pytest.raises(InputError, match="queue 18 is smaller than the 20 images that the network takes at once"):
        serve(out, port=0, queue=18)


# files


def test_what_a_file_cannot_do_is_refused(colours: tuple[Path, Run], tmp_path: Path) -> None:
    out = export(colours[1].folder, "onnx", output=tmp_path / "net.onnx").path
    with pytest.raises(InputError, match="only openvino chooses"):
        open_engine(out, precision="bfloat16")
    with pytest.raises(InputError, match="runs on the CPU, not on cuda"):
        open_engine(out, device="cuda")
    with pytest.raises(InputError, match="onnxruntime and openvino do"):
        open_engine(out, "aoti")
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"\xff" * 100)
    with pytest.raises(WeightsError, match=r"reading .*damaged\.onnx"):
        open_engine(damaged, "openvino")
    gc.collect()


def test_sigterm_takes_away_what_is_half_written(digits_run: Run, tmp_path: Path) -> None:
    words = ["export", str(digits_run.folder), "--to", "openvino", "--output", str(tmp_path / "net.xml")]
    process = subprocess.Popen([sys.executable, "-m", "plusx", *words], stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not list(tmp_path.glob(".net.xml.*")) and time.monotonic() < until:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 143, told
    assert list(tmp_path.iterdir()) == []
    assert "Traceback" not in told
