"""Files that were damaged or made to do harm: a value or one line, soon, in little memory; and no code of theirs runs.

Seeded mutations of everything plusx reads back: a weights file, another's checkpoint, a training state, design.toml and
recipe.toml. About 3,000 by default; `-m slow` makes more than 10⁵ and says what came of them.
"""

import json
import os
import pickle
import random
import shutil
import struct
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest
import torch
from safetensors.torch import save, save_file

import plusx
from plusx import run_folder
from plusx.checkpoint import Weights, is_printable, read_weights, write_weights
from plusx.design import BottleneckSpec, BuildingSpec, Design, Head, SmallStem, Stage
from plusx.dialects import convert, identify, load
from plusx.errors import DesignError, InputError, RecipeError, WeightsError
from plusx.network import build
from plusx.recipe import Recipe
from plusx.records import Run
from plusx.state import Position, State, read_state, write_state
from plusx.values import Value
from tests import peers

SECONDS = 2.0
"""Of the processor's time that one file may cost."""

MIB = 192
"""What reading many small files, one after the other, may add to the memory in use at the fullest moment."""

LONGEST = 1_000
"""Characters of a message."""

BYTES = 2**20
"""Of a mutated text, at most: what it costs is to be its making, not its size."""

DESIGN = Design(
    name="net",
    stem=SmallStem(width=4, in_channels=1),
    stages=(
        Stage(depth=1, width=4, block=BuildingSpec()),
        Stage(depth=1, width=8, mid=4, squeeze=2, stride=2, block=BottleneckSpec(shortcut="D")),
    ),
    head=Head(classes=2),
)
WEIGHTS = Weights(DESIGN, build(DESIGN, seed=0).state_dict(), ("a", "b"), 8, (0.5,), (0.25,), {"plusx": "0.1.0"})

# ---------------------------------------------------------------------------------------------------------- hostility

DEEP, HUGE, MANY = "@deep@", "@huge@", "@many@"
"""Stand in for what json.dumps would not write."""

HOSTILE: tuple[Any, ...] = (
    0, 1, -1, 2, 3, 7, 255, 10_000, 10_001, 2**16, 2**20, 2**20 + 1, 2**24, 2**31, 2**63 - 1, 2**63, 2**64, 10**30,
    10**400, 0.0, -0.0, 1e-300, 1e308, -1e308, 1.5, float("nan"), float("inf"), float("-inf"), True, False, None, "",
    "a", "small", "imagenet", "deep", "building", "bottleneck", "1x1", "identity", "A", "C", "D", "full_preact",
    "\ud800", "\0", "a\nb", "\x1b[2J", "\u202egpj", "\u2028", "🧑\u200d🔬", "é" * 500, "x" * 10_000, "__proto__",
    [], {}, [[]], [{}], [None], [1] * 2_000, [{"depth": 1, "width": 4}] * 300, {"kind": "small"},
    {"kind": "deep", "mid": [1, 1]}, {"kind": "bottleneck", "groups": 4}, {"a" * 300: 1}, {"a\nb": 1}, {"": {}},
    {"\x1b": []}, DEEP, HUGE, MANY,
)  # fmt: skip
NAMES = (
    "name",
    "stem",
    "stages",
    "head",
    "block",
    "kind",
    "width",
    "depth",
    "format",
    "classes",
    "lr",
    "a\nb",
    "",
    "é",
)


def as_json(value: Any, rng: random.Random) -> str:
    """JSON of it, with what no writer writes in the place of its stand-ins."""
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    depth = rng.choice([60, 400, 3_000, 100_000])
    left, right = rng.choice([("[", "]"), ('{"a":', "}"), ('{"stem":[', "]}")])
    inner = rng.choice(["", "1"]) if left == "[" else "1"
    for name, hostile in (
        (DEEP, left * depth + inner + right * depth),
        (
            HUGE,
            rng.choice(["9" * 4_000, "9" * 5_000, "1e999999999", "-1E+400", "0." + "3" * 9_999, "NaN", "-Infinity"]),
        ),
        (MANY, f"[{','.join(['0'] * rng.choice([100, 20_000]))}]"),
    ):
        text = text.replace(f'"{name}"', hostile)
    return text


def changed(value: Any, rng: random.Random) -> Any:
    """A copy of a tree in which one place holds something hostile, is gone, is twice there, or has another name."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.15:
        return rng.choice(HOSTILE)
    if isinstance(value, list):
        at = rng.randrange(len(value))
        match rng.randrange(6):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return [*value, value[at]] * rng.choice([1, 1, 50])
        return [*value[:at], changed(value[at], rng), *value[at + 1 :]]
    name = rng.choice([*value])
    match rng.randrange(8):
        case 0:
            return {key: part for key, part in value.items() if key != name}
        case 1:
            return {**value, rng.choice(NAMES): rng.choice(HOSTILE)}
        case 2:
            return {rng.choice(NAMES) if key == name else key: part for key, part in value.items()}
    return {**value, name: changed(value[name], rng)}


def damaged(whole: bytes, rng: random.Random) -> bytes:
    """Bits turned, a piece cut out, doubled, zeroed, or put in; or all behind a place gone. Mostly near either end."""
    if not whole:
        return b"\0"
    data, edge = bytearray(whole), min(len(whole), rng.choice([16, 400, len(whole)]))
    at = rng.randrange(edge)
    at = len(data) - 1 - at if rng.random() < 0.3 else at
    size = rng.choice([1, 2, 8, 64])
    match rng.randrange(7):
        case 0 | 1:
            for _ in range(rng.choice([1, 1, 2, 8])):
                data[rng.randrange(edge) if at < edge else at] ^= 1 << rng.randrange(8)
        case 2:
            del data[at : at + size]
        case 3:
            data[at:at] = data[at : at + size]
        case 4:
            data[at : at + size] = bytes([rng.choice([0, 255])]) * size
        case 5:
            data[at:at] = rng.randbytes(size)
        case _:
            del data[at:]
    return bytes(data)


# ----------------------------------------------------------------------------------------------- safetensors, as bytes


class Parts(NamedTuple):
    """A `.safetensors` taken apart."""

    header: dict[str, Any]
    data: bytes


def apart(whole: bytes) -> Parts:
    (size,) = struct.unpack("<Q", whole[:8])
    return Parts(json.loads(whole[8 : 8 + size]), whole[8 + size :])


def together(header: str, data: bytes, size: int | None = None) -> bytes:
    text = header.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def with_other_length(whole: bytes, rng: random.Random) -> bytes:
    (size,) = struct.unpack("<Q", whole[:8])
    sizes = [
        0,
        1,
        2,
        size - 1,
        size + 1,
        size * 2,
        len(whole),
        len(whole) - 8,
        10**8,
        10**8 + 1,
        2**32,
        2**62,
        2**64 - 1,
    ]
    return struct.pack("<Q", max(0, rng.choice([*sizes, rng.randrange(2**64), rng.randrange(2 * size)]))) + whole[8:]


DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I8", "U8", "U16", "U64", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0",
          "F4", "F6_E2M3", "C64", "f32", "", None, 3)  # fmt: skip


def with_other_entry(whole: bytes, rng: random.Random) -> bytes:
    """One tensor's entry in the header changed: name, dtype, shape or place."""
    parts = apart(whole)
    header = dict(parts.header)
    name = rng.choice([key for key in header if key != "__metadata__"])
    entry = dict(header[name])
    start, end = entry["data_offsets"]
    match rng.randrange(7):
        case 0:
            entry["dtype"] = rng.choice(DTYPES)
        case 1:
            entry["shape"] = rng.choice([[], [0], [2**62, 4], [-1], entry["shape"][::-1], [*entry["shape"], 1],
                                         [2**40] * 3, [1] * 70, rng.choice(HOSTILE)])  # fmt: skip
        case 2:
            far = rng.choice([0, -1, 1, 2**40, 2**63, 2**64 - 1, len(parts.data)])
            entry["data_offsets"] = rng.choice(
                [[start, far], [far, end], [end, start], [far, far], [start], HOSTILE[7]]
            )
        case 3:  # as many bytes as before, of another kind
            kind, width = rng.choice([("F8_E4M3", 4), ("F8_E5M2", 4), ("I32", 1), ("U8", 4), ("BF16", 2), ("C64", 1)])
            entry |= {
                "dtype": kind,
                "shape": [entry["shape"][0] * width, *entry["shape"][1:]] if entry["shape"] else [],
            }
        case 4:
            header[rng.choice(NAMES)] = header.pop(name)
        case 5:
            header[f"{name}.{rng.choice(['x', '', chr(0), 'weight'])}"] = entry
        case _:
            header = changed(header, rng)
    if isinstance(header, dict) and name in header:
        header[name] = entry
    return together(as_json(header, rng), parts.data)


def with_other_metadata(key: str) -> Callable[[bytes, random.Random], bytes]:
    """What plusx wrote as JSON inside of the header, changed."""

    def mutate(whole: bytes, rng: random.Random) -> bytes:
        parts = apart(whole)
        known = dict(parts.header["__metadata__"])
        card = json.loads(known[key])
        for _ in range(rng.choice([1, 1, 2, 4])):
            card = changed(card, rng)
        text = as_json(card, rng)
        if rng.random() < 0.2:
            text = damaged(text.encode("utf-8", "surrogatepass"), rng).decode("utf-8", "replace")
        return together(json.dumps({**parts.header, "__metadata__": {**known, key: text}}), parts.data)

    return mutate


def with_other_tensors(whole: bytes, rng: random.Random) -> bytes:
    """A whole file, in which one tensor is of another kind or shape, or not finite."""
    parts = apart(whole)
    tensors: dict[str, torch.Tensor] = dict(WEIGHTS.tensors)
    name = rng.choice([*tensors])
    tensor = tensors[name].clone()
    kinds = (torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.int8,
             torch.bool, torch.int32, torch.complex64, torch.uint16)  # fmt: skip
    match rng.randrange(5):
        case 0 | 1:
            tensors[name] = tensor.to(rng.choice(kinds))
        case 2 if tensor.is_floating_point():
            tensor.view(-1)[rng.randrange(tensor.numel())] = rng.choice([float("nan"), float("inf"), -float("inf")])
            tensors[name] = tensor.to(rng.choice([torch.float32, torch.float16, torch.float8_e5m2]))
        case 3:
            tensors[name] = rng.choice(
                [tensor[None], tensor.reshape(-1), tensor.new_zeros(0), tensor.new_zeros(3, 0, 2)]
            )
        case _:
            del tensors[name]
            if rng.random() < 0.5:
                tensors[rng.choice([f"{name}x", "", "stem", "stages.9.9.branch.0.conv.weight", "\n"])] = tensor
    return save(tensors, metadata=parts.header["__metadata__"])


# ------------------------------------------------------------------------------------------------------- TOML, as bytes

TOML_VALUES = (
    "0", "-1", "1", "1_000", "0x7fffffffffffffff", "9" * 40, "9" * 4_000, "9" * 5_000, "1e400", "-1e308", "nan", "-inf",
    "true", '""', '"x"', "'small'", '"\\u0000"', '"\\n"', '"\\u202e"', '"\\uD800"', '"""', "2020-01-01", "07:00:00",
    "1979-05-27T07:32:00Z", "[]", "[[]]", "{}", "{ kind = 'small' }", "{ a.b.c = 1 }", "[1, 2, 3]", f"[{'0,' * 5_000}]",
    "[" * 60 + "]" * 60, "[" * 3_000 + "]" * 3_000, "{a=" * 3_000 + "1" + "}" * 3_000, f'"{"x" * 20_000}"', "é",
    "\ufeff", "{" + ".".join("a" * 15) + " = 1}",
)  # fmt: skip
TOML_LINES = (
    "[[stages]]", "[stages]", "[stem]", "[block]", "[head]", "[optimizer]", "[augment]", "[[augment]]", "[a.b.c]",
    "x = 1", "kind = 'deep'", '"" = 1', '"a\\nb" = 1', '"\\u001b[2J" = 1', "'a\tb' = 1", "é = 1", "stem.width = 3",
    "= 1", "[", "#", ".".join("a" * 2_000) + " = 1", "[" + ".".join("a" * 2_000) + "]", "a." * 40_000 + "a = 1",
    "# " + "." * 500, "[" + "b . " * 40_000 + "b]", "'" + "'.'" * 20_000 + "' = 1", "x" * 200_000 + " = 1",
    "x." + "\"" * 5_000, "\0",
)  # fmt: skip


def other_toml(whole: bytes, rng: random.Random) -> bytes:
    lines = whole.decode().splitlines()
    for _ in range(rng.choice([1, 1, 2, 5])):
        at = rng.randrange(len(lines))
        match rng.randrange(7):
            case 0 if "=" in lines[at]:
                lines[at] = f"{lines[at].partition('=')[0]}= {rng.choice(TOML_VALUES)}"
            case 1 if "=" in lines[at]:
                lines[at] = f"{rng.choice(NAMES) or 'x'} ={lines[at].partition('=')[2]}"
            case 2:
                lines.insert(at, rng.choice(TOML_LINES))
            case 3:
                lines.insert(at, rng.choice(lines))
            case 4 if len(lines) > 1:
                del lines[at]
            case 5:
                lines[at] = damaged(lines[at].encode(), rng).decode("utf-8", "replace")
            case _:
                lines = (lines[:at] + lines[at:] * rng.choice([2, 200]))[:5_000]
    return rng.choice(["\n", "\n", "\r\n"]).join(lines).encode("utf-8", "surrogatepass")[:BYTES]


def other_json(whole: bytes, rng: random.Random) -> bytes:
    data = json.loads(whole)
    for _ in range(rng.choice([1, 1, 2, 5])):
        data = changed(data, rng)
    return as_json(data, rng).encode("utf-8", "surrogatepass")


# ------------------------------------------------------------------------------------------------------------- targets

Mutation = Callable[[bytes, random.Random], bytes]
Target = Literal["weights", "loaded", "checkpoint", "state", "design.toml", "design.json", "recipe.toml", "recipe.json"]


@dataclass(frozen=True)
class Case:
    """A kind of file: its name, a whole one, how plusx reads it, how it is changed, and how many times."""

    file: str
    whole: Callable[[Path], bytes]
    read: Callable[[Path], object]
    mutations: tuple[Mutation, ...]
    few: int
    many: int


def whole_weights(folder: Path) -> bytes:
    return write_weights(folder / "whole.safetensors", WEIGHTS).read_bytes()


def whole_checkpoint(folder: Path) -> bytes:
    torch.save(peers.small_state(), folder / "whole.pth")
    return (folder / "whole.pth").read_bytes()


def whole_state(folder: Path) -> bytes:
    position = Position(
        step=7, epoch=1, in_epoch=2, sums={"loss": 1.5}, history=({"epoch": 1, "lr": 0.1},), best_step=5
    )
    write_state(folder / "whole.safetensors", State(position, {f"model.{k}": v for k, v in WEIGHTS.tensors.items()}))
    return (folder / "whole.safetensors").read_bytes()


def whole_toml(value: Value) -> Callable[[Path], bytes]:
    return lambda _: value.to_toml().encode()


def whole_json(value: Value) -> Callable[[Path], bytes]:
    return lambda _: value.to_json().encode()


SAFE = (damaged, with_other_length, with_other_entry)
CARD, POSITION = with_other_metadata("plusx"), with_other_metadata("plusx-state")
SUMS = with_other_metadata("crc")
CASES: dict[Target, Case] = {
    "weights": Case(
        "net.safetensors", whole_weights, read_weights, (*SAFE, CARD, CARD, with_other_tensors), few=700, many=40_000
    ),
    "loaded": Case("net.safetensors", whole_weights, load, (*SAFE, CARD, with_other_tensors), few=300, many=10_000),
    "checkpoint": Case("net.pth", whole_checkpoint, load, (damaged,), few=200, many=4_000),
    "state": Case("step-1.safetensors", whole_state, read_state, (*SAFE, POSITION, SUMS), few=400, many=10_000),
    "design.toml": Case("design.toml", whole_toml(DESIGN), Design.read, (damaged, other_toml), few=500, many=16_000),
    "design.json": Case("design.json", whole_json(DESIGN), Design.read, (damaged, other_json), few=300, many=8_000),
    "recipe.toml": Case("recipe.toml", whole_toml(Recipe()), Recipe.read, (damaged, other_toml), few=400, many=10_000),
    "recipe.json": Case("recipe.json", whole_json(Recipe()), Recipe.read, (damaged, other_json), few=200, many=4_000),
}


class Found(NamedTuple):
    """What came of many mutations: how many of each kind, the slowest's seconds, and MiB added at the fullest."""

    kinds: Counter[str]
    slowest: float
    mib: float


def abused(case: Case, folder: Path, count: int, seed: int) -> Found:
    """Read `count` mutations. Fails for the first that breaks the rules, and leaves its file in the folder."""
    whole, path = case.whole(folder), folder / case.file
    path.write_bytes(whole)
    case.read(path)  # whole, it is read
    kinds: Counter[str] = Counter()
    slowest, before = 0.0, fullest(anew=True)
    for number in range(count):
        rng = random.Random(f"{case.file} {seed} {number}")
        path.write_bytes(rng.choice(case.mutations)(whole, rng))
        started = time.thread_time()
        kind = outcome(case, path, f"{case.file}, seed {seed}, mutation {number}")
        slowest = max(slowest, time.thread_time() - started)
        assert slowest < SECONDS, f"{case.file}, seed {seed}, mutation {number}: {slowest:.1f} s"
        kinds[kind] += 1
    return Found(kinds, slowest, fullest() - before)


def outcome(case: Case, path: Path, which: str) -> str:
    """What reading a file came to: "a value", or the error's name. Fails for an error that a person must not see."""
    try:
        case.read(path)
    except InputError as problem:
        message = str(problem)
        if not (is_printable(message) and len(message) < LONGEST):
            raise AssertionError(f"{which}: {len(message):,} characters: {message[:LONGEST]!r}") from None
        return type(problem).__name__
    except Exception as problem:
        raise AssertionError(f"{which}: {type(problem).__name__}: {str(problem)[:300]}") from problem
    return "a value"


def fullest(*, anew: bool = False) -> float:
    """MiB that this process held at its fullest moment, since it was last counted anew."""
    if anew:
        Path("/proc/self/clear_refs").write_text("5")
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


@pytest.mark.parametrize("target", CASES)
def test_a_mutated_file_is_a_value_or_one_line(target: Target, tmp_path: Path) -> None:
    case = CASES[target]
    found = abused(case, tmp_path, case.few, seed=0)
    assert found.mib < MIB
    assert sum(found.kinds.values()) - found.kinds["a value"] > case.few / 4


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("target", CASES)
def test_many_mutated_files_are_values_or_one_line(target: Target, tmp_path: Path) -> None:
    case, started = CASES[target], time.perf_counter()
    found = abused(case, tmp_path, case.many, seed=1)
    kinds = ", ".join(f"{count:,} × {kind}" for kind, count in found.kinds.most_common())
    print(
        f"{target}: {case.many:,} in {time.perf_counter() - started:.0f} s, the slowest {found.slowest:.2f} s, "
        f"{found.mib:.0f} MiB more: {kinds}"
    )
    assert found.mib < MIB


def test_there_are_100_000_of_them() -> None:
    assert sum(case.many for case in CASES.values()) >= 100_000


# ------------------------------------------------------------------------------------------------------ what was found


def refused(read: Callable[[], object], *words: str, error: type[InputError] = InputError) -> None:
    with pytest.raises(error) as caught:
        read()
    message = str(caught.value)
    assert is_printable(message)
    assert len(message) < LONGEST
    for word in words:
        assert word in message


@pytest.mark.parametrize("parts", [65, 2_000, 100_000])
@pytest.mark.parametrize("key", ["a.", "[a.", "a . ", "'a b'.", '"\\"".'])
def test_a_key_of_many_parts_is_refused_at_once(key: str, parts: int) -> None:
    """A RecursionError of json, and of tomllib seconds that grow with the square of their number."""
    text = f"{key[0] if key[0] == '[' else ''}{key.lstrip('[') * parts}a{']' if key[0] == '[' else ' = 1'}\n"
    started = time.thread_time()
    refused(lambda: Design.from_toml(text), "a key of too many parts", error=DesignError)
    refused(lambda: Recipe.from_toml(DESIGN.to_toml() + text), "a key of too many parts", error=RecipeError)
    assert time.thread_time() - started < SECONDS


def test_nested_data_that_json_would_not_write_is_refused() -> None:
    inner = ".".join("a" * 60)
    refused(lambda: Design.from_toml(f"x = {f'{{ {inner} = ' * 40}1{'}' * 40}"), error=DesignError)
    deep: dict[str, Any] = {}
    for _ in range(5_000):
        deep = {"a": deep}
    refused(lambda: Design.from_dict(deep), error=DesignError)


def test_a_message_repeats_little_of_a_file_and_in_one_line() -> None:
    toml = DESIGN.to_toml()
    for text in (
        '"a\\nb\\u001b[2J" = 1\n' + toml,
        "x" * 10**5 + " = 1\n" + toml,
        toml.replace('"building"', f'"{"x" * 10**5}"'),
        toml.replace("classes = 2", f"classes = {'9' * 4_000}"),
        toml.replace("classes = 2", f"classes = [{'0,' * 10**5}]"),
        toml.replace('kind = "small"', f'kind = "{"small" * 10**4}"'),
    ):
        refused(lambda text=text: Design.from_toml(text), error=DesignError)  # type: ignore[misc]


def test_a_message_about_channels_is_short(tmp_path: Path) -> None:
    path = write_weights(tmp_path / "net.safetensors", WEIGHTS)
    parts = apart(path.read_bytes())
    card = json.loads(parts.header["__metadata__"]["plusx"]) | {"in_channels": HUGE}
    text = json.dumps(card).replace(f'"{HUGE}"', "9" * 4_000)
    path.write_bytes(together(json.dumps({**parts.header, "__metadata__": {"plusx": text}}), parts.data))
    refused(lambda: read_weights(path), "in_channels", error=WeightsError)


@pytest.mark.parametrize("field", ["epochs", "steps", "batch_size", "accumulate"])
def test_a_recipe_counts_no_further_than_anybody_trains(field: str) -> None:
    """They were OverflowErrors of the training that followed."""
    assert Recipe.from_dict({field: 10**9})
    refused(lambda: Recipe.from_dict({field: 10**400}), field, error=RecipeError)


def hostile_card(path: Path, tensors: int, **design: Any) -> Path:
    """A weights file of so many empty tensors, whose header holds a changed Design."""
    parts = apart(write_weights(path, WEIGHTS).read_bytes())
    card = json.loads(parts.header["__metadata__"]["plusx"])
    card["design"] |= design
    entries = {f"t{index}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for index in range(tensors)}
    path.write_bytes(together(json.dumps({"__metadata__": {"plusx": json.dumps(card)}, **entries}), b""))
    return path


def test_a_design_costs_no_more_than_the_tensors_beside_it(tmp_path: Path) -> None:
    """10,000 blocks for 10,000 empty tensors, 0.6 MB, took 9 s and 400 MiB to be found out."""
    blocks = {"depth": 10_000, "width": 4, "block": {"kind": "building"}}
    path, before, started = (
        hostile_card(tmp_path / "a.safetensors", 10_000, stages=[blocks]),
        fullest(anew=True),
        time.thread_time(),
    )
    refused(lambda: read_weights(path), "10000 tensors cannot be those of a Design of 10000 blocks", error=WeightsError)
    assert time.thread_time() - started < SECONDS
    assert fullest() - before < 64


def test_a_header_that_asks_for_the_largest_network_costs_nothing(tmp_path: Path) -> None:
    wide = {"depth": 1, "width": 2**20, "mid": 2**20, "block": {"kind": "bottleneck"}}
    before = fullest(anew=True)
    for design in ({"stages": [wide] * 5}, {"head": {"classes": 2**24}}, {"stem": {"kind": "small", "width": 2**20}}):
        path = hostile_card(tmp_path / "a.safetensors", 500, **design)
        refused(lambda path=path: read_weights(path), error=WeightsError)  # type: ignore[misc]
    assert fullest() - before < 64


HOSTILE_STATES: tuple[dict[str, Any], ...] = (
    {"step": "x"}, {"step": float("nan")}, {"step": []}, {"step": -5}, {"step": 10**30}, {"epoch": "x"}, {"sums": []},
    {"sums": {"loss": "x"}}, {"history": [1]}, {"history": [{}]}, {"history": 3}, {"best_step": "x"}, {"updates": -1},
)  # fmt: skip


@pytest.mark.parametrize("position", HOSTILE_STATES, ids=str)
def test_a_run_at_no_place_of_a_run_is_not_gone_on_with(
    position: dict[str, Any], colours: tuple[Path, Run], tmp_path: Path
) -> None:
    """Most were a traceback of what came after."""
    run, state = resumable(colours[1], tmp_path)
    metadata = apart(state.read_bytes()).header["__metadata__"]
    metadata["plusx-state"] = json.dumps(json.loads(metadata["plusx-state"]) | position)
    save_file(read_state(state).tensors, state, metadata=metadata)
    refused(lambda: plusx.train(resume=run, show=False))


@pytest.mark.parametrize("name", ["foo.x", "x", "optimizer.nope.momentum_buffer", "optimizer.x", "a\nb"])
def test_tensors_that_no_run_has_are_refused(name: str, colours: tuple[Path, Run], tmp_path: Path) -> None:
    run, state = resumable(colours[1], tmp_path)
    known = read_state(state)
    write_state(state, State(known.position, {**known.tensors, name: torch.zeros(1)}))
    refused(lambda: plusx.train(resume=run, show=False))


def resumable(run: Run, folder: Path) -> tuple[Path, Path]:
    """A copy of a run with one checkpoint, and that."""
    shutil.copytree(run.folder, folder / "run")
    *older, state = sorted((folder / "run/checkpoints").iterdir())
    for file in older:
        file.unlink()
    return folder / "run", state


def test_metrics_that_are_nested_deeply_are_none(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(f"{'[' * 100_000}\n{'[' * 100_000}\n")
    assert run_folder.read_about(tmp_path) == {}
    assert run_folder.read_epochs(tmp_path) == []


# ---------------------------------------------------------------------------------------- weights that are not finite


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_not_finite_are_refused(value: float, dtype: torch.dtype, tmp_path: Path) -> None:
    name = "stages.1.0.branch.1.norm.running_var"
    tensors = {**WEIGHTS.tensors, name: WEIGHTS.tensors[name].to(dtype).index_fill(0, torch.tensor([2]), value)}
    path = write_weights(tmp_path / "net.safetensors", WEIGHTS)
    save_file(tensors, path, metadata=apart(path.read_bytes()).header["__metadata__"])
    for read in (read_weights, load, identify):
        refused(lambda read=read: read(path), name, "not finite", error=WeightsError)  # type: ignore[misc]
    refused(lambda: convert(path, tmp_path / "new.safetensors"), name, "not finite", error=WeightsError)
    refused(lambda: write_weights(tmp_path / "new.safetensors", Weights(DESIGN, tensors)), name, error=WeightsError)
    assert not (tmp_path / "new.safetensors").exists()


def test_weights_that_are_not_finite_once_they_are_float32_are_refused(tmp_path: Path) -> None:
    """1e300 was read from float64, and became infinite in the network."""
    tensors = {**WEIGHTS.tensors, "head.fc.bias": torch.full((2,), 1e300, dtype=torch.float64)}
    path = write_weights(tmp_path / "net.safetensors", WEIGHTS)
    save_file(tensors, path, metadata=apart(path.read_bytes()).header["__metadata__"])
    refused(lambda: read_weights(path), "head.fc.bias", "not finite", error=WeightsError)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_eight_bit_floats_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    """torch raised NotImplementedError: it cannot tell of them whether they are finite."""
    path = write_weights(tmp_path / "net.safetensors", WEIGHTS)
    save_file({**WEIGHTS.tensors, "head.fc.bias": torch.zeros(2).to(dtype)}, path,
              metadata=apart(path.read_bytes()).header["__metadata__"])  # fmt: skip
    refused(lambda: read_weights(path), "head.fc.bias is torch.float8", error=WeightsError)


# ------------------------------------------------------------------------------------------------------------- pickles


class Malice:
    """Unpickled, it leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def bare(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


def old(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=0))


def zipped(content: object, path: Path) -> None:
    torch.save(content, path)


def legacy(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


WAYS = (bare, old, zipped, legacy)


@pytest.mark.parametrize("way", WAYS)
def test_the_malice_does_harm_where_it_is_unpickled(way: Callable[[object, Path], None], tmp_path: Path) -> None:
    way(Malice(tmp_path / "trace"), tmp_path / "evil")
    torch.load(tmp_path / "evil", weights_only=False) if way in (zipped, legacy) else pickle.loads(
        (tmp_path / "evil").read_bytes()
    )
    assert (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    "name", ["a.pth", "a.pt", "a.bin", "a.ckpt", "a.tar", "a.safetensors", "pytorch_model.bin", "a.onnx"]
)
@pytest.mark.parametrize("way", WAYS)
def test_a_malicious_pickle_is_refused_and_does_not_run(
    way: Callable[[object, Path], None], name: str, tmp_path: Path
) -> None:
    trace, path = tmp_path / "trace", tmp_path / "in" / name
    path.parent.mkdir()
    way({"state_dict": {"conv1.weight": torch.zeros(1)}, "x": Malice(trace)}, path)
    reads: tuple[Callable[[Path], object], ...] = (
        load, identify, read_weights, plusx.evaluate, lambda path: convert(path, tmp_path / "new.safetensors"),
        lambda path: plusx.predict(path, "x.png"), lambda path: plusx.push(path, output=tmp_path / "out"),
        lambda path: plusx.train(weights=path, out=tmp_path / "run", show=False),
    )  # fmt: skip
    for read in reads:
        refused(lambda read=read: read(path))  # type: ignore[misc]
        refused(lambda read=read: read(path.parent))  # type: ignore[misc]
    assert not trace.exists()
    assert sorted(tmp_path.iterdir()) == [path.parent]


@pytest.mark.parametrize("way", WAYS)
def test_a_malicious_pickle_in_a_run_folder_is_refused_and_does_not_run(
    way: Callable[[object, Path], None], colours: tuple[Path, Run], tmp_path: Path
) -> None:
    trace, run = tmp_path / "trace", tmp_path / "run"
    shutil.copytree(colours[1].folder, run)
    for kept in [*(run / "checkpoints").iterdir()]:
        way({"model": {}, "x": Malice(trace)}, kept)
    way(Malice(trace), run / "checkpoints" / "step-99999999.safetensors")
    way(Malice(trace), run / "checkpoints" / "step-99999999.pth")
    way(Malice(trace), run / "model.safetensors")
    reads: tuple[Callable[[], object], ...] = (
        lambda: plusx.train(resume=run, show=False), lambda: plusx.evaluate(run), lambda: load(run),
        lambda: plusx.report(run), lambda: plusx.push(run, output=tmp_path / "out"),
        lambda: read_state(run / "checkpoints" / "step-99999999.safetensors"),
    )  # fmt: skip
    for read in reads:
        refused(read)
    assert plusx.runs(run.parent)
    assert not trace.exists()
