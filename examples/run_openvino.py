"""What `plusx export RUN --to openvino --preprocessing` wrote, run by OpenVINO alone.

python run_openvino.py model.xml IMAGE…
"""

import sys

import numpy as np
import openvino as ov
from PIL import Image

model = ov.Core().read_model(sys.argv[1])
classes = model.get_rt_info(["classes"]).value.split("\n")
compiled = ov.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
mode = "L" if model.inputs[0].partial_shape[3].get_length() == 1 else "RGB"
for file in sys.argv[2:]:
    pixels = np.array(Image.open(file).convert(mode), ndmin=3)
    pixels = pixels.reshape(1, *pixels.shape[-2:], 1) if mode == "L" else pixels[None]
    print(file, classes[compiled(pixels)["logits"].argmax()])
