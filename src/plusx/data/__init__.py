"""Images for training and use.

sources.py      where images come from: a spec ("digits", a folder, …) opens as a Dataset
dataset.py      a Dataset, and how it is split
folders.py      a folder of class folders
published.py    the published sets
downloads.py    fetching a published data set, with checksums
decode.py       one image file, of any mode, as uint8 pixels H W C
loader.py       images brought to one size, in batches: uint8 tensors N C H W
augment.py      random changes to whole batches, and normalisation
"""

from plusx.data.dataset import Dataset, Images
from plusx.data.loader import Loader, load_files
from plusx.data.sources import open_data

__all__ = ["Dataset", "Images", "Loader", "load_files", "open_data"]
