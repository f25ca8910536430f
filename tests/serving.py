"""Servers for tests: in this process without a network, and as a process of their own on a free port."""

import http.client
import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Served:
    """A server's process and address."""

    process: "subprocess.Popen[str]"
    port: int

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}
        finally:
            connection.close()

    def predict(self, image: bytes, **headers: str) -> dict[str, Any]:
        status, body, _ = self.ask("POST", "/predict", image, headers)
        assert status == 200, body
        found: dict[str, Any] = json.loads(body)
        return found

    def memory_mib(self) -> float:
        """What the process holds now."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
        raise AssertionError("no VmRSS")


@contextmanager
def serving(source: str | Path, *options: str, code: str = "") -> Iterator[Served]:
    """`plusx serve` on a free port until the block ends. code: Python that runs first in its process."""
    heard = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)"  # which a shell's "&" ignores
    start = f"{heard}\n{code}\nimport sys\nfrom plusx.cli import main\nsys.exit(main(['serve', *sys.argv[1:]]))"
    words = [sys.executable, "-c", start, str(source), "--port", "0", *options]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "plusx: serving" in line, line + process.stderr.read()
        yield Served(process, int(line.split("http://127.0.0.1:")[1].split()[0]))
    finally:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


def ask_in_a_loop(port: int, name: str, shape: list[int], clients: int, seconds: float) -> dict[str, Any]:
    """Inference requests by some clients, each with a connection that it keeps.

    Gives the seconds of each that was answered, how many were refused with 503 or 504, and how long it took.
    """
    size = 4 * math.prod(shape)
    one = {"name": "images", "shape": shape, "datatype": "FP32", "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [one], "parameters": {"binary_data_output": True}}).encode()
    body, headers = head + bytes(size), {"Inference-Header-Content-Length": str(len(head))}
    times: list[float] = []
    refused: list[int] = []
    odd: list[str] = []
    until = time.monotonic() + seconds

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while time.monotonic() < until and not odd:
            start = time.monotonic()
            connection.request("POST", f"/v2/models/{name}/infer", body, headers)
            answer = connection.getresponse()
            content = answer.read()
            if answer.status == 200:
                times.append(time.monotonic() - start)
            elif answer.status in (503, 504) and int(answer.headers["retry-after"]) >= 1:
                refused.append(answer.status)
            else:
                odd.append(f"{answer.status}: {content[:200]!r}")
        connection.close()

    start = time.monotonic()
    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not odd, odd[0]
    return {"seconds": times, "refused": len(refused), "during": time.monotonic() - start}
