"""A model repository for the servers that people already run: Triton, KServe, OpenVINO Model Server.

FOLDER/NAME/config.pbtxt      what the model takes and gives, and that requests are gathered in batches
FOLDER/NAME/labels.txt        the classes
FOLDER/NAME/1/model.onnx      the network
"""

import re
from pathlib import Path

from plusx.artefact import INPUT, KEY, OUTPUT, Card

MAX_BATCH = 16


def write_repository(folder: Path, model: Path, card: Card, *, max_batch: int = MAX_BATCH) -> Path:
    """Put an ONNX file of any batch, which lies in `folder`, into a model repository there; gives its folder."""
    place = folder / repository_name(card)
    (place / "1").mkdir(parents=True)
    model.rename(place / "1" / "model.onnx")
    (place / "config.pbtxt").write_text(config(card, max_batch), encoding="utf-8")
    (place / "labels.txt").write_text("".join(f"{label}\n" for label in card.labels), encoding="utf-8")
    (place / f".{KEY}").write_text(card.model_dump_json(), encoding="utf-8")
    return place


def repository_name(card: Card) -> str:
    """A folder's name from the network's."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", card.name).strip("_") or "network"


def config(card: Card, max_batch: int) -> str:
    """Triton's model configuration, as protocol-buffer text."""
    shape = [-1, -1, card.channels] if card.takes == "uint8 NHWC" else [card.channels, card.input_size, card.input_size]
    kind = "TYPE_UINT8" if card.takes == "uint8 NHWC" else "TYPE_FP32"
    return f"""name: "{repository_name(card)}"
backend: "onnxruntime"
max_batch_size: {max_batch}
input [ {{ name: "{INPUT}" data_type: {kind} dims: [ {", ".join(map(str, shape))} ] }} ]
output [ {{
  name: "{OUTPUT}" data_type: TYPE_FP32 dims: [ {card.outputs} ]
  label_filename: "labels.txt"
}} ]
dynamic_batching {{ max_queue_delay_microseconds: 2000 }}
instance_group [ {{ kind: KIND_AUTO }} ]
"""
