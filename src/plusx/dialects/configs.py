"""What stands beside the tensors in a folder: `config.json` of transformers and timm, `preprocessor_config.json`.

The transformers' configuration of a Design is written here too, so that the two directions stay side by side.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plusx.checkpoint import LARGEST_SIDE, is_printable
from plusx.design import Design, StrideOn
from plusx.errors import WeightsError


@dataclass(frozen=True)
class Facts:
    """What a folder says about its network beyond the tensors. None and () where it says nothing."""

    stride_on: StrideOn | None = None
    strides: tuple[int, ...] | None = None
    classes: tuple[str, ...] = ()
    input_size: int | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


def read_facts(folder: Path, where: str) -> Facts:
    """The facts in a folder of transformers or timm. Raises WeightsError for a network that is not a ResNet."""
    config = _json(folder / "config.json", where)
    if "architecture" in config:
        return _timm_facts(config, where)
    if config.get("model_type", "resnet") != "resnet":
        raise WeightsError(f"{where}: config.json says model_type {config['model_type']!r}; plusx reads 'resnet'")
    if config.get("hidden_act", "relu") != "relu":
        raise WeightsError(f"{where}: config.json says hidden_act {config['hidden_act']!r}; plusx has 'relu'")
    images = _json(folder / "preprocessor_config.json", where)
    mean, std = _norms(images.get("image_mean"), images.get("image_std"))
    depths = config.get("depths")
    strides = None
    if isinstance(depths, list) and depths:
        strides = (2 if config.get("downsample_in_first_stage") else 1, *[2] * (len(depths) - 1))
    stride_on: StrideOn | None = None
    if config.get("layer_type", "bottleneck") == "bottleneck" and strides:
        stride_on = "1x1" if config.get("downsample_in_bottleneck") else "3x3"
    return Facts(stride_on, strides, _labels(config.get("id2label")), _size(images), mean, std)


def _timm_facts(config: Mapping[str, Any], where: str) -> Facts:
    name, details = str(config["architecture"]), config.get("pretrained_cfg")
    if re.search(r"(blur|aa)\d", name):
        raise WeightsError(f"{where}: config.json says {name!r}, which pools with anti-aliasing; plusx has none")
    details = details if isinstance(details, Mapping) else {}
    mean, std = _norms(details.get("mean"), details.get("std"))
    sizes = details.get("input_size")
    size = _whole(sizes[-1]) if isinstance(sizes, list) and sizes else None
    labels = config.get("label_names")
    classes = _printable(labels) if isinstance(labels, list) else ()
    return Facts(classes=classes, input_size=size, mean=mean, std=std)


def _json(path: Path, where: str) -> dict[str, Any]:
    """The table in a JSON file; empty where there is no such file."""
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise WeightsError(f"{where}: {path.name} is not JSON") from None
    if not isinstance(data, dict):
        raise WeightsError(f"{where}: {path.name} holds no table")
    return data


def _labels(labels: Any) -> tuple[str, ...]:
    """Class names in order; () where they are missing, incomplete, or transformers' placeholders."""
    if not isinstance(labels, Mapping):
        return ()
    names = [labels.get(str(index)) for index in range(len(labels))]
    if not all(isinstance(name, str) for name in names):
        return ()
    placeholders = all(name == f"LABEL_{index}" for index, name in enumerate(names))
    return () if placeholders else _printable(names)


def _printable(names: Iterable[Any]) -> tuple[str, ...]:
    """Names as strings; () where one cannot be printed."""
    found = tuple(map(str, names))
    return found if all(map(is_printable, found)) else ()


def _norms(mean: Any, std: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std per channel; nothing where they are no numbers, or not as many of each."""
    numbers = isinstance(mean, list) and isinstance(std, list) and len(mean) == len(std)
    if not numbers or not all(isinstance(value, int | float) and abs(value) <= 1e6 for value in (*mean, *std)):
        return (), ()
    return (tuple(map(float, mean)), tuple(map(float, std))) if all(value >= 1e-6 for value in std) else ((), ())


def _size(images: Mapping[str, Any]) -> int | None:
    """The side of the images in a preprocessor's `crop_size` or `size`, in any of the ways it is written."""
    for size in (images.get("crop_size"), images.get("size")):
        if isinstance(size, Mapping):
            size = size.get("height", size.get("shortest_edge"))
        if (side := _whole(size)) is not None:
            return side
    return None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LARGEST_SIDE else None


def hub_config(design: Design, classes: tuple[str, ...]) -> dict[str, Any]:
    """The `config.json` from which transformers builds this Design; one without a head becomes a `ResNetModel`."""
    block = design.stages[0].block
    labels = classes or tuple(f"LABEL_{index}" for index in range(design.head.classes))
    config = {
        "architectures": ["ResNetForImageClassification" if design.head.classes else "ResNetModel"],
        "model_type": "resnet",
        "num_channels": design.stem.in_channels,
        "embedding_size": design.stem.width,
        "hidden_sizes": [stage.width for stage in design.stages],
        "depths": [stage.depth for stage in design.stages],
        "layer_type": "bottleneck" if block.kind == "bottleneck" else "basic",
        "hidden_act": "relu",
        "downsample_in_first_stage": design.stages[0].stride == 2,
        "downsample_in_bottleneck": block.kind == "bottleneck" and block.stride_on == "1x1",
    }
    if design.head.classes:
        config["id2label"] = {str(index): name for index, name in enumerate(labels)}
        config["label2id"] = {name: index for index, name in enumerate(labels)}
    return config
