"""The command line: one thin command per verb. Arguments in, one public function called, its result printed.

Results go to standard output (`--json`: exactly one JSON object), progress and errors to standard error.
Exit codes: 0 done, 1 the work failed, 2 the arguments or the input are wrong, 130 interrupted, 143 terminated.
Each verb is imported when its command runs, so that `plusx --help` is quick.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from cyclopts import App, CycloptsError, Parameter, Token

from plusx import __version__, cli_ship, cli_study
from plusx.cli_common import (
    Designs,
    Detail,
    Device,
    Ema,
    ImageSize,
    Input,
    Json,
    OnBadImage,
    OneDesign,
    TrainedRun,
    given_design,
    given_size,
    numbers,
    print_json,
    say,
    show_report,
)
from plusx.errors import InputError, PlusxError
from plusx.interrupts import ending_on_sigterm, exiting

if TYPE_CHECKING:
    from plusx.dialects.infer import Hints as TensorHints

app = App(
    name="plusx",
    help="Residual networks, y = act(F(x) + x): design one, know its cost, train it, trust it, ship it.",
    version=__version__,
    suppress_keyboard_interrupt=False,
    help_epilogue="NAME is a published network (`plusx list`), FILE a design in TOML or JSON, or a run folder.",
)


def _floats(_: Any, tokens: Sequence[Token]) -> tuple[float, ...]:
    try:
        return tuple(map(float, tokens[0].value.split(",")))
    except ValueError:
        text = f"{tokens[0].value!r} is not numbers with commas between them, such as 0.485,0.456,0.406"
        raise ValueError(text) from None


def _no_option(_: Any, image: str) -> None:
    if image.startswith("-") and image != "-":
        raise ValueError(f"{image} is not an option (an image of that name: ./{image})")


Images = Annotated[str, Parameter(allow_leading_hyphen=True, validator=_no_option)]
"""Images may be "-", which is not to be taken for an option."""

Floats = Annotated[tuple[float, ...] | None, Parameter(converter=_floats, n_tokens=1, negative=())]


@dataclass(frozen=True)
class Hints:
    """What tensors cannot tell."""

    stride_on: Literal["1x1", "3x3"] | None = None
    """The convolution of a bottleneck that subsamples: 1x1 (the paper) or 3x3 (v1.5)."""
    shortcut: Literal["identity", "A", "A-centred", "B", "C", "D"] | None = None
    """What x passes on its way to the addition, where shapes change."""
    order: Literal["original", "bn_after_add", "relu_before_add", "relu_preact", "full_preact"] | None = None
    """The order of operations in a block."""
    skip: bool | None = None
    """--no-skip: the plain twin, without additions."""
    strides: Annotated[tuple[int, ...] | None, Parameter(converter=numbers, n_tokens=1, negative=())] = None
    """Of each stage's first block: --strides 1,2,2,2."""
    output_stride: int | None = None
    """Input pixels per pixel of the last stage, where strides gave way to dilation."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command and give its exit code."""
    return exiting(_main(arguments))


def _main(arguments: list[str] | None) -> int:
    try:
        with ending_on_sigterm():
            app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except CycloptsError as problem:
        return _fail(str(problem), 2)
    except InputError as problem:
        return _fail(str(problem), 2)
    except PlusxError as problem:
        return _fail(str(problem), 1)
    except KeyboardInterrupt as problem:
        return _fail("interrupted", 128 + getattr(problem, "signum", 2))  # 143 where SIGTERM asked
    except BrokenPipeError:  # the reader went away: `plusx list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as problem:
        return _fail(str(problem), 1)
    except (MemoryError, RuntimeError) as problem:  # torch has no MemoryError of its own on the CPU
        if isinstance(problem, RuntimeError) and "allocate memory" not in str(problem):
            raise
        return _fail("there is not enough memory for this", 1)
    return 0


@app.command(name="list")
def list_(pattern: str = "*", *, json: Json = False) -> None:
    """List the published networks, each with its params, its macs at its usual input size, and its paper.

    Parameters
    ----------
    pattern
        Part of a name, or a shell pattern such as 'cifar*'.
    """
    from plusx import cost as the_cost
    from plusx import families
    from plusx.notation import count

    found = {name: (the_cost(name), families.citation(name)) for name in families.names(pattern)}
    if not found:
        raise InputError(f"no published network matches {pattern!r} (plusx list shows all)")
    if json:
        rows = [
            {"name": name, "params": cost.params, "macs": cost.macs, "input": list(cost.input), "family": family}
            for name, (cost, family) in found.items()
        ]
        print_json({"designs": rows})
        return
    width = max(map(len, found))
    for name, (cost, family) in found.items():
        print(f"{name:<{width}}  {count(cost.params):>6} params  {count(cost.macs):>6} macs  {family}")


@app.command
def cost(
    *designs: Designs,
    input: ImageSize = None,
    batch: int = 1,
    detail: Detail = "stage",
    explain: bool = False,
    devices: int | None = None,
    bandwidth: str | None = None,
    per_machine: int | None = None,
    macs_per_second: float | None = None,
    json: Json = False,
) -> None:
    """Say what networks cost: params, macs, activations, memory, receptive field.

    Parameters
    ----------
    designs
        One or more networks; several make a side-by-side table.
    batch
        Images at once, for memory and arithmetic intensity.
    detail
        Rows of the table: a stage, a block or a layer each.
    explain
        Reconcile the numbers people argue about, for one network.
    devices
        Model training on so many devices, --batch images on each (32 unless given), for one network.
    bandwidth
        Between two machines, in bits per second: 100Gb.
    per_machine
        Devices in a machine.
    macs_per_second
        Multiply-adds that one device sustains in training; a V100's by default.
    """
    from plusx import cost as the_cost
    from plusx.conventions import explain as the_explanation
    from plusx.cost import costs

    if not designs:
        raise InputError("cost: name at least one network (plusx list shows the published ones)")
    found, size = [given_design(name) for name in designs], given_size(input)
    scaling = {"bandwidth": bandwidth, "per_machine": per_machine, "macs_per_second": macs_per_second}
    given = {name: value for name, value in scaling.items() if value is not None}
    if devices is None and given:
        raise InputError(f"cost: --{next(iter(given)).replace('_', '-')} is of no use without --devices")
    if devices is not None:
        from plusx.scale import scale

        if len(found) > 1 or explain:
            raise InputError("cost: --devices takes one network, and nothing to explain")
        show_report(scale(found[0], size, devices=devices, batch=32 if batch == 1 else batch, **given), json)  # type: ignore[arg-type]
    elif explain:
        if len(found) > 1:
            raise InputError(f"cost: --explain takes one network, found {len(found)}")
        show_report(the_explanation(found[0], size), json)
    elif len(found) == 1:
        show_report(the_cost(found[0], size, batch=batch, detail=detail), json)
    else:
        show_report(costs(found, size, batch=batch), json)


@app.command
def compare(
    first: str = "building", second: str = "bottleneck", *, width: int = 256, input: Input = "14", json: Json = False
) -> None:
    """Set two kinds of block side by side: at equal width, at equal macs and at equal params.

    Parameters
    ----------
    first
        building or bottleneck.
    second
        The other.
    width
        Channels of the first block.
    input
        Height and width of its feature map in pixels, 14 or 14x10.
    """
    from plusx import compare as the_comparison

    show_report(the_comparison(first, second, width=width, input=given_size(input) or 14), json)


@app.command
def show(design: OneDesign, *, input: ImageSize = None, detail: Detail = "layer", json: Json = False) -> None:
    """Print a network as a tree, with shapes and costs.

    Parameters
    ----------
    design
        The network.
    detail
        Where the tree ends: at stages, blocks or layers.
    """
    from plusx import show as the_tree

    show_report(the_tree(given_design(design), given_size(input), detail=detail), json)


@app.command
def draw(
    design: OneDesign,
    *,
    output: Annotated[str, Parameter(name=("--output", "-o"))],
    input: ImageSize = None,
    block: bool = False,
    at: str | None = None,
) -> None:
    """Draw a network, or one of its blocks, as an SVG file.

    Parameters
    ----------
    design
        The network.
    output
        The .svg file to write; an SVG that is there is replaced, nothing else is.
    block
        Draw the block instead, as the paper's Figures 2 and 5 do.
    at
        Which block: 1.0 is the first of the second stage.
    """
    from plusx import draw as the_drawing

    picture = the_drawing(given_design(design), given_size(input), block=at or block)
    print(picture.save(output))


@app.command
def identify(
    file: Path,
    *,
    ema: Ema = True,
    hints: Annotated[Hints | None, Parameter(name="*")] = None,
    json: Json = False,
) -> None:
    """Say what network a weights file holds, and what its tensors cannot tell.

    Parameters
    ----------
    file
        A .safetensors or .pth file, a run folder, or a folder of transformers or timm.
    """
    from plusx import identify as the_identification

    show_report(the_identification(file, ema=ema, **_given(hints)), json)


@app.command
def convert(
    source: Path,
    target: Path,
    *,
    to: str = "plusx",
    design: str | None = None,
    overwrite: bool = False,
    ema: Ema = True,
    classes: Path | None = None,
    input_size: int | None = None,
    mean: Floats = None,
    std: Floats = None,
    hints: Annotated[Hints | None, Parameter(name="*")] = None,
    json: Json = False,
) -> None:
    """Write a weights file anew in another dialect. Name its classes and how images are prepared, to predict with it.

    Parameters
    ----------
    source
        What identify reads.
    target
        A .safetensors or .pth file; for transformers also a folder.
    to
        plusx, torchvision, timm, transformers, akamaster, chenyaofo or kuangliu.
    design
        Insist that the file holds this network.
    overwrite
        Replace a target that exists.
    classes
        A file with the name of one class per line, in the order of the logits.
    input_size
        Height and width of the images it takes, in pixels.
    mean
        What is subtracted from each channel of pixel values from 0 to 1: 0.485,0.456,0.406.
    std
        What each channel is divided by then: 0.229,0.224,0.225.
    """
    from plusx import convert as the_conversion

    insisted = None if design is None else given_design(design)
    done = the_conversion(
        source,
        target,
        to=to,  # type: ignore[arg-type]
        design=insisted,
        overwrite=overwrite,
        ema=ema,
        classes=classes,
        input_size=input_size,
        mean=mean,
        std=std,
        **_given(hints),
    )
    show_report(done, json)


@app.command
def train(
    data: str | None = None,
    *,
    design: str | None = None,
    recipe: str | None = None,
    set: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = (),
    epochs: int | None = None,
    weights: Path | None = None,
    out: Path | None = None,
    resume: Path | None = None,
    seed: int | None = None,
    device: Device = None,
    workers: int = 0,
    on_bad_image: OnBadImage = "fail",
    checkpoint_minutes: float = 10.0,
    keep_every: int | None = None,
    tensorboard: Annotated[bool, Parameter(negative=())] = False,
    json: Json = False,
) -> None:
    """Train a network on labelled images; leaves a run folder. Several processes: torchrun … -m plusx train ….

    Parameters
    ----------
    data
        digits (the default), fashion-mnist[:DIR], cifar10[:DIR], or a folder of class folders.
    design
        The network; by default one that suits the images.
    recipe
        A preset's name or a TOML file; by default one that suits the data.
    set
        Change a field of the recipe, such as optimizer.lr=0.05; may be given again.
    epochs
        Passes over the images, instead of the recipe's.
    seed
        Of weights, order and changes, instead of the recipe's.
    weights
        A weights file of any dialect to start from; the recipe is then finetune by default.
    out
        A folder that is new or empty; by default runs/DATA-DESIGN-N.
    resume
        The folder of a run that was stopped: go on with it, to the same weights.
    workers
        Processes that decode images, where the set is too large to be kept decoded.
    checkpoint_minutes
        How often the state is saved, beside the end of each epoch.
    keep_every
        Also keep the weights after every so many epochs, in RUN/epochs.
    tensorboard
        Write each epoch to RUN/tensorboard too; an extra.
    """
    from plusx import train as the_training

    run = the_training(
        data,
        design=None if design is None else given_design(design),
        recipe=recipe,
        set=set,
        epochs=epochs,
        weights=weights,
        out=out,
        resume=resume,
        seed=seed,
        device=device,
        workers=workers,
        on_bad_image=on_bad_image,
        checkpoint_minutes=checkpoint_minutes,
        keep_every=keep_every,
        tensorboard=tensorboard,
    )
    if os.environ.get("RANK", "0") == "0":
        show_report(run, json)


@app.command
def evaluate(
    run: TrainedRun,
    data: str | None = None,
    *,
    tta: Literal["none", "flip", "ten-crop"] = "none",
    on_bad_image: OnBadImage = "fail",
    device: Device = None,
    json: Json = False,
) -> None:
    """Measure a trained network: top-1 and top-5 accuracy, per class, the confusion of classes, and calibration.

    Parameters
    ----------
    data
        As in train; by default what the run held out, or test/ where it held out val/.
    tta
        Average over views of each image: it and its mirror image, or five crops and theirs.
    """
    from plusx import evaluate as the_evaluation

    found = the_evaluation(run, data, tta=tta, on_bad_image=on_bad_image, device=device)
    _say_skipped(found.skipped, found.images)
    show_report(found, json)


@app.command
def predict(
    run: TrainedRun,
    *images: Images,
    from_: Annotated[str | None, Parameter(name="--from", allow_leading_hyphen=True)] = None,
    top: int = 1,
    on_bad_image: OnBadImage = "fail",
    device: Device = None,
    json: Json = False,
) -> None:
    """Name what images show.

    Parameters
    ----------
    images
        Image files of any mode, folders of them, quoted patterns such as 'photos/**/*.jpg', or - for an image's bytes
        on standard input.
    from_
        A file that lists them, one a line, or - for such a list on standard input: find … | plusx predict RUN --from -
    top
        How many of the likeliest classes to name.
    """
    from plusx import predict as the_prediction
    from plusx.pictures import read_list

    chosen = (*images, *(() if from_ is None else read_list(from_)))
    found = the_prediction(run, chosen, top=top, on_bad_image=on_bad_image, device=device)
    _say_skipped([bad.reason for bad in found.skipped], len(found.images))
    show_report(found, json)


@app.command
def report(run: Path, *, device: Device = None, json: Json = False) -> None:
    """Write RUN/report.html: one page with the design, its cost, curves, confusion, calibration and the worst mistakes.

    Parameters
    ----------
    run
        A run folder.
    """
    from plusx import report as the_report

    show_report(the_report(run, device=device), json)


@app.command
def explain(
    run: TrainedRun,
    image: Images,
    *,
    output: Annotated[str, Parameter(name=("--output", "-o"))],
    method: Literal["gradcam", "ig"] = "gradcam",
    class_name: Annotated[str | None, Parameter(name="--class")] = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Write a picture of what speaks for a class: the image beside itself with the parts that mattered laid over it.

    Parameters
    ----------
    image
        An image file, or - for its bytes on standard input.
    output
        The .png file to write; an explanation that is there is replaced, nothing else is.
    method
        Grad-CAM, which tells where, or integrated gradients, which tell which pixels.
    class_name
        The class to explain; by default the one that the network names.
    """
    from plusx import explain as the_explanation

    show_report(the_explanation(run, image, output=output, method=method, class_name=class_name, device=device), json)


@app.command
def runs(*folders: Path, json: Json = False) -> None:
    """List the runs in a folder, or set several runs side by side with the fields of recipe and design that differ.

    Parameters
    ----------
    folders
        One folder to look in, by default runs; or two or more runs to compare.
    """
    from plusx import runs as the_runs

    show_report(the_runs(*folders), json)


def _given(hints: Hints | None) -> "TensorHints":
    return cast("TensorHints", {} if hints is None else asdict(hints))


def _fail(message: str, code: int) -> int:
    say(message)
    return code


def _say_skipped(reasons: Sequence[str], left: int) -> None:
    for reason in reasons:
        say(f"skipped: {reason}")
    if reasons:
        say(f"{len(reasons):,} of {len(reasons) + left:,} images skipped")


for _command in (cli_ship.export, cli_ship.bench, cli_ship.serve, cli_ship.push, cli_study.study):
    app.command(_command)
