"""What a network costs, known before it is built: `cost(design, input) -> Cost`. No torch here.

    cost        one network: in all, or by stage, block or layer
    costs       several side by side

params          parameters that are trained.
macs            multiply-adds of convolutions (gates' 1×1 too) and linear layers, for one image; arXiv 1512.03385 calls
                them FLOPs. Equal to half of torch's FlopCounterMode.
activations     elements of the outputs of convolutions and linear layers, for one image: pycls' definition
                (arXiv 2003.13678 §2).
training        bytes of the tensors that autograd keeps from the forward to the backward pass in eager mode: each
                storage once, the image included, parameters left out; no loss, gradients or optimiser.
inference peak  bytes of all feature maps alive at the fullest moment of an eager forward without autograd, the image
                included; weights are counted apart, and kernels' own work space is not counted.
receptive field pixels, per side, that one output pixel sees through convolutions and pooling, as if the image had no
                border. Gates and the head, which see the whole image, are left out.
macs/byte       arithmetic intensity of inference: macs over bytes moved. Every call of torch (norms, ReLUs, additions
                and pooling too, nothing fused) reads each of its tensors once, parameters and running statistics
                among them, and writes its output once.

A dtype means that image, feature maps and weights all have it; batch norm keeps its batch statistics for the backward
pass in at least float32, as GPUs do.

Table 1 of arXiv 1512.03385 prints 1.8, 3.6, 3.8, 7.6 and 11.3 ×10⁹ for 18, 34, 50, 101 and 152 layers at 224 pixels.
18 (1.814), 101 (7.570) and 152 (11.282) are these counts, rounded. 34 is 3.664 with projections (shortcut B), and 3.644
without, so 3.6: as its plain twin, and as the paper's option A. 50 is 3.858 with the stride on the 1×1, and 3.8 only if
the rest is cut off; no choice of shortcut rounds to it. 4.089 is the same network with the stride on the 3×3. The other
numbers that go round are in `conventions.explain`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from plusx import families, ledger
from plusx.design import Design
from plusx.errors import InputError, check_one_of
from plusx.ledger import Dtype, Part
from plusx.reports import Report

if TYPE_CHECKING:
    from rich.console import Group

Detail = Literal["stage", "block", "layer"]


@dataclass(frozen=True)
class Cost(Report):
    """What the network of a Design costs; the terms are explained at the top of this module.

    `network` is the whole, `stem`, `stages` and `head` its parts, and each part has `blocks` and `layers`. Memory and
    arithmetic intensity are those of `batch` images at once; `detail` says which parts are shown.
    """

    design: Design
    input: tuple[int, int]
    network: Part
    batch: int = 1
    detail: Detail = "stage"

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """C H W."""
        return (self.design.stem.in_channels, *self.input)

    @property
    def stem(self) -> Part:
        """The layers before the first stage."""
        return self.network.parts[0]

    @property
    def stages(self) -> tuple[Part, ...]:
        """The stages."""
        return self.network.parts[1:-1]

    @property
    def head(self) -> Part:
        """The layers after the last stage."""
        return self.network.parts[-1]

    @property
    def blocks(self) -> tuple[Part, ...]:
        """All blocks, in order."""
        return self.network.blocks

    @property
    def layers(self) -> tuple[Part, ...]:
        """All layers, in order."""
        return self.network.layers

    @property
    def params(self) -> int:
        """Parameters."""
        return self.network.params

    @property
    def macs(self) -> int:
        """Multiply-adds of convolutions and linear layers, for one image."""
        return self.network.macs

    @property
    def activations(self) -> int:
        """Elements of the outputs of convolutions and linear layers, for one image."""
        return self.network.activations

    @property
    def receptive_field(self) -> int:
        """Pixels that one pixel of the last stage sees."""
        assert self.network.receptive_field is not None
        return self.network.receptive_field

    def training_bytes(self, dtype: Dtype = "float32") -> int:
        """What autograd keeps for the backward pass of the batch."""
        return self.network.training_bytes(dtype, self.batch)

    def inference_peak_bytes(self, dtype: Dtype = "float32") -> int:
        """Feature maps alive at the fullest moment of inference on the batch; weights not included."""
        return self.network.inference_peak_bytes(dtype, self.batch)

    def weights_bytes(self, dtype: Dtype = "float32") -> int:
        """Parameters and buffers."""
        return self.network.weights_bytes(dtype)

    def macs_per_byte(self, dtype: Dtype = "float32") -> float:
        """Arithmetic intensity of inference on the batch."""
        return self.network.macs_per_byte(dtype, self.batch)

    def rows(self) -> tuple[Part, ...]:
        """The parts that `detail` asks for, from stem to head."""
        match self.detail:
            case "stage":
                return self.network.parts
            case "block":
                return (*self.stem.layers, *self.blocks, *self.head.layers)
            case "layer":
                return self.layers

    def to_dict(self) -> dict[str, Any]:
        """Plain data: the whole, and the parts that `detail` asks for."""
        whole = {key: value for key, value in self.network.to_dict(self.batch).items() if key not in ("kind", "what")}
        about = {"input_shape": list(self.input_shape), "batch": self.batch, "detail": self.detail}
        return whole | about | {"parts": [part.to_dict(self.batch) for part in self.rows()]}

    def __rich__(self) -> "Group":
        from plusx.cost_table import one

        return one(self)


@dataclass(frozen=True)
class CostTable(Report):
    """What several networks cost, side by side."""

    costs: tuple[Cost, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data: each network in all."""
        rows = [cost.to_dict() for cost in self.costs]
        return {"networks": [{key: row[key] for key in row if key not in ("parts", "detail")} for row in rows]}

    def __rich__(self) -> "Group":
        from plusx.cost_table import several

        return several(self.costs)


def cost(
    design: Design | str,
    input: int | tuple[int, int] | None = None,
    *,
    batch: int = 1,
    detail: Detail = "stage",
) -> Cost:
    """What a Design, or the published one of that name, costs on images of `input` pixels (a side, or H and W).

    The usual input by default: 32 for a small stem, 224 for the others. `batch`: images at once, for memory and
    arithmetic intensity. Raises DesignError for an unknown name, InputError for an input that vanishes in the network.
    """
    design = families.find(design)
    check_one_of("detail:", detail, get_args(Detail))
    if not isinstance(batch, int) or batch < 1:
        raise InputError(f"batch: {batch!r} is not a positive whole number")
    size = input_size(design, input)
    return Cost(design, size, ledger.network(design, size), batch, detail)


def costs(designs: Iterable[Design | str], input: int | tuple[int, int] | None = None, *, batch: int = 1) -> CostTable:
    """`cost` of each of several designs, side by side. Raises as `cost` does."""
    return CostTable(tuple(cost(design, input, batch=batch) for design in designs))


def input_size(design: Design, input: int | tuple[int, int] | None) -> tuple[int, int]:
    """H and W; the usual ones of the stem where `input` is None. Raises InputError where they do not fit the design."""
    if input is None:
        input = 32 if design.stem.kind == "small" else 224
    size = input if isinstance(input, tuple) else (input, input)
    of = f"cost of {design.name or 'a design'}"
    if len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
        raise InputError(f"{of}: input {input!r} is not a positive whole number of pixels, or two: height and width")
    shown = "×".join(map(str, dict.fromkeys(size)))
    if min(size) < design.output_stride:
        hint = "" if design.stem.kind == "small" else ", or a small stem"
        divides = f"the network divides it by {design.output_stride}"
        raise InputError(f"{of}: input {shown} vanishes: {divides}; give at least {design.output_stride}{hint}")
    return size
