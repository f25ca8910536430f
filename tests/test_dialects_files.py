"""What files hold, how they are read and written: wrappers, folders, hints, adaptation, reports, conversions."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import plusx
from plusx import dialects, families
from plusx.checkpoint import Weights, write_weights
from plusx.design import BottleneckSpec, BuildingSpec, DeepStem, Design, Head, ImageNetStem, SmallStem, Stage
from plusx.dialects import limits
from plusx.errors import DesignError, WeightsError, WorkError
from plusx.predict import predict
from tests import peers
from tests.test_dialects_bad import refused

State = dict[str, Tensor]


@pytest.fixture
def state() -> State:
    return peers.small_state()


@pytest.fixture
def file(state: State, tmp_path: Path) -> Path:
    torch.save(state, tmp_path / "net.pth")
    return tmp_path / "net.pth"


def identified(content: Any, folder: Path, **options: Any) -> dialects.Identification:
    torch.save(content, folder / "some.pth")
    return dialects.identify(folder / "some.pth", **options)


# Wrappers


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    ("wrap", "wrappers"),
    [
        (lambda s: s, ()),
        (lambda s: {"state_dict": s, "epoch": 3}, ("state_dict",)),
        (lambda s: {"model": prefixed(s, "module.")}, ("model", "module.")),
        (lambda s: {"net": prefixed(s, "module._orig_mod.")}, ("net", "module.", "_orig_mod.")),
        (lambda s: {"model_state_dict": {"model": prefixed(s, "model.backbone.")}}, None),
        (lambda s: {"something": s}, ("something",)),
        (lambda s: (nn.ParameterDict({}) and s) or s, ()),
    ],
)
def test_wrappers_are_seen_through(
    wrap: Callable[[State], Any], wrappers: tuple[str, ...] | None, state: State, tmp_path: Path
) -> None:
    found = identified(wrap(state), tmp_path)
    assert found.design == families.cifar(8).replace(name="", stages=found.design.stages)
    assert found.name == "cifar_resnet8 with shortcut B"
    assert wrappers is None or found.wrappers == wrappers


def test_what_is_left_aside_is_named(state: State, tmp_path: Path) -> None:
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}
    content = {"state_dict": {**state, "n_averaged": torch.tensor(3)}, "optimizer": optimizer, "epoch": 7, "best": 91.2}
    assert identified(content, tmp_path).ignored == ("optimizer", "epoch", "best", "n_averaged")


@pytest.mark.parametrize("key", ["model_ema", "state_dict_ema", "ema"])
def test_averaged_weights_are_preferred_and_the_last_ones_can_be_had(key: str, state: State, tmp_path: Path) -> None:
    averaged = {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    torch.save({"state_dict": state, key: prefixed(averaged, "module.")}, tmp_path / "a.pth")
    stem = "stem.0.conv.weight"
    assert torch.equal(dialects.load(tmp_path / "a.pth").network.state_dict()[stem], averaged["conv1.weight"])
    assert torch.equal(dialects.load(tmp_path / "a.pth", ema=False).network.state_dict()[stem], state["conv1.weight"])


def test_several_networks_in_one_file_are_not_guessed_between(state: State, tmp_path: Path) -> None:
    torch.save({"student": state, "teacher": state}, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", "several networks", "student, teacher")


# Hints and what tensors cannot tell


def flags(found: dialects.Identification) -> list[str]:
    return [choice.flag for choice in found.choices]


def test_only_what_this_file_leaves_open_is_named(state: State, tmp_path: Path) -> None:
    bottlenecks = peers.CifarNetwork((1, 1, 1, 1), 16, 4, "shortcut", "linear")
    assert flags(identified(state, tmp_path)) == []
    assert flags(identified(peers.akamaster(8).state_dict(), tmp_path)) == ["--shortcut A"]
    assert flags(identified(bottlenecks.state_dict(), tmp_path)) == ["--stride-on 1x1"]
    basic = peers.transformers("basic", (1, 1), hidden_sizes=(64, 96), num_labels=2)
    assert flags(identified(basic.state_dict(), tmp_path)) == []
    deep = peers.transformers("bottleneck", (1, 1), hidden_sizes=(64, 96), embedding_size=32, num_labels=2)
    assert flags(identified(deep.state_dict(), tmp_path)) == ["--strides 2,2", "--stride-on 1x1"]


def test_each_flag_changes_what_it_says(tmp_path: Path) -> None:
    state = peers.akamaster(8).state_dict()
    assert identified(state, tmp_path).name == "cifar_resnet8 with shortcut A-centred"
    assert identified(state, tmp_path, shortcut="A").name == "cifar_resnet8"
    assert identified(state, tmp_path, skip=False).name == "cifar_plain8"
    own = plusx.build(families.cifar(8)).state_dict()
    assert identified(own, tmp_path).design.name == "cifar_resnet8"
    assert identified(own, tmp_path, order="relu_preact").name == "cifar_resnet8 with order relu_preact"
    assert identified(own, tmp_path, strides=(1, 2, 1)).name == "cifar_resnet8 with output stride 2"
    assert identified(own, tmp_path, output_stride=2).design == families.cifar(8).with_output_stride(2).replace(name="")


@pytest.mark.parametrize(
    ("hints", "words"),
    [
        ({"stride_on": "1x1"}, ("stride_on", "no use")),
        ({"shortcut": "A"}, ("shortcut 'A'", "possible: B")),
        ({"shortcut": "Z"}, ("shortcut 'Z'",)),
        ({"skip": False}, ("skip False",)),
        ({"order": "full_preact"}, ("order", "no use")),
        ({"strides": (1, 2)}, ("strides",)),
        ({"output_stride": 3}, ("output_stride",)),
    ],
)
def test_a_hint_that_the_file_leaves_no_room_for_is_refused(
    hints: dict[str, Any], words: tuple[str, ...], file: Path
) -> None:
    refused(file, *words, **hints)


def test_the_report_says_it_all_to_people_and_to_programs(tmp_path: Path) -> None:
    net = peers.scramble(peers.timm("seresnet18", num_classes=7, in_chans=1))
    found = identified({"model": net.state_dict()}, tmp_path)
    text, data = str(found), found.to_dict()
    assert found.name == "seresnet18 with 7 classes, 1 input channel"
    assert "squeeze-excitation" not in found.name
    for word in ("seresnet18", "timm", "model", "building", "--output-stride 16", "float32"):
        assert word in text
    assert json.loads(json.dumps(data)) == data
    assert (data["dialect"], data["classes"], data["in_channels"], data["layers"]) == ("timm", 7, 1, 18)
    assert data["params"] == sum(p.numel() for p in net.parameters())
    assert data["tensors"] == len(net.state_dict())
    assert Design.from_dict(data["design"]) == found.design


# Loading


def test_loading_gives_the_same_logits_in_eval_mode_and_trainable(file: Path, state: State) -> None:
    loaded = dialects.load(file)
    assert not loaded.network.training
    assert all(parameter.requires_grad for parameter in loaded.network.parameters())
    assert loaded.report.counts == {"kept": len(state), "adapted": 0, "dropped": 0, "fresh": 0}
    assert loaded.design is loaded.network.design


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32_and_it_is_said(dtype: torch.dtype, state: State, tmp_path: Path) -> None:
    other = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    save_file(other, tmp_path / "a.safetensors")
    loaded = dialects.load(tmp_path / "a.safetensors")
    assert {p.dtype for p in loaded.network.parameters()} == {torch.float32}
    assert torch.equal(loaded.network.state_dict()["head.fc.bias"], other["fc.bias"].float())
    assert "to float32" in loaded.report.tensors[0].how
    assert loaded.report.identification.dtypes == (str(dtype).removeprefix("torch."),)


def test_another_number_of_classes_gets_a_fresh_seeded_head(file: Path, state: State) -> None:
    one, again, other = (dialects.load(file, num_classes=5, seed=seed) for seed in (0, 0, 1))
    weight = "head.fc.weight"
    assert one.network(torch.zeros(1, 3, 32, 32)).shape == (1, 5)
    assert torch.equal(one.network.state_dict()[weight], again.network.state_dict()[weight])
    assert not torch.equal(one.network.state_dict()[weight], other.network.state_dict()[weight])
    assert one.report.counts == {"kept": len(state) - 2, "adapted": 0, "dropped": 2, "fresh": 2}
    assert dialects.load(file, num_classes=10).report.counts["fresh"] == 0
    assert dialects.load(file, num_classes=0).network(torch.zeros(1, 3, 32, 32)).shape == (1, 64)
    assert "dropped" in str(one.report)
    assert "fc.weight" in str(one.report)


def test_a_grey_image_gives_what_its_three_equal_channels_would(file: Path) -> None:
    whole, grey = dialects.load(file).network, dialects.load(file, in_channels=1).network
    x = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(grey(x), whole(x.expand(-1, 3, -1, -1)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_the_stem_adapts_as_timms_does(channels: int, file: Path, state: State) -> None:
    from timm.models import adapt_input_conv

    loaded = dialects.load(file, in_channels=channels)
    expected = adapt_input_conv(channels, state["conv1.weight"])
    torch.testing.assert_close(loaded.network.state_dict()["stem.0.conv.weight"], expected)
    assert [tensor.theirs for tensor in loaded.report.tensors if tensor.fate == "adapted"] == ["conv1.weight"]
    assert loaded.design.stem.in_channels == channels


@pytest.mark.parametrize("options", [{"num_classes": -1}, {"in_channels": 0}, {"num_classes": "5"}])
def test_impossible_sizes_are_refused(options: dict[str, Any], file: Path) -> None:
    with pytest.raises(DesignError):
        dialects.load(file, **options)


def test_a_file_can_be_held_to_a_design(tmp_path: Path) -> None:
    state = peers.scramble(peers.torchvision("resnet18", num_classes=5)).state_dict()
    torch.save(state, tmp_path / "a.pth")
    assert dialects.load(tmp_path / "a.pth", design="resnet18").design == families.design("resnet18").with_classes(5)
    refused(tmp_path / "a.pth", "resnet34", design="resnet34")
    refused(
        tmp_path / "a.pth", "fc.weight is [5, 512], where resnet18 has [1000, 512]", design=families.design("resnet18")
    )
    with pytest.raises(DesignError, match="did you mean"):
        dialects.load(tmp_path / "a.pth", design="resnt18")


def test_files_without_batch_counters_are_as_good(state: State, tmp_path: Path) -> None:
    """torch counts batches since 0.4.1; older files are still about."""
    torch.save({n: t for n, t in state.items() if "num_batches" not in n}, tmp_path / "old.pth")
    loaded = dialects.load(tmp_path / "old.pth")
    assert loaded.report.counts["fresh"] == sum("num_batches" in name for name in state)
    assert int(loaded.network.state_dict()["stem.0.norm.num_batches_tracked"]) == 0


def test_two_names_for_one_memory_become_two_tensors(state: State, tmp_path: Path) -> None:
    state["bn1.weight"] = state["bn1.bias"]
    torch.save(state, tmp_path / "tied.pth")
    found = dialects.load(tmp_path / "tied.pth").network.state_dict()
    assert found["stem.0.norm.weight"].data_ptr() != found["stem.0.norm.bias"].data_ptr()


# What the caller says beside the tensors

IMAGES: dict[str, Any] = {"input_size": 32, "mean": (0.5, 0.4, 0.3), "std": [0.1, 0.2, 0.3]}


def test_what_other_peoples_files_do_not_say_can_be_said(file: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\ufeff" + "\r\n".join(f"class {index}" for index in range(10)) + "\r\n", encoding="utf-8")
    report = dialects.convert(file, tmp_path / "a.safetensors", classes=names, **IMAGES)
    assert report.notes == ()
    Image.new("RGB", (40, 40), "red").save(tmp_path / "red.png")
    assert predict(tmp_path / "a.safetensors", [tmp_path / "red.png"]).images[0].top[0].name.startswith("class ")
    loaded = dialects.load(file, num_classes=2, classes=("a", "b"), **IMAGES)
    assert (loaded.classes, loaded.input_size) == (("a", "b"), 32)
    assert (loaded.mean, loaded.std) == ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    assert loaded.report.notes == ()


def test_what_is_not_known_is_said_with_the_option_that_says_it(file: Path, tmp_path: Path) -> None:
    notes = dialects.convert(file, tmp_path / "a.safetensors", mean=(0.5,) * 3).notes
    assert notes[0].startswith("input_size, std are not known")
    assert notes[0].endswith("say --input-size, --std")
    assert "--classes" in notes[1]
    assert dialects.load(file).report.to_dict()["notes"][0] in str(dialects.load(file).report).replace("\n", "")
    with pytest.raises(WeightsError, match="plusx convert takes them as --input-size, --std"):
        predict(tmp_path / "a.safetensors", [tmp_path / "none.png"])
    torch.save(peers.scramble(peers.torchvision("resnet18")).state_dict(), tmp_path / "b.pth")
    loaded = dialects.load(tmp_path / "b.pth")
    assert "0.485,0.456,0.406" in loaded.report.notes[0]
    assert (loaded.input_size, loaded.mean, loaded.std) == (None, (), ())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"classes": ("a",)}, ("1 class names for a head of 10",)),
        ({"classes": ("\x1b[31m", *"bcdefghij")}, ("classes: '\\x1b[31m'", "cannot be printed")),
        ({"classes": (1, 2)}, ("classes[0]: 1",)),
        ({"input_size": 3}, ("input_size 3 vanishes",)),
        ({"input_size": 10**12}, ("input_size", "65535")),
        ({"input_size": "32"}, ("input_size: '32'",)),
        ({"mean": (0.5,)}, ("mean has 1 values for 3",)),
        ({"mean": (1e308,) * 3}, ("mean[0]",)),
        ({"mean": 0.5}, ("mean: 0.5",)),
        ({"std": (0.0,) * 3}, ("std[0]",)),
        ({"std": (float("nan"),) * 3}, ("std[0]",)),
    ],
)
def test_what_is_said_must_fit(options: dict[str, Any], words: tuple[str, ...], file: Path, tmp_path: Path) -> None:
    refused(file, *words, **options)
    with pytest.raises(WeightsError):
        dialects.convert(file, tmp_path / "a.safetensors", **options)
    assert not (tmp_path / "a.safetensors").exists()


@pytest.mark.parametrize(
    ("content", "words"), [(b"a\n\nb\n", "line 2 is empty"), (b"\xff\xfe", "UTF-8"), (None, "No such")]
)
def test_a_wrong_file_of_names_is_refused(content: bytes | None, words: str, file: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    if content is not None:
        names.write_bytes(content)
    with pytest.raises(WeightsError, match=f"reading {names}: .*{words}"):
        dialects.load(file, classes=names)


def test_what_a_dialect_has_no_place_for_is_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"input_size, mean, std of no use: what chenyaofo"):
        dialects.convert(file, tmp_path / "a.pth", to="chenyaofo", **IMAGES)
    torch.save(peers.transformers("basic", (1,), hidden_sizes=(64,), num_labels=2).state_dict(), tmp_path / "b.pth")
    dialects.convert(tmp_path / "b.pth", tmp_path / "out", to="transformers", classes=("cat", "dog"))
    assert dialects.load(tmp_path / "out").classes == ("cat", "dog")


# Folders


def test_a_timm_folder_tells_classes_mean_and_std(tmp_path: Path) -> None:
    net = peers.scramble(peers.timm("resnet18", num_classes=2))
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    cfg = {"input_size": [3, 160, 160], "mean": [0.5, 0.4, 0.3], "std": [0.1, 0.2, 0.3]}
    config = {"architecture": "resnet18", "label_names": ["cat", "dog"], "pretrained_cfg": cfg}
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = dialects.load(tmp_path)
    assert (loaded.classes, loaded.input_size) == (("cat", "dog"), 160)
    assert (loaded.mean, loaded.std) == ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    (tmp_path / "config.json").write_text(json.dumps({**config, "architecture": "resnetblur18"}))
    refused(tmp_path, "resnetblur18", "anti-aliasing")


def test_a_transformers_folder_keeps_class_names_there_and_back(tmp_path: Path) -> None:
    net = peers.transformers("basic", (1, 1), hidden_sizes=(32, 64), id2label={0: "cat", 1: "dog"})
    peers.scramble(net).save_pretrained(tmp_path / "a")  # type: ignore[operator]
    images = {"image_mean": [0.5] * 3, "image_std": [0.2] * 3, "size": {"shortest_edge": 96}}
    (tmp_path / "a" / "preprocessor_config.json").write_text(json.dumps(images))
    dialects.convert(tmp_path / "a", tmp_path / "b.safetensors")
    dialects.convert(tmp_path / "b.safetensors", tmp_path / "c", to="transformers")
    loaded = dialects.load(tmp_path / "b.safetensors")
    assert (loaded.classes, loaded.mean, loaded.std) == (("cat", "dog"), (0.5,) * 3, (0.2,) * 3)
    assert loaded.input_size == 96
    assert dialects.load(tmp_path / "c").classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ('{"model_type": "vit"}', ("model_type 'vit'",)),
        ('{"model_type": "resnet", "hidden_act": "gelu"}', ("hidden_act 'gelu'",)),
        ("[1]", ("config.json holds no table",)),
        ("{", ("config.json is not JSON",)),
    ],
)
def test_a_folder_of_something_else_is_refused(
    config: str, words: tuple[str, ...], state: State, tmp_path: Path
) -> None:
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(config)
    refused(tmp_path, *words)


def test_a_run_folder_is_as_good_as_its_file(tmp_path: Path) -> None:
    design = families.cifar(8)
    (tmp_path / "run").mkdir()
    weights = Weights(design, plusx.build(design, seed=0).state_dict(), classes=tuple("abcdefghij"))
    write_weights(tmp_path / "run" / "model.safetensors", weights)
    assert dialects.load(tmp_path / "run").classes == tuple("abcdefghij")
    assert dialects.identify(tmp_path / "run").design == design


def test_a_file_that_carries_its_design_is_called_by_its_own_name(tmp_path: Path) -> None:
    cifar = families.cifar(8)
    wide = cifar.replace(
        name="cifar_resnet8_2",
        stem=SmallStem(width=32),
        stages=tuple(stage.replace(width=2 * stage.width) for stage in cifar.stages),
    )
    for name, words in (("cifar_resnet8_2", "cifar_resnet8_2"), ("resnet50", "wrn10_2 with"), ("", "wrn10_2 with")):
        design = wide.replace(name=name)
        write_weights(tmp_path / "a.safetensors", Weights(design, plusx.build(design, seed=0).state_dict()))
        assert dialects.identify(tmp_path / "a.safetensors").name.startswith(words)


# Converting


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_convert_never_overwrites_unless_asked(suffix: str, file: Path, tmp_path: Path, state: State) -> None:
    target = tmp_path / f"out{suffix}"
    target.write_text("mine")
    with pytest.raises(WeightsError, match="exists already"):
        dialects.convert(file, target, to="chenyaofo")
    assert target.read_text() == "mine"
    report = dialects.convert(file, target, to="chenyaofo", overwrite=True)
    back = load_file(target) if suffix == ".safetensors" else torch.load(target, weights_only=True)
    assert set(back) == set(state)
    assert report.to_dict()["files"] == [str(target)]
    assert str(target) in str(report).replace("\n", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["net.pth", target.name])


def test_an_existing_folder_of_transformers_is_not_touched(tmp_path: Path) -> None:
    net = peers.scramble(peers.transformers("basic", (1,), hidden_sizes=(32,), num_labels=2))
    torch.save(net.state_dict(), tmp_path / "a.pth")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text("mine")
    with pytest.raises(WeightsError, match="exists already"):
        dialects.convert(tmp_path / "a.pth", tmp_path / "out", to="transformers")
    assert (tmp_path / "out" / "config.json").read_text() == "mine"


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    place = tmp_path / "tiny"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a disk")
    yield place
    # lazily: torch's writer keeps a file that it could not finish open until the error is forgotten
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize(
    ("name", "to"), [("out.pth", "chenyaofo"), ("out.safetensors", "plusx"), ("out", "transformers")]
)
def test_a_full_disk_is_one_line_and_leaves_nothing(name: str, to: Any, file: Path, tiny_disk: Path) -> None:
    if to == "transformers":
        torch.save(peers.transformers("basic", (1,), hidden_sizes=(64,), num_labels=2).state_dict(), file)
    for _ in range(2):  # again: no "exists already"
        with pytest.raises(WorkError, match=f"writing {tiny_disk / name}") as caught:
            dialects.convert(file, tiny_disk / name, to=to)
        assert "\n" not in str(caught.value)
        assert "inline_container" not in str(caught.value)
        assert list(tiny_disk.iterdir()) == []


def test_a_full_disk_leaves_an_old_folder_as_it_was(tiny_disk: Path, tmp_path: Path) -> None:
    torch.save(peers.transformers("basic", (1,), hidden_sizes=(64,), num_labels=2).state_dict(), tmp_path / "a.pth")
    (tiny_disk / "out").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tiny_disk / "out" / name).write_text("old")
    with pytest.raises(WorkError):
        dialects.convert(tmp_path / "a.pth", tiny_disk / "out", to="transformers", overwrite=True)
    assert {path.name: path.read_text() for path in (tiny_disk / "out").iterdir()} == {
        "config.json": "old",
        "model.safetensors": "old",
    }


@pytest.mark.parametrize(
    ("target", "to", "words"),
    [
        ("out.safetensors", "torchvison", "did you mean 'torchvision'"),
        ("out.safetensors", "", "is not one of"),
        ("out.onnx", "timm", ".onnx is not one of"),
        ("out.pth", "plusx", ".pth is not one of .safetensors"),
        ("out", "torchvision", "no suffix"),
        ("no/such/out.pth", "torchvision", "there is no folder"),
    ],
)
def test_a_wrong_target_is_refused_before_anything_is_read(target: str, to: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=words):
        dialects.convert(tmp_path / "missing.pth", tmp_path / target, to=to)
    assert list(tmp_path.iterdir()) == []


def _design(
    block: Any, stem: Any = None, widths: tuple[int, ...] = (64, 128, 256, 512), inner: int = 1, **stage: Any
) -> Design:
    bottleneck = block.kind == "bottleneck"
    widths = tuple(4 * width for width in widths) if bottleneck else widths
    stages = [
        Stage(depth=1, width=w, mid=w * inner // 4 if bottleneck else None, stride=2 if i else 1, block=block, **stage)
        for i, w in enumerate(widths)
    ]
    return Design(stem=stem or ImageNetStem(), stages=tuple(stages), head=Head(classes=3))


INEXPRESSIBLE = [
    (_design(BuildingSpec(), SmallStem()), "torchvision", "stem.kind 'small'"),
    (_design(BuildingSpec(), DeepStem()), "torchvision", "stem.kind 'deep'"),
    (_design(BuildingSpec(), ImageNetStem(width=32)), "torchvision", "stem.width 32"),
    (_design(BuildingSpec(shortcut="C")), "timm", "block.shortcut 'C'"),
    (_design(BuildingSpec(skip=False)), "torchvision", "block.skip false"),
    (_design(BuildingSpec(order="relu_preact")), "timm", "block.order 'relu_preact'"),
    (_design(BuildingSpec(groups=2)), "torchvision", "block.groups 2"),
    (_design(BottleneckSpec(groups=2)), "transformers", "block.groups 2"),
    (_design(BottleneckSpec(stride_on="1x1")), "torchvision", "block.stride_on '1x1'"),
    (_design(BuildingSpec(), squeeze=8), "transformers", "squeeze-excitation"),
    (_design(BuildingSpec(), squeeze=8), "timm", "squeeze 8"),
    (_design(BuildingSpec(), widths=(64, 128)), "torchvision", "2 stages"),
    (_design(BuildingSpec(), widths=(64, 96, 128, 160)), "torchvision", "stages\\[\\].width"),
    (_design(BuildingSpec(order="full_preact")), "timm", "identity shortcut"),
    (_design(BottleneckSpec()).with_output_stride(8), "transformers", "dilation"),
    (_design(BuildingSpec()).with_output_stride(8), "torchvision", "dilation"),
    (_design(BottleneckSpec()).with_classes(0), "torchvision", "head.classes 0"),
    (_design(BuildingSpec(), DeepStem(mid=(8, 16))), "timm", "stem.mid"),
    (families.design("cifar_resnet20"), "akamaster", "block.shortcut 'A'"),
    (families.wrn(10, 1), "chenyaofo", "block.order"),
    (_design(BottleneckSpec(), widths=(16, 32), inner=2), "transformers", "stages\\[\\].mid"),
]


@pytest.mark.parametrize(("design", "to", "words"), INEXPRESSIBLE)
def test_a_design_that_a_dialect_cannot_express_is_refused_by_its_part(
    design: Design, to: Any, words: str, tmp_path: Path
) -> None:
    source, target = tmp_path / "a.safetensors", tmp_path / "out.pth"
    write_weights(source, Weights(design, plusx.build(design, seed=0).state_dict()))
    with pytest.raises(WeightsError, match=f"{to} cannot express .*{words}"):
        dialects.convert(source, target, to=to)
    assert not target.exists()


@pytest.mark.parametrize("to", limits.TARGETS)
def test_what_a_dialect_can_express_has_names_for_every_tensor(to: limits.Target) -> None:
    """Over every published Design: either a problem is named, or the names are there and read back as they were."""
    written = 0
    for name in families.names():
        design = families.design(name)
        if limits.problem(design, to) or to == "plusx":
            continue
        ours = list(plusx.build(design, device="meta").state_dict())
        table = limits.table(design, to)
        theirs = table.from_plusx(ours)
        assert len(set(theirs.values())) == len(ours)
        assert table.to_plusx(theirs.values()) == {their: our for our, their in theirs.items()}
        written += 1
    assert written > 0 or to in ("plusx", "akamaster", "chenyaofo", "kuangliu")
