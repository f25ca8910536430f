"""Real images on which exports are verified, calibrated and judged, as uint8 N C S S."""

import glob
import os
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from plusx import run_folder
from plusx.data import Images, Loader, open_data
from plusx.errors import DataError
from plusx.evaluate import images_to_judge
from plusx.inference import Model
from plusx.pictures import Skipped, find_pictures, read_pictures

CALIBRATION = 300
"""Images to calibrate on, at most: NNCF's default too."""


@dataclass(frozen=True, eq=False)
class Samples:
    """images: to compare on. words: which those are. loader: all labelled ones, of which `images` are some.

    calibration: images to calibrate on; none where nothing is calibrated.
    """

    images: Tensor
    words: str
    loader: Loader
    calibration: Tensor


def gather(model: Model, data: str | Path | None, calibrate: str | Path | None, count: int, *, wanted: bool) -> Samples:
    """Images for a network; see `plusx.export.export`. wanted: whether any are calibrated on. Raises DataError."""
    spec, images, split, names = images_to_judge(model.folder, data, "export")
    labels = [model.classes.index(name) if name in model.classes else -1 for name in names]
    if -1 in labels:
        name = names[labels.index(-1)]
        raise DataError(f"{spec}: class {name!r} is not one the network knows")
    loader = Loader(images.relabel(labels), model.size, model.channels, on_bad_image="skip")
    some = _evenly(loader, count)
    calibration = _calibration(model, calibrate, data) if wanted else some[:0]
    return Samples(some, f"{spec} ({split})", loader, calibration)


def _calibration(model: Model, given: str | Path | None, data: str | Path | None) -> Tensor:
    if given is None:
        own = run_folder.read_origin(model.folder) if model.folder is not None else None
        spec = own.data if own is not None else data
        if spec is None:
            raise DataError("int8: say on which images to calibrate; only a run folder remembers its own")
        dataset = open_data(spec)
        images = (
            dataset.split(own.held_out, own.split_seed)[0] if own is not None and dataset.spec == own.data else None
        )
        return _evenly(_loader(model, dataset.train if images is None else images), CALIBRATION)
    if Path(given).exists() or os.sep in str(given):
        if not Path(given).exists() and not glob.has_magic(str(given)):
            raise DataError(f"calibrate: {given}: there is no such file or folder")
        pictures = find_pictures(given, "calibrate")
        chosen = [pictures[int(k)] for k in torch.linspace(0, len(pictures) - 1, min(len(pictures), CALIBRATION))]
        skipped: list[Skipped] = []
        found = [
            pixels for _, pixels in islice(read_pictures(chosen, model.size, model.channels, "skip", skipped), None)
        ]
        if not found:
            raise DataError(f"{given}: none of the {len(chosen):,} images there could be read")
        return torch.cat(found)
    return _evenly(_loader(model, open_data(given).train), CALIBRATION)


def _loader(model: Model, images: Images) -> Loader:
    return Loader(images, model.size, model.channels, on_bad_image="skip")


def _evenly(loader: Loader, count: int) -> Tensor:
    """So many images of a loader, or all, evenly spaced: uint8 N C S S."""
    chosen = torch.linspace(0, len(loader) - 1, min(count, len(loader)), dtype=torch.double).round().long()
    images, _ = loader[chosen]
    return images
