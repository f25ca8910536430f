"""How fast a network answers on this machine, on every engine that is installed: `bench`.

Each engine runs in a process of its own, which opens the network as `plusx export` writes it, answers, and is timed.
The machine's matrix peak is measured before and after them, so that speeds can be read as shares of what it can do.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
import torch

from plusx import environment, reports
from plusx.artefact import Card, Precision, detect_format
from plusx.checkpoint import Weights, is_plusx_file, read_weights, write_weights
from plusx.cost import cost
from plusx.design import Design
from plusx.engines import EngineName, installed, open_engine
from plusx.errors import InputError, WorkError, check_one_of
from plusx.export import write
from plusx.inference import open_model
from plusx.lowering import card_of
from plusx.network import build
from plusx.peak import Peak, matrix_peak
from plusx.quantise import write_int8
from plusx.reports import Report
from plusx.speed import fast_bfloat16
from plusx.surgery import fold
from plusx.svg import GREY, INK, Canvas, Drawing

if TYPE_CHECKING:
    from rich.console import RenderableType

SECONDS = 1.5
"""Of timed answers per engine and batch."""

PATIENCE_SECONDS = 600
"""How long an engine may take beside that, to open and compile a network, before it counts as stuck."""

_PRECISIONS: dict[EngineName, tuple[Precision, ...]] = {
    "torch": ("float32", "bfloat16"),
    "torch-compiled": ("float32", "bfloat16"),
    "aoti": ("float32",),
    "onnxruntime": ("float32", "int8"),
    "openvino": ("float32", "bfloat16", "int8"),
}
_COLOURS: dict[str, str] = {"float32": "#1f6fb4", "bfloat16": "#d1662a", "int8": "#5b8c3a"}


@dataclass(frozen=True)
class Timing:
    """One engine at one precision and batch. device: "cpu" or "cuda".

    p50_ms, p90_ms, p99_ms: of one call, of `calls`. images_per_s: at the median. memory_mib: what the process grew by
    while it opened the network and answered, on a GPU what torch allocated there. load_s: from opening the file to the
    first answer. disk_mib: of the files that it opens. share_of_peak: of the matrix peak at that precision; None where
    that was not measured.
    """

    engine: str
    precision: str
    batch: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    calls: int
    images_per_s: float
    memory_mib: float
    load_s: float
    disk_mib: float
    share_of_peak: float | None
    device: str = "cpu"

    @property
    def name(self) -> str:
        """The engine, and where it runs if not on the CPU."""
        return self.engine if self.device == "cpu" else f"{self.engine} on {self.device}"


@dataclass(frozen=True)
class Benched(Report):
    """Timings of a network, and what to take. peaks: by device. failed: a line for each engine that did not run."""

    network: str
    input_size: int
    threads: int
    processor: str
    peaks: Mapping[str, Peak]
    rows: tuple[Timing, ...]
    failed: tuple[str, ...]

    @property
    def advice(self) -> str:
        """Which engine to take, and why."""
        return " ".join(_advice(self.rows, batch) for batch in sorted({row.batch for row in self.rows}))

    def to_dict(self) -> dict[str, Any]:
        """Plain data; see the fields."""
        return {
            **{name: getattr(self, name) for name in ("network", "input_size", "threads", "processor")},
            "peak_gmacs_per_s": {device: peak._asdict() for device, peak in self.peaks.items()},
            "rows": [asdict(row) for row in self.rows],
            "advice": self.advice,
            "failed": list(self.failed),
        }

    def __rich__(self) -> "RenderableType":
        from rich.console import Group
        from rich.text import Text

        title = f"{self.network} at {self.input_size}, {self.threads} threads on {self.processor}"
        table = reports.table(title)
        for heading in ("engine", "precision"):
            table.add_column(heading)
        for heading in ("batch", "p50 ms", "p90", "p99", "images/s", "of peak", "load s", "memory MiB", "disk MiB"):
            table.add_column(heading, justify="right")
        for row in sorted(self.rows, key=lambda row: (row.batch, row.p50_ms)):
            share = "·" if row.share_of_peak is None else f"{row.share_of_peak:.2f}"
            times = [f"{value:.2f}" for value in (row.p50_ms, row.p90_ms, row.p99_ms)]
            cells = [
                f"{row.images_per_s:,.0f}",
                share,
                f"{row.load_s:.2f}",
                f"{row.memory_mib:.0f}",
                f"{row.disk_mib:.1f}",
            ]
            table.add_row(row.name, row.precision, str(row.batch), *times, *cells)
        lines = [Text(_peak_line(device, peak)) for device, peak in self.peaks.items()]
        lines.append(Text(self.advice))
        return Group(table, *lines, *(Text(f"did not run: {line}") for line in self.failed))

    def drawing(self) -> Drawing:
        """A bar for each engine, fastest first, per batch."""
        canvas, y = Canvas(), 54.0
        canvas.text((16, 26), f"{self.network} at {self.input_size}: ms an image, median", "title", size=15, bold=True)
        for batch in sorted({row.batch for row in self.rows}):
            rows = sorted((row for row in self.rows if row.batch == batch), key=lambda row: row.p50_ms)
            canvas.text((16, y), f"batch {batch}", "batch", size=12, bold=True)
            y += 10
            for row in rows:
                width = 380 * row.p50_ms / rows[-1].p50_ms
                canvas.box((190, y, width, 16), "bar", fill=_COLOURS[row.precision], radius=2)
                canvas.text((182, y + 12), f"{row.name} {row.precision}", "name", size=12, anchor="end")
                canvas.text((196 + width, y + 12), f"{row.p50_ms / batch:.2f}", "value", size=11, fill=GREY)
                y += 22
            y += 20
        canvas.text((16, y), self.processor, "machine", size=11, fill=INK)
        return canvas.drawing(640, y + 16, f"Latency of {self.network}", self.advice)


def bench(
    source: str | Path | Design | Weights,
    *,
    engine: EngineName | Literal["all"] = "all",
    batch: Sequence[int] = (1, 16),
    threads: int | None = None,
    input: int | None = None,
    seconds: float = SECONDS,
    say: Callable[[str], None] = lambda _: None,
) -> Benched:
    """Latency, throughput, memory, load time and size of a network on the engines that are installed.

    source: a run folder, weights file, exported file, a Design, or a published network's name; the latter two have
    random weights, and int8 is calibrated on noise: speeds do not depend on values. engine: one of them, or all.
    batch: images at once. threads: all that torch would take, by default. say: is given a line before each timing.
    Raises InputError, WeightsError; WorkError where no engine ran.
    """
    check_one_of("engine", engine, ("all", *get_args(EngineName)))
    batches = tuple(batch)
    if not batches or any(type(size) is not int or not 1 <= size <= 4096 for size in batches):
        raise InputError(f"batch {batch!r}: whole numbers from 1 to 4096 are needed")
    threads = torch.get_num_threads() if threads is None else threads
    if type(threads) is not int or threads < 1:
        raise InputError(f"threads {threads!r} is not a whole number of at least 1")
    if not 0 < seconds <= 3600:
        raise InputError(f"seconds {seconds!r} is not from above 0 to 3600")
    if input is not None and (type(input) is not int or not 1 <= input <= 4096):
        raise InputError(f"input {input!r} is not a whole number of pixels from 1 to 4096")
    rows: list[Timing] = []
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="plusx-bench-") as folder:
        card, files = _candidates(source, engine, Path(folder), input, failed)
        macs = cost(card.design, card.input_size).macs
        devices = sorted({each.device for each in files})
        side = 2048 if seconds >= 0.5 else 1024  # who is in a hurry for the one is so for the other
        before = [matrix_peak(threads, side, device) for device in devices]
        fixed = card.batch if isinstance(source, str | Path) else None
        if fixed is not None:
            failed += [f"batch {size}: {source} takes {fixed} at once" for size in batches if size != fixed]
            batches = tuple(size for size in batches if size == fixed)
        for each, size in product(files, batches):
            say(f"timing {each.engine} {each.precision} on the {each.device}, batch {size}")
            found = _measured(each, size, threads, seconds)
            if isinstance(found, str):
                failed.append(f"{each.engine} {each.precision}: {found}")
            else:
                rows.append(_timing(each, size, found))
        after = [matrix_peak(threads, side, device) for device in devices]
    if not rows:
        raise WorkError(f"bench: no engine ran; {failed[0] if failed else 'none is installed'}")
    peaks = {device: Peak(*map(max, *both)) for device, *both in zip(devices, before, after, strict=True)}
    rows = [_against(row, peaks[row.device], macs) for row in rows]
    return Benched(card.name, card.input_size, threads, environment.processor(), peaks, tuple(rows), tuple(failed))


class Candidate(NamedTuple):
    """What is timed: a file on an engine."""

    file: Path
    engine: EngineName
    precision: Precision
    device: str = "cpu"


def _candidates(
    source: str | Path | Design | Weights, engine: str, folder: Path, input: int | None, failed: list[str]
) -> tuple[Card, list[Candidate]]:
    """The card, and every file to time with its engine and precision; a line in `failed` for what cannot be written."""
    if (
        isinstance(source, str | Path)
        and not is_plusx_file(source)
        and (kind := detect_format(str(source))) is not None
    ):
        if input is not None:
            raise InputError(f"input: {source} takes images of its own size")
        opened = open_engine(source)
        names: dict[str, tuple[EngineName, ...]] = {
            "onnx": ("onnxruntime", "openvino"),
            "openvino": ("openvino",),
            "torch-export": ("torch",),
            "aoti": ("aoti",),
        }
        wanted = [name for name in names[kind] if engine in ("all", name) and installed(name)]
        if not wanted:
            raise InputError(f"{source}: engine {engine} does not run this; {' and '.join(names[kind])} can")
        return opened.card, [Candidate(Path(source), name, opened.card.precision) for name in wanted]
    weights = _weights(source, input)
    model = open_model(weights, "cpu")
    weights_file = write_weights(folder / "model.safetensors", weights)
    card, net = card_of(model), fold(model.net)
    found: list[Candidate] = []
    for name, precision in _wanted(engine):
        if name.startswith("torch"):
            devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
            found += [Candidate(weights_file, name, precision, device) for device in devices]
            continue
        try:
            found.append(Candidate(_written(net, card, name, precision, folder), name, precision))
        except Exception as problem:  # each engine's writer fails in its own way, and the others still count
            failed.append(f"{name} {precision}: {' '.join(str(problem).split())[:160]}")
    return card, found


def _wanted(engine: str) -> Iterator[tuple[EngineName, Precision]]:
    for name, precisions in _PRECISIONS.items():
        if engine not in ("all", name):
            continue
        if not installed(name, from_run=True):
            if engine == name:
                raise InputError(f"engine {name} is not installed; pip install 'plusx[export]' brings it")
            continue
        for precision in precisions:
            if precision != "bfloat16" or fast_bfloat16(torch.device("cpu")):
                yield name, precision


def _written(net: torch.nn.Module, card: Card, name: EngineName, precision: Precision, folder: Path) -> Path:
    kind: Any = {"onnxruntime": "onnx", "openvino": "openvino", "aoti": "aoti"}[name]
    suffix = {"onnx": ".onnx", "openvino": ".xml", "aoti": ".aoti.pt2"}[kind]
    file = folder / ("int8" if precision == "int8" else "model")
    file = file.with_name(file.name + suffix)
    if precision == "int8":
        noise = np.random.default_rng(0).integers(
            0, 256, (16, card.channels, card.input_size, card.input_size), np.uint8
        )
        write_int8(net, card.replace(precision="int8"), kind, torch.from_numpy(noise), file)
    elif not file.exists():
        write(net, card, kind, file)
    return file


def _weights(source: str | Path | Design | Weights, input: int | None) -> Weights:
    from plusx import families

    if isinstance(source, str) and source in families.FAMILIES:
        source = families.design(source)
    if isinstance(source, str | Path) and str(source).endswith((".toml", ".json")):
        source = Design.read(source)
    if isinstance(source, Design):
        size = input or (32 if source.stem.kind == "small" else 224)
        channels = source.stem.in_channels
        tensors = dict(build(source, seed=0).state_dict())
        return Weights(source, tensors, (), size, (0.45,) * channels, (0.25,) * channels)
    weights = source if isinstance(source, Weights) else read_weights(source)
    return weights if input is None else replace(weights, input_size=input)


class _Found(NamedTuple):
    """Of one engine, precision and batch: seconds of each call, of opening it, and MiB that it took."""

    times: list[float]
    load_s: float
    memory_mib: float


def _measured(each: Candidate, batch: int, threads: int, seconds: float) -> "_Found | str":
    """What `_measure` found in a process of its own, or why it found nothing."""
    context = _context()
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(there, each, batch, threads, seconds))
    process.start()
    there.close()
    try:
        limit = 2 * seconds + PATIENCE_SECONDS
        found: _Found | str = here.recv() if here.poll(limit) else f"no answer within {limit:.0f} s"
    except EOFError:
        process.join()
        found = f"its process ended with code {process.exitcode}"
    finally:
        here.close()
        process.join(1)
        process.kill()
        process.join()
    return found


def _context() -> Any:
    """How processes are begun: forked from one that has imported what they need and run nothing, where that can be."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _measure(told: Any, each: Candidate, batch: int, threads: int, seconds: float) -> None:
    try:
        torch.set_num_threads(threads)
        before = _memory()
        start = time.perf_counter()
        precision = None if each.precision == "int8" else each.precision
        device = each.device if each.engine.startswith("torch") and each.device != "cpu" else None
        engine = open_engine(each.file, each.engine, precision=precision, threads=threads, device=device)
        shape = (batch, engine.card.channels, engine.card.input_size, engine.card.input_size)
        inputs = engine.prepare(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
        engine.run(inputs)
        load_s = time.perf_counter() - start
        times = _times(lambda: engine.run(inputs), seconds)
        memory = torch.cuda.max_memory_allocated() / 2**20 if each.device == "cuda" else _memory() - before
        told.send(_Found(times, load_s, memory))
    except Exception as problem:
        told.send(" ".join(f"{type(problem).__name__}: {problem}".split())[:200])
    finally:
        told.close()


def _times(call: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of each call, after a tenth of the time that does not count."""
    found: list[float] = []
    start = time.perf_counter()
    while True:
        begin = time.perf_counter()
        call()
        end = time.perf_counter()
        if end - start > 0.1 * seconds:
            found.append(end - begin)
        if len(found) >= 5 and end - start > 1.1 * seconds:
            return found


def _memory() -> float:
    """The most memory that this process ever held, in MiB; 0 where the system does not tell."""
    status = Path("/proc/self/status")  # not getrusage: that goes on counting from the process that started this one
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def _timing(each: Candidate, batch: int, found: _Found) -> Timing:
    p50, p90, p99 = (1000 * float(value) for value in np.percentile(found.times, (50, 90, 99)))
    files = [each.file, each.file.with_suffix(".bin")] if each.file.suffix == ".xml" else [each.file]
    return Timing(
        engine=each.engine,
        precision=each.precision,
        batch=batch,
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        calls=len(found.times),
        images_per_s=1000 * batch / p50,
        memory_mib=found.memory_mib,
        load_s=found.load_s,
        disk_mib=sum(os.path.getsize(file) for file in files) / 2**20,
        share_of_peak=None,
        device=each.device,
    )


def _against(row: Timing, peak: Peak, macs: int) -> Timing:
    most = getattr(peak, row.precision)
    return replace(row, share_of_peak=macs * row.images_per_s / 1e9 / most if most else None)


def _peak_line(device: str, peak: Peak) -> str:
    speeds = ", ".join(f"{name} {value:,.0f}" for name, value in peak._asdict().items() if value)
    return f"matrix peak of the {device}, in billions of multiply-adds a second: {speeds}"


def _advice(rows: Sequence[Timing], batch: int) -> str:
    ranked = sorted((row for row in rows if row.batch == batch), key=lambda row: row.p50_ms)
    exact = [row for row in ranked if row.precision == "float32"]
    best = ranked[0]
    text = f"Batch {batch}: {best.name} {best.precision} is the fastest, {best.p50_ms:.2f} ms"
    if best.precision == "float32" or not exact:
        return f"{text}."
    gain = exact[0].p50_ms / best.p50_ms
    check = "check its accuracy with plusx export --int8" if best.precision == "int8" else "check its accuracy"
    return (
        f"{text}, {gain:.1f} times as fast as {exact[0].name}, the fastest in float32 ({exact[0].p50_ms:.2f} ms); "
        f"{check}, or take the latter for the network's own answers."
    )
