"""The commands that ship a trained network: export, bench, serve, push. `cli` registers them."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from plusx.cli_common import Json, TrainedRun, given_design, numbers, say, show_report
from plusx.errors import InputError

Source = Annotated[str, Parameter(name="RUN|FILE", show_default=False)]
Threads = Annotated[int | None, Parameter(help="On the CPU; all that torch would take by default.")]


def export(
    run: TrainedRun,
    *,
    to: Literal["onnx", "openvino", "torch-export", "aoti", "triton"],
    output: Annotated[Path | None, Parameter(name=("--output", "-o"))] = None,
    int8: Annotated[bool, Parameter(negative=())] = False,
    calibrate: str | None = None,
    max_drop: float | None = None,
    data: str | None = None,
    dynamic_batch: Annotated[bool, Parameter(negative=())] = False,
    batch: int | None = None,
    input: Annotated[int | None, Parameter(name="--input")] = None,
    preprocessing: Annotated[bool, Parameter(negative=())] = False,
    json: Json = False,
) -> None:
    """Write a trained network for another runtime, and prove on real images that it is still the same network.

    Parameters
    ----------
    to
        The format: ONNX, OpenVINO's .xml and .bin, torch.export's .pt2, AOTInductor's, or a Triton model repository.
    output
        The file to write (for triton the folder); by default model.onnx, model.xml, … in the run folder.
    int8
        With 8-bit weights and activations (onnx, openvino, triton).
    calibrate
        The images int8 is calibrated on: files, folders, or a data set; by default the run's own training images.
    max_drop
        Points of top-1 that int8 may lose, 0.5 by default; blocks go back to floating point until that holds.
    data
        The labelled images on which the export is verified; by default as in evaluate.
    dynamic_batch
        Any number of images at once, instead of --batch.
    batch
        Images at once, 1 by default.
    input
        Height and width of the images in pixels; as trained by default.
    preprocessing
        Take uint8 images, N H W C, of any size: cut, resized and normalised inside.
    """
    from plusx import export as the_export

    found = the_export(
        run,
        to,
        output=output,
        int8=int8,
        calibrate=calibrate,
        max_drop=max_drop,
        data=data,
        dynamic_batch=dynamic_batch,
        batch=batch,
        input=input,
        preprocessing=preprocessing,
    )
    show_report(found, json)


def bench(
    source: Annotated[str, Parameter(name="RUN|FILE|NAME", show_default=False)],
    *,
    engine: Literal["all", "torch", "torch-compiled", "aoti", "onnxruntime", "openvino"] = "all",
    batch: Annotated[tuple[int, ...], Parameter(converter=numbers, n_tokens=1, negative=())] = (1, 16),
    threads: Threads = None,
    input: Annotated[int | None, Parameter(name="--input")] = None,
    seconds: float = 1.5,
    plot: Path | None = None,
    json: Json = False,
) -> None:
    """Time a network on every engine that is installed, and say which one to take.

    Parameters
    ----------
    source
        A run folder, a weights file, an exported file, a design in TOML or JSON, or a published network's name.
    batch
        Images at once: --batch 1,16.
    input
        Height and width of the images in pixels.
    seconds
        Of timed answers per engine and batch.
    plot
        An .svg file to draw the latencies to.
    """
    from plusx import bench as the_bench
    from plusx.artefact import detect_format

    if plot is not None and (plot.suffix.lower() != ".svg" or not plot.parent.is_dir()):
        raise InputError(f"plot {plot}: an .svg file in a folder that is there is needed")
    path = Path(source)
    weights = path.is_dir() or path.suffix == ".safetensors" or detect_format(source) is not None
    given = path if weights else given_design(source)
    found = the_bench(given, engine=engine, batch=batch, threads=threads, input=input, seconds=seconds, say=say)
    show_report(found, json)
    if plot is not None:
        say(f"drew {found.drawing().save(plot)}")


def push(
    run: TrainedRun,
    to: Annotated[str | None, Parameter(name="OWNER/NAME", show_default=False)] = None,
    *,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"))] = None,
    private: Annotated[bool, Parameter(negative=())] = False,
    license: str | None = None,
    json: Json = False,
) -> None:
    """Publish a trained network on the Hugging Face hub, with a card that says what it is, costs and gets right.

    Parameters
    ----------
    to
        Where: owner/name. plusx.load("hf://owner/name") reads it back.
    output
        Write the folder there, and publish nothing.
    private
        Only its owner sees it.
    license
        What the hub calls it, such as mit; the card names none by default.
    """
    from plusx import push as the_push

    show_report(the_push(run, to, output=output, private=private, license=license), json)


def serve(
    source: Source,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    engine: Literal["auto", "torch", "torch-compiled", "aoti", "onnxruntime", "openvino"] = "auto",
    precision: Literal["float32", "bfloat16"] | None = None,
    threads: Threads = None,
    max_batch: int = 16,
    max_delay_ms: float = 2.0,
    queue: int = 64,
    deadline_ms: float = 10_000,
    max_request_mib: float = 32,
    max_megapixels: float = 50,
    token: Annotated[str | None, Parameter(env_var="PLUSX_TOKEN", show_env_var=True)] = None,
) -> None:
    """Answer over HTTP: the Open Inference Protocol v2, POST /predict with an image, and a page at /.

    Parameters
    ----------
    source
        A run folder, a weights file, or an exported file.
    host
        The address to listen on; 0.0.0.0 for all of this machine's.
    port
        0 for any that is free.
    max_batch
        Images that run together, at most.
    max_delay_ms
        How long an image waits for others to run with, at most.
    queue
        Images that wait, at most; more are refused with 503.
    deadline_ms
        Older requests are refused with 504.
    max_request_mib
        Larger requests are refused with 413.
    max_megapixels
        Larger images are refused.
    token
        Required of each request as a bearer token.
    """
    from plusx import serve as the_server

    the_server(
        source,
        host=host,
        port=port,
        engine=engine,
        precision=precision,
        threads=threads,
        max_batch=max_batch,
        max_delay_ms=max_delay_ms,
        queue=queue,
        deadline_ms=deadline_ms,
        max_request_mib=max_request_mib,
        max_megapixels=max_megapixels,
        token=token,
    )
