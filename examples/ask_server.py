"""Asks `plusx serve` what images show, by Triton's public client: ask_server.py HOST:PORT IMAGE…"""

import sys

import numpy as np
import tritonclient.http as triton
from PIL import Image

with triton.InferenceServerClient(sys.argv[1]) as client:
    model = client.get_server_metadata()["models"][0]
    about = client.get_model_metadata(model)
    told, (_, channels, height, width) = about["parameters"], about["inputs"][0]["shape"]
    mean, std = (np.array(told[name], np.float32).reshape(-1, 1, 1) for name in ("mean", "std"))
    for file in sys.argv[2:]:
        image = Image.open(file).convert("L" if channels == 1 else "RGB").resize((width, height))
        pixels = np.asarray(image, np.float32).reshape(height, width, channels).transpose(2, 0, 1) / 255
        tensor = triton.InferInput("images", [1, channels, height, width], "FP32")
        tensor.set_data_from_numpy(((pixels - mean) / std)[None])
        logits = client.infer(model, [tensor]).as_numpy("logits")[0]
        print(file, told["classes"][logits.argmax()])
