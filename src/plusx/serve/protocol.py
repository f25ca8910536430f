"""The Open Inference Protocol v2: requests and answers as JSON, or as JSON followed by raw tensors.

A body of the binary extension is a JSON header of `Inference-Header-Content-Length` bytes and then the tensors, little
endian, in the order of `inputs`, each of its `binary_data_size` bytes.
"""

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from plusx.artefact import INPUT, OUTPUT, Card
from plusx.engines import Array

HEADER = "inference-header-content-length"

LARGEST_JSON = 4 << 20
"""Bytes of JSON in a request. More would hold up all the others while it is parsed, and cost fifty times the memory."""

_TYPES: dict[str, Any] = {"FP32": np.float32, "UINT8": np.uint8}


class RefusedError(Exception):
    """What is wrong with a request: an HTTP status and one line."""

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.retry_after = status, message, retry_after


@dataclass(frozen=True)
class Asked:
    """A request: the rows, its id, and whether the logits are wanted as raw bytes."""

    inputs: Array
    id: str | None
    binary: bool


def input_type(card: Card) -> str:
    """Of the one input, in the protocol's words."""
    return "UINT8" if card.takes == "uint8 NHWC" else "FP32"


def input_shape(card: Card) -> list[int]:
    """Of the one input; -1 for any number."""
    size = card.input_size
    return [-1, -1, -1, card.channels] if card.takes == "uint8 NHWC" else [-1, card.channels, size, size]


def metadata(card: Card, name: str, platform: str, difference: float) -> dict[str, Any]:
    """What the protocol tells of a model; beside it, under `parameters`, what plusx knows."""
    return {
        "name": name,
        "versions": ["1"],
        "platform": platform,
        "inputs": [{"name": INPUT, "datatype": input_type(card), "shape": input_shape(card)}],
        "outputs": [{"name": OUTPUT, "datatype": "FP32", "shape": [-1, card.outputs]}],
        "parameters": {
            "classes": list(card.labels),
            "mean": list(card.mean),
            "std": list(card.std),
            "precision": card.precision,
            "largest_difference_between_batches": difference,
        },
    }


def largest_body(card: Card, max_batch: int) -> float:
    """Bytes that a request can need: 40 for each number, as JSON, and some beside."""
    shape = input_shape(card)
    return math.inf if -1 in shape[1:] else max_batch * math.prod(shape[1:]) * 40 + (64 << 10)


def parse(body: bytes, header_length: str | None, card: Card, max_batch: int, max_pixels: float) -> Asked:
    """A request's body. Raises RefusedError."""
    text, tensors = body, b""
    if header_length is not None:
        if not header_length.isdecimal() or len(header_length) > 12 or int(header_length) > len(body):
            raise RefusedError(400, f"{HEADER}: {header_length[:20]!r} is no length of a part of {len(body)} bytes")
        text, tensors = body[: int(header_length)], body[int(header_length) :]
    if len(text) > LARGEST_JSON:
        raise RefusedError(413, f"JSON of more than {LARGEST_JSON} bytes; send the tensor as binary data")
    asked = _object(_load(text), "the request")
    inputs = asked.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1:
        raise RefusedError(400, f"inputs: one is needed, {INPUT}")
    one = _object(inputs[0], "inputs[0]")
    if one.get("name") != INPUT:
        raise RefusedError(400, f"inputs[0].name: {str(one.get('name'))[:60]!r} is not {INPUT!r}")
    kind = input_type(card)
    if one.get("datatype") != kind:
        raise RefusedError(400, f"inputs[0].datatype: {str(one.get('datatype'))[:20]!r} is not {kind!r}")
    shape = _shape(one.get("shape"), card, max_batch, max_pixels)
    size = _parameters(one).get("binary_data_size")
    found = _flat(one.get("data"), kind, shape) if size is None else _raw(tensors, size, kind, shape)
    if size is None and tensors:
        raise RefusedError(400, f"{len(tensors)} bytes follow the header that no input claims")
    if kind == "FP32" and not np.isfinite(found).all():
        raise RefusedError(400, "inputs[0]: values that are not finite")
    id_ = asked.get("id")
    if id_ is not None and not isinstance(id_, str):
        raise RefusedError(400, "id: not a text")
    return Asked(found.reshape(shape), id_, _wants_binary(asked))


def answer(logits: Array, asked: Asked, name: str) -> tuple[bytes, dict[str, str]]:
    """The body and headers of the answer."""
    output: dict[str, Any] = {"name": OUTPUT, "datatype": "FP32", "shape": list(logits.shape)}
    raw = np.ascontiguousarray(logits, dtype="<f4").tobytes() if asked.binary else b""
    output |= {"parameters": {"binary_data_size": len(raw)}} if asked.binary else {"data": logits.ravel().tolist()}
    head = {"model_name": name, "model_version": "1", "outputs": [output]}
    text = json.dumps(head | ({} if asked.id is None else {"id": asked.id})).encode()
    if not asked.binary:
        return text, {"content-type": "application/json"}
    return text + raw, {"content-type": "application/octet-stream", HEADER: str(len(text))}


def _load(text: bytes) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as problem:
        raise RefusedError(400, f"not JSON: {' '.join(str(problem).split())[:120]}") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RefusedError(400, f"{what}: not an object")
    return value


def _parameters(value: dict[str, Any]) -> dict[str, Any]:
    return _object(value.get("parameters", {}), "parameters")


def _shape(given: Any, card: Card, max_batch: int, max_pixels: float) -> list[int]:
    wanted = input_shape(card)
    whole = isinstance(given, list) and all(type(side) is int and 0 < side < 2**31 for side in given)
    if not whole or len(given) != len(wanted) or any(w not in (-1, g) for w, g in zip(wanted, given, strict=True)):
        raise RefusedError(400, f"inputs[0].shape: {str(given)[:60]} is not {wanted}")
    if given[0] > max_batch:
        raise RefusedError(413, f"inputs[0].shape: {given[0]} images at once; at most {max_batch} are taken")
    if card.takes == "uint8 NHWC" and given[1] * given[2] > max_pixels:
        raise RefusedError(413, f"inputs[0].shape: images of {given[1]} by {given[2]} pixels are too large")
    return list(given)


def _raw(tensors: bytes, size: Any, kind: str, shape: list[int]) -> Array:
    needed = math.prod(shape) * np.dtype(_TYPES[kind]).itemsize
    if size != needed or len(tensors) != needed:
        raise RefusedError(400, f"inputs[0]: {needed} bytes are needed, {str(size)[:20]} said, {len(tensors)} there")
    return np.frombuffer(tensors, np.dtype(_TYPES[kind]).newbyteorder("<"))


def _flat(data: Any, kind: str, shape: list[int]) -> Array:
    """Numbers, flat or nested, as many as the shape needs."""
    if not isinstance(data, list):
        raise RefusedError(400, "inputs[0].data: a list of numbers is needed")
    if not _all_numbers(data):
        raise RefusedError(400, "inputs[0].data: lists of numbers alone are needed")
    try:
        found = np.asarray(data)
    except (ValueError, RecursionError, OverflowError):
        raise RefusedError(400, "inputs[0].data: lists of unequal lengths") from None
    if found.dtype.kind not in "iuf" or found.size != math.prod(shape):
        raise RefusedError(400, f"inputs[0].data: {math.prod(shape)} numbers are needed")
    if kind == "UINT8" and (found.dtype.kind == "f" or found.min() < 0 or found.max() > 255):
        raise RefusedError(400, "inputs[0].data: whole numbers from 0 to 255 are needed")
    with np.errstate(over="ignore"):
        return found.astype(_TYPES[kind])


def _all_numbers(data: list[Any]) -> bool:
    """Whether there are only numbers, in lists: of one long text among thousands numpy makes as many long ones."""
    lists = [data]
    while lists:
        kinds = set(map(type, each := lists.pop()))
        if kinds == {list}:
            lists += each
        elif not kinds <= {int, float}:
            return False
    return True


def _wants_binary(asked: dict[str, Any]) -> bool:
    outputs = asked.get("outputs")
    if outputs is None or outputs == []:
        return _parameters(asked).get("binary_data_output") is True
    if not isinstance(outputs, list) or len(outputs) != 1:
        raise RefusedError(400, f"outputs: there is one, {OUTPUT}")
    one = _object(outputs[0], "outputs[0]")
    if one.get("name") != OUTPUT:
        raise RefusedError(400, f"outputs[0].name: {str(one.get('name'))[:60]!r} is not {OUTPUT!r}")
    parameters = _parameters(one)
    if parameters.get("classification"):
        raise RefusedError(400, "outputs[0].parameters.classification: not spoken here; POST /predict names classes")
    return parameters.get("binary_data", _parameters(asked).get("binary_data_output")) is True
