"""Images for training and use.

sources.py      where images come from: a spec ("digits", a folder, …) opens as a Dataset
dataset.py      a Dataset, and how it is split
folders.py      a folder of class folders
published.py    the published sets
archives.py     images inside larger files: WebDataset shards, Hugging Face datasets
downloads.py    fetching a published data set, with checksums
decode.py       one image file, of any mode, as uint8 pixels H W C
cache.py        decoded pixels kept on disk
stream.py       decoding batch by batch
workers.py      worker processes that do it
machine.py      processors and memory
loader.py       images brought to one size, in batches: uint8 tensors N C H W
chance.py       randomness from the seed and the place in the run
augment.py      random changes to whole batches, and normalisation
warp.py, colour.py, auto.py, mixing.py    the changes themselves
"""

from plusx.data.dataset import Dataset, Images
from plusx.data.loader import Loader, load_files
from plusx.data.sources import open_data

__all__ = ["Dataset", "Images", "Loader", "load_files", "open_data"]
