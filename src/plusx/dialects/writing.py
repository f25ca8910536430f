"""Writing weights under a dialect's names: one file, or a folder that transformers loads."""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from plusx.checkpoint import Weights, replacing, write_weights
from plusx.design import Design
from plusx.dialects import limits
from plusx.dialects.configs import hub_config
from plusx.dialects.files import PICKLES
from plusx.dialects.limits import Target
from plusx.errors import WeightsError, WorkError, did_you_mean


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


def check_stated(target: Path, to: str, facts: Iterable[str]) -> None:
    """Raise WeightsError for facts that files of this dialect have no place for."""
    kept: tuple[str, ...] = ("classes", "input_size", "mean", "std") if to == "plusx" else ()
    if to == "transformers" and not target.suffix:
        kept = ("classes",)
    if lost := [name for name in facts if name not in kept]:
        raise WeightsError(f"writing {target}: {', '.join(lost)} of no use: what {to} loads has no place for it")


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
        with replacing(target) as beside:
            _save(tensors, beside, pickled=target.suffix in PICKLES)
        return (target,)
    model, config = target / "model.safetensors", target / "config.json"
    # both are whole before either takes its place: a full disk leaves an old pair as it was
    with _folder(target), replacing(config) as beside_config, replacing(model) as beside_model:
        beside_config.write_text(_config(weights), encoding="utf-8")
        _save(tensors, beside_model)
    return model, config


@contextmanager
def _folder(path: Path) -> Iterator[None]:
    """A folder that is there, made if need be; one that was made goes again if what is written into it fails."""
    made = not path.exists()
    try:
        path.mkdir(exist_ok=True)
        yield
    except BaseException as problem:
        if made:
            shutil.rmtree(path, ignore_errors=True)
        if isinstance(problem, OSError):
            raise WorkError(f"writing {path}: {problem.strerror}") from None
        raise


def _config(weights: Weights) -> str:
    return json.dumps(hub_config(weights.design, weights.classes), indent=2, ensure_ascii=False) + "\n"


def _named(weights: Weights, to: Target) -> dict[str, Tensor]:
    table = limits.table(weights.design, to)
    theirs = table.from_plusx(weights.tensors)
    tensors = {theirs[name]: tensor.contiguous() for name, tensor in weights.tensors.items()}
    if table.conv_head and "head.fc.weight" in tensors:
        tensors["head.fc.weight"] = tensors["head.fc.weight"][:, :, None, None]
    return tensors


def _save(tensors: Mapping[str, Tensor], path: Path, *, pickled: bool = False) -> None:
    if pickled:
        torch.save(dict(tensors), path)
    else:
        save_file(dict(tensors), path, metadata={"format": "pt"})  # transformers asks for this entry


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
    if to != "plusx" and limits.DIALECTS[to].window != (design.head.pool == "window"):
        notes.append(f"{to} pools by another function, which sums in another order: logits differ by rounding")
    return tuple(notes)
