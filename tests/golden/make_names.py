"""Names and shapes of every tensor of a dozen networks that between them have every kind of part.

python tests/golden/make_names.py        writes names.json beside this file
"""

import json
from pathlib import Path

from plusx import families
from plusx.design import BuildingSpec, Design, Stage
from plusx.network import build


def networks() -> dict[str, Design]:
    """Published networks, and what no published one has."""
    named = ("resnet18", "resnet50", "resnet50d", "resnext50_32x4d", "seresnet18", "resnetv2_50", "plain18")
    cifar = ("cifar_resnet20", "cifar_preact110", "wrn16_8")
    orders = ("bn_after_add", "relu_before_add", "relu_preact")
    shape = families.cifar(8)
    return {
        **{name: families.design(name) for name in (*named, *cifar)},
        **{order: _with(shape, BuildingSpec(order=order, shortcut="D")) for order in orders},  # type: ignore[arg-type]
        "shortcut_c": _with(shape, BuildingSpec(shortcut="C")),
    }


def _with(design: Design, block: BuildingSpec) -> Design:
    return design.replace(stages=tuple(Stage(**{**dict(stage), "block": block}) for stage in design.stages))


def names() -> dict[str, dict[str, list[int]]]:
    """For each network its tensors' names and shapes."""
    states = {name: build(design, device="meta").state_dict() for name, design in networks().items()}
    return {name: {key: list(value.shape) for key, value in state.items()} for name, state in states.items()}


if __name__ == "__main__":
    text = json.dumps(names(), separators=(",", ":")).replace("},", "},\n")
    (Path(__file__).parent / "names.json").write_text(text + "\n")
