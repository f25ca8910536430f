"""A network in the formats that other runtimes read, in memory: torch.export's program, ONNX, OpenVINO.

Each carries its card (`plusx.artefact`). `export` writes them, `engines` runs them.
"""

import ast
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from plusx import __version__
from plusx.artefact import INPUT, KEY, OUTPUT, Card
from plusx.inference import Model

OPSET = 20
"""Of the ONNX that is written: the newest that onnxruntime, OpenVINO and Triton releases of 2024 on read."""

LARGEST_BATCH = 4096


def openvino() -> Any:
    """The package, which from now on tells nobody that it, or NNCF, was used: both would, unless somebody said no."""
    with suppress(ImportError):
        from openvino_telemetry.utils.opt_in_checker import ConsentCheckResult, OptInChecker

        OptInChecker.check = lambda *_, **__: ConsentCheckResult.DECLINED
    import openvino

    return openvino


def card_of(model: Model) -> Card:
    """The card of a run's network: float32, any batch."""
    weights = model.weights
    return Card(
        name=weights.design.name or "network",
        design=weights.design,
        classes=weights.classes,
        input_size=model.size,
        channels=model.channels,
        mean=weights.mean,
        std=weights.std,
        versions={"plusx": __version__, "torch": str(torch.__version__)},
    )


class Prepared(nn.Module):
    """uint8 N H W C, of any size → logits: the images are cut square at the centre, resized, normalised, and judged."""

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, card: Card) -> None:
        super().__init__()
        self.net, self.size = net, card.input_size
        self.register_buffer("mean", torch.tensor(card.mean).view(1, -1, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(card.std).view(1, -1, 1, 1) * 255)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[1], images.shape[2]
        side = torch.sym_min(height, width)  # type: ignore[no-untyped-call]
        top, left = (height - side) // 2, (width - side) // 2
        within = torch.arange(side)  # by index: a slice would be exported with a guard on which side is shorter
        square = images.index_select(1, top + within).index_select(2, left + within)
        pixels = square.permute(0, 3, 1, 2).float()
        pixels = nn.functional.interpolate(pixels, (self.size, self.size), mode="bilinear", antialias=True)
        logits: Tensor = self.net((pixels - self.mean) / self.std)
        return logits


def example(card: Card, batch: int) -> Tensor:
    """An input of the right shape and kind."""
    size = card.input_size
    if card.takes == "uint8 NHWC":
        return torch.zeros(batch, size + 3, size + 5, card.channels, dtype=torch.uint8)
    return torch.zeros(batch, card.channels, size, size)


def program(net: nn.Module, card: Card) -> ExportedProgram:
    """torch.export's program of a folded network on the CPU. `card.batch`: None for any number of images."""
    net = Prepared(net, card) if card.takes == "uint8 NHWC" else net
    dims: dict[int, Any] = {}
    if card.batch is None:
        dims[0] = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    if card.takes == "uint8 NHWC":
        dims |= {1: torch.export.Dim("height", min=2, max=2**14), 2: torch.export.Dim("width", min=2, max=2**14)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(net, (example(card, card.batch or 2),), dynamic_shapes=(dims,) if dims else None)


@contextmanager
def without_warnings(logger: str | None = None) -> Iterator[None]:
    """Without what a library warns of by way of a logger, or of the root one, which is the caller's."""
    told = logging.getLogger(logger)
    level = told.level
    told.setLevel(logging.ERROR)
    try:
        yield
    finally:
        told.setLevel(level)


def lower_onnx(net: nn.Module, card: Card) -> Any:
    """An onnx.ModelProto. Raises nothing of its own."""
    with warnings.catch_warnings(), without_warnings("torch.onnx"):  # such as that there is no torchvision
        warnings.simplefilter("ignore")
        lowered = torch.onnx.export(
            program(net, card),
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert lowered is not None
    proto = lowered.model_proto
    for key, value in metadata(card).items():
        proto.metadata_props.add(key=key, value=value)
    return proto


def lower_openvino(net: nn.Module, card: Card) -> Any:
    """An openvino.Model."""
    ov = openvino()
    plain = card.replace(takes="float32 NCHW")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = ov.convert_model(program(net, plain))
    model.reshape({0: ov.PartialShape([card.batch or -1, card.channels, card.input_size, card.input_size])})
    return described(with_preparation(model, card), card)


def with_preparation(model: Any, card: Card) -> Any:
    """An openvino.Model that takes what its card says, from one that takes float32 N C H W.

    As `Prepared`. OpenVINO reads no antialiased resizing from ONNX or torch, but has Pillow's own.
    """
    if card.takes == "float32 NCHW":
        return model
    ov = openvino()
    op = ov.opset13

    images = op.parameter(ov.PartialShape([card.batch or -1, -1, -1, card.channels]), ov.Type.u8)
    sides = op.gather(op.shape_of(images, "i64"), [1, 2], 0)
    side = op.reduce_min(sides, 0, keep_dims=True)
    start = op.divide(op.subtract(sides, side), ov.op.Constant(ov.Type.i64, ov.Shape([1]), [2]))
    square = op.slice(images, start, op.add(start, side), [1, 1], [1, 2])
    pixels = op.convert(op.transpose(square, [0, 3, 1, 2]), "f32")
    resized = op.interpolate(
        pixels, [card.input_size] * 2, "bilinear_pillow", "sizes", axes=[2, 3], pads_begin=[0], pads_end=[0]
    )
    mean, std = (255 * np.array(values, np.float32).reshape(1, -1, 1, 1) for values in (card.mean, card.std))
    ready = op.divide(op.subtract(resized, mean), std)
    (old,) = model.get_parameters()
    for user in old.output(0).get_target_inputs():
        user.replace_source_output(ready.output(0))
    return ov.Model(model.get_results(), [images], card.name)


def described(model: Any, card: Card) -> Any:
    """An openvino.Model with the names of its ends and its card."""
    model.inputs[0].get_tensor().set_names({INPUT})
    model.outputs[0].get_tensor().set_names({OUTPUT})
    for key, value in metadata(card).items():
        model.set_rt_info(value, [key])
    return model


def scopes(model: Any) -> dict[str, str]:
    """Of an onnx.ModelProto that `lower_onnx` made: each node's name → the name of the module that it is in."""
    found = {}
    for node in model.graph.node:
        held = {entry.key: entry.value for entry in node.metadata_props}
        path = [part for part in ast.literal_eval(held.get("pkg.torch.onnx.name_scopes", "[]")) if part]
        found[node.name] = max((part for part in path if "." in part), key=len, default="").removeprefix("net.")
    return found


def metadata(card: Card) -> dict[str, str]:
    """What a file's own metadata holds: the whole card, and apart what a reader without plusx looks for."""
    return {
        KEY: card.model_dump_json(),
        "classes": "\n".join(card.classes),
        "mean": ",".join(map(repr, card.mean)),
        "std": ",".join(map(repr, card.std)),
        "input_size": str(card.input_size),
    }
