"""What `plusx export RUN --to onnx --preprocessing` wrote, run by onnxruntime alone.

python run_onnx.py model.onnx IMAGE…
"""

import sys

import numpy as np
import onnxruntime as ort
from PIL import Image

session = ort.InferenceSession(sys.argv[1])
classes = session.get_modelmeta().custom_metadata_map["classes"].split("\n")
mode = "L" if session.get_inputs()[0].shape[-1] == 1 else "RGB"
for file in sys.argv[2:]:
    pixels = np.array(Image.open(file).convert(mode), ndmin=3)
    pixels = pixels.reshape(1, *pixels.shape[-2:], 1) if mode == "L" else pixels[None]
    (logits,) = session.run(["logits"], {"images": pixels})
    print(file, classes[logits.argmax()])
