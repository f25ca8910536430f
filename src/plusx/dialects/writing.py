"""Writing weights under a dialect's names: one file, or a folder that transformers loads."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from plusx.checkpoint import Weights, replacing, write_text, write_weights
from plusx.design import Design
from plusx.dialects import limits
from plusx.dialects.configs import hub_config
from plusx.dialects.files import PICKLES
from plusx.dialects.limits import Target
from plusx.errors import WeightsError, did_you_mean


def check_target(target: Path, to: str, overwrite: bool) -> None:
    """Raise WeightsError for a dialect that is not known, and for a place that cannot or must not be written."""
    where = f"writing {target}"
    if to not in limits.TARGETS:
        raise WeightsError(
            f"{where}: to {to!r} is not one of {', '.join(limits.TARGETS)}{did_you_mean(to, limits.TARGETS)}"
        )
    folder = to == "transformers" and not target.suffix
    accepted = (".safetensors",) if to == "plusx" else (".safetensors", *PICKLES)
    if not folder and target.suffix not in accepted:
        more = ", or a folder without a suffix" if to == "transformers" else ""
        raise WeightsError(f"{where}: {target.suffix or 'no suffix'} is not one of {', '.join(accepted)}{more}")
    if not target.parent.is_dir():
        raise WeightsError(f"{where}: there is no folder {target.parent}")
    if target.exists() and target.is_dir() != folder:
        raise WeightsError(f"{where}: there is a {'folder' if target.is_dir() else 'file'} of that name")
    if target.exists() and not overwrite:
        raise WeightsError(f"{where}: it exists already, and overwriting was not asked for (--overwrite)")


def write(weights: Weights, target: Path, to: Target) -> tuple[Path, ...]:
    """Write in dialect `to`; gives the files. Each appears whole or not at all.

    Raises WeightsError naming the part of the Design that `to` cannot express, WorkError when the disk refuses.
    """
    if odd := limits.problem(weights.design, to):
        peer = limits.DIALECTS[to].source
        raise WeightsError(f"writing {target}: {to} cannot express {odd} ({peer})")
    if to == "plusx":
        return (write_weights(target, weights),)
    tensors = _named(weights, to)
    if target.suffix:
        return (_save(tensors, target),)
    target.mkdir(exist_ok=True)
    config = json.dumps(hub_config(weights.design, weights.classes), indent=2, ensure_ascii=False)
    saved = _save(tensors, target / "model.safetensors")
    write_text(target / "config.json", config + "\n")
    return saved, target / "config.json"


def _named(weights: Weights, to: Target) -> dict[str, Tensor]:
    table = limits.table(weights.design, to)
    theirs = table.from_plusx(weights.tensors)
    tensors = {theirs[name]: tensor.contiguous() for name, tensor in weights.tensors.items()}
    if table.conv_head and "head.fc.weight" in tensors:
        tensors["head.fc.weight"] = tensors["head.fc.weight"][:, :, None, None]
    return tensors


def _save(tensors: Mapping[str, Tensor], path: Path) -> Path:
    with replacing(path) as beside:
        if path.suffix == ".safetensors":
            save_file(dict(tensors), beside, metadata={"format": "pt"})  # transformers asks for this entry
        else:
            torch.save(dict(tensors), beside)
    return path


def advice(design: Design, to: Target) -> tuple[str, ...]:
    """What to mind when the peer loads the file."""
    notes = []
    if to in ("torchvision", "akamaster", "chenyaofo", "kuangliu") and design.stem.in_channels != 3:
        notes.append(
            f"{to} builds conv1 for 3 channels: replace it by one for {design.stem.in_channels} before loading"
        )
    if any(stage.dilation > 1 for stage in design.stages):
        option = "output_stride" if to == "timm" else "replace_stride_with_dilation"
        notes.append(f"build {to}'s network with {option} for an output stride of {design.output_stride}")
    if any(stage.block.stochastic_depth for stage in design.stages) and to != "plusx":
        notes.append("stochastic depth is no tensor: give it to the constructor again")
    if to in ("akamaster", "kuangliu"):
        notes.append(f"{to} pools with avg_pool2d, which sums in another order: logits differ by rounding")
    return tuple(notes)
