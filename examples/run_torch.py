"""What `plusx export RUN --to torch-export --preprocessing` wrote, run by torch alone.

python run_torch.py model.pt2 IMAGE…
"""

import json
import sys

import numpy as np
import torch
from PIL import Image

about = {"plusx.json": ""}
network = torch.export.load(sys.argv[1], extra_files=about).module()
card = json.loads(about["plusx.json"])
mode = "L" if card["channels"] == 1 else "RGB"
for file in sys.argv[2:]:
    pixels = np.array(Image.open(file).convert(mode), ndmin=3)
    pixels = pixels.reshape(1, *pixels.shape[-2:], 1) if mode == "L" else pixels[None]
    print(file, card["classes"][network(torch.from_numpy(pixels)).argmax()])
