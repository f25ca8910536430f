"""int8: weights and activations of convolutions and linear layers in eight bits, calibrated on real images.

OpenVINO's models go through NNCF on its OpenVINO backend, ONNX's through onnxruntime's static quantisation. Where more
accuracy is lost than allowed, blocks go back to floating point one at a time, those first whose return alone brings
the logits nearest to the network's.
"""

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from plusx.artefact import INPUT, Card, Format
from plusx.engines import Array, Engine, open_engine, prepared
from plusx.errors import WorkError
from plusx.inference import Model, at_once, judge
from plusx.lowering import described, lower_onnx, metadata, openvino, scopes, with_preparation, without_warnings
from plusx.samples import Samples

RANKED_ON = 32
"""Images by which blocks are ranked."""


@dataclass(frozen=True)
class Quantised:
    """What eight bits cost: top-1 accuracy in percent, of the network and of the export, over `images`.

    kept_float: the parts that stayed in floating point, as the network's modules are named; tries: how often it was
    quantised and judged. calibrated_on: images.
    """

    accuracy_percent: float
    int8_accuracy_percent: float
    images: int
    kept_float: tuple[str, ...]
    tries: int
    calibrated_on: int

    @property
    def drop(self) -> float:
        """Points of top-1 that were lost."""
        return self.accuracy_percent - self.int8_accuracy_percent

    def to_dict(self) -> dict[str, Any]:
        """Plain data; see the fields."""
        return {
            "accuracy_percent": self.accuracy_percent,
            "int8_accuracy_percent": self.int8_accuracy_percent,
            "drop_points": self.drop,
            "images": self.images,
            "kept_float": list(self.kept_float),
            "tries": self.tries,
            "calibrated_on": self.calibrated_on,
        }

    def __str__(self) -> str:
        kept = f"; in floating point: {', '.join(self.kept_float)}" if self.kept_float else ""
        return (
            f"top-1 {self.int8_accuracy_percent:.2f} %, the network's {self.accuracy_percent:.2f} % "
            f"({self.images:,} images), calibrated on {self.calibrated_on}{kept}"
        )


def quantise(
    model: Model, folded: nn.Module, card: Card, kind: Format, samples: Samples, file: Path, max_drop: float
) -> Quantised:
    """Write an int8 export of a folded network to `file`, and say what it costs. Raises WorkError for too much."""
    plain = card if kind == "onnx" else card.replace(takes="float32 NCHW")
    proto = lower_onnx(folded, plain)
    names = scopes(proto)
    groups = {group: [node for node, scope in names.items() if _group(scope) == group] for group in _groups(names)}
    inputs = prepared(samples.calibration.numpy(), plain)
    own = judge(model.net, samples.loader, card.mean, card.std).accuracy_percent
    kept: list[str] = []
    order: list[str] | None = None
    tries = 0
    best = -1.0
    while True:
        _write(proto, card, kind, inputs, [node for group in kept for node in groups[group]], file)
        tries += 1
        found = accuracy(open_engine(file), samples)
        best = max(best, found)
        if own - found <= max_drop:
            return Quantised(own, found, len(samples.loader), tuple(kept), tries, len(inputs))
        order = _ranked(proto, card, kind, inputs, groups, samples) if order is None else order
        if len(kept) == len(order) - 1:  # nothing would be left in eight bits
            raise WorkError(
                f"int8: {own - best:.2f} points of top-1 lost ({best:.2f} %, the network's {own:.2f} %) with all "
                f"blocks but one in floating point; at most {max_drop:g} are allowed"
            )
        kept.append(order[len(kept)])


def write_int8(folded: nn.Module, card: Card, kind: Format, images: Tensor, file: Path) -> None:
    """Write an int8 export calibrated on uint8 `images` N C S S, whatever its accuracy."""
    plain = card if kind == "onnx" else card.replace(takes="float32 NCHW")
    _write(lower_onnx(folded, plain), card, kind, prepared(images.numpy(), plain), (), file)


def accuracy(engine: Engine, samples: Samples) -> float:
    """Top-1 in percent over all labelled images."""
    right = 0
    for part in torch.split(torch.arange(len(samples.loader)), at_once(engine.card.design, engine.card.input_size)):
        images, labels = samples.loader[part]
        right += int((engine.logits(images.numpy()).argmax(1) == labels.numpy()).sum())
    return 100 * right / len(samples.loader)


def _group(scope: str) -> str:
    """The block, stem or head that a layer belongs to: `stages.1.0.branch.0.conv` → `stages.1.0`."""
    parts = scope.split(".")
    return ".".join(parts[:3]) if parts[0] == "stages" else parts[0] or "head"


def _groups(names: Mapping[str, str]) -> list[str]:
    return list(dict.fromkeys(map(_group, names.values())))


def _ranked(
    proto: Any, card: Card, kind: Format, inputs: Array, groups: Mapping[str, Sequence[str]], samples: Samples
) -> list[str]:
    """Groups, those first whose return to floating point alone brings the logits nearest to the network's."""
    images = samples.images[:RANKED_ON].numpy()
    with tempfile.TemporaryDirectory() as folder:
        exact, file = Path(folder) / "exact.onnx", Path(folder) / ("model.onnx" if kind == "onnx" else "model.xml")
        exact.write_bytes(proto.SerializeToString())
        own = open_engine(exact).logits(images)
        moved = {}
        for group, nodes in groups.items():
            _write(proto, card, kind, inputs[:RANKED_ON], nodes, file)
            moved[group] = float(np.abs(open_engine(file).logits(images) - own).mean())
    return sorted(moved, key=lambda group: moved[group])


def _write(proto: Any, card: Card, kind: Format, inputs: Array, kept: Sequence[str], file: Path) -> None:
    if kind == "onnx":
        _write_onnx(proto, card, inputs, kept, file)
    else:
        _write_openvino(proto, card, inputs, kept, file)


def _write_openvino(proto: Any, card: Card, inputs: Array, kept: Sequence[str], file: Path) -> None:
    ov = openvino()
    import nncf

    nncf.set_log_level(logging.ERROR)
    model = ov.Core().read_model(proto.SerializeToString())
    parts = list(_batches(inputs, card.batch or 1))
    # its reader of ONNX calls a convolution with a bias NAME/WithoutBiases, and NAME the addition of the bias
    names = [node.get_friendly_name() for node in model.get_ordered_ops()]
    scope = nncf.IgnoredScope(names=[name for name in names if name.removesuffix("/WithoutBiases") in set(kept)])
    with redirect_stdout(StringIO()):  # its progress
        quantised = nncf.quantize(
            model,
            nncf.Dataset(parts),
            subset_size=len(parts),
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=scope,
            # by default it takes the mean of each image's extremes, and cuts off what lies beyond: logits most of all
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                activations_range_estimator_params=nncf.quantization.range_estimator.RangeEstimatorParametersSet.MINMAX
            ),
        )
    whole = described(with_preparation(quantised, card), card)
    ov.save_model(whole, file, compress_to_fp16=False)


def _write_onnx(proto: Any, card: Card, inputs: Array, kept: Sequence[str], file: Path) -> None:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left: Iterator[dict[str, Array]] = ({INPUT: part} for part in _batches(inputs, card.batch or 1))

        def get_next(self) -> dict[str, Array] | None:
            return next(self.left, None)

    with tempfile.TemporaryDirectory() as folder, without_warnings():
        plain = Path(folder) / "plain.onnx"
        plain.write_bytes(proto.SerializeToString())
        quantize_static(
            str(plain),
            str(file),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(kept),
            op_types_to_quantize=[
                "Conv",
                "Gemm",
                "MatMul",
                "Add",
                "MaxPool",
                "Relu",
                "GlobalAveragePool",
                "ReduceMean",
            ],
        )
        written = onnx.load(file)
        del written.metadata_props[:]
        for key, value in metadata(card).items():
            written.metadata_props.add(key=key, value=value)
        file.write_bytes(written.SerializeToString())


def _batches(inputs: Array, batch: int) -> Iterator[Array]:
    for start in range(0, max(1, len(inputs) - batch + 1), batch):
        yield np.resize(inputs[start : start + batch], (batch, *inputs.shape[1:]))
