"""What an exported network says of itself: a `Card`, which every format carries as JSON under the name "plusx".

.onnx       metadata_props            .pt2         an extra file of torch.export.save
.xml/.bin   rt_info (OpenVINO)        .aoti.pt2    the package's metadata (AOTInductor)
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt

from plusx.design import Design
from plusx.errors import InputError, WeightsError
from plusx.values import Value

KEY = "plusx"
"""The name under which a format's own metadata holds the card."""

INPUT, OUTPUT = "images", "logits"
"""The names of an exported network's one input and one output."""

Format = Literal["onnx", "openvino", "torch-export", "aoti"]
SUFFIXES: Mapping[Format, str] = {"onnx": ".onnx", "openvino": ".xml", "torch-export": ".pt2", "aoti": ".aoti.pt2"}

Precision = Literal["float32", "bfloat16", "int8"]
Takes = Literal["float32 NCHW", "uint8 NHWC"]


class Card(Value):
    """What an exported network takes and gives.

    name: of the Design. classes: in the order of the logits; () where unknown.
    input_size: height and width in pixels. channels: of the images. mean, std: per channel, of pixels from 0 to 1.
    takes: "float32 NCHW", images that are resized, subtracted from and divided already, or "uint8 NHWC", images of any
    size, all of which the network does itself. precision: of the arithmetic it was made for. batch: images at once,
    None for any number. versions: of plusx and of what wrote it.
    """

    error: ClassVar[type[InputError]] = WeightsError
    format: Literal[1] = 1
    name: str
    design: Design
    classes: Annotated[tuple[str, ...], Field(strict=False)] = ()
    input_size: PositiveInt
    channels: PositiveInt
    mean: Annotated[tuple[float, ...], Field(strict=False)]
    std: Annotated[tuple[float, ...], Field(strict=False)]
    takes: Takes = "float32 NCHW"
    precision: Precision = "float32"
    batch: PositiveInt | None = None
    versions: dict[str, str] = Field(default_factory=dict)

    @property
    def outputs(self) -> int:
        """How many logits there are."""
        return self.design.head.classes

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes' names, or their numbers where they have none."""
        return self.classes or tuple(map(str, range(self.outputs)))


def detect_format(path: str) -> Format | None:
    """What a file's name says it is; the longest suffix counts."""
    fitting = [kind for kind, suffix in SUFFIXES.items() if path.endswith(suffix)]
    return max(fitting, key=lambda kind: len(SUFFIXES[kind]), default=None)
