"""Images inside larger files: CIFAR-100, WebDataset shards written by webdataset, Hugging Face datasets."""

import io
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from plusx.data import Loader, loader, open_data
from plusx.errors import DataError
from tests.images import COLOURS, cifar100_files, colour_folders, noisy


def wrong(spec: str, *words: str) -> None:
    with pytest.raises(DataError) as problem:
        open_data(spec)
    message = str(problem.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_cifar100_takes_the_fine_labels(tmp_path: Path) -> None:
    folder = cifar100_files(tmp_path / "cifar-100-binary")
    for spec in (f"cifar100:{folder}", str(folder), f"cifar100:{tmp_path}", str(tmp_path)):
        data = open_data(spec)
        assert data.test is not None
        assert (data.name, len(data.train), len(data.test), len(data.classes)) == ("cifar100", 200, 200, 100)
        assert (data.classes[0], data.classes[11], data.classes[99]) == ("apple", "boy", "worm")
        assert data.train.labels.tolist() == [i % 100 for i in range(200)]
        assert data.train.pixels(150, 32, 3)[3, 4].tolist() == [50, 51, 52]
        assert open_data(data.spec).name == "cifar100"
    (folder / "train.bin").write_bytes(bytes([0, 100]) + bytes(3072))
    wrong(f"cifar100:{folder}", "label of 100", "0 to 99")
    (folder / "test.bin").unlink()
    wrong(f"cifar100:{folder / 'no'}", "no such folder")


def shards(folder: Path, each: int = 6, parts: tuple[str, ...] = ("train",), named: bool = False) -> Path:
    """Two archives for each part, by webdataset's own writer."""
    from webdataset import ShardWriter

    folder.mkdir()
    for part in parts:
        with ShardWriter(str(folder / f"{part}-%03d.tar"), maxcount=each, verbose=0) as writer:
            for number in range(2 * each):
                label = number % 3
                data = io.BytesIO()
                noisy(list(COLOURS.values())[label], number).save(data, "png")
                name = {"txt": list(COLOURS)[label]} if named else {"cls": label}
                writer.write({"__key__": f"{number:06}", "png": data.getvalue(), **name})
    return folder


@pytest.mark.parametrize("named", [False, True])
def test_shards_of_webdataset(tmp_path: Path, named: bool) -> None:
    folder = shards(tmp_path / "shards", named=named)
    for spec in (f"wds:{folder}", f"wds:{folder}/train-{{000..001}}.tar"):
        data = open_data(spec)
        assert data.classes == (tuple(sorted(COLOURS)) if named else ("0", "1", "2"))
        assert data.train.labels.tolist() == [number % 3 for number in range(12)]
        assert len(set(data.train.keys)) == 12
        assert data.train.keys == open_data(spec).train.keys
        assert (data.train.short_side(), data.train.grey()) == (16, False)
        held = Loader(data.train, 8, 3)
        pixels, labels = held[torch.tensor([7, 0])]
        assert labels.tolist() == [1, 0]
        assert pixels.float().mean((2, 3)).argmax(1).tolist() == [1, 2]  # green, blue
        train, val, _ = data.split(0.34, 0)
        assert len(train) == 9
        assert not set(train.keys) & set(val.keys)
    assert open_data(f"wds:{folder}/train-001.tar").train.labels.tolist() == [0, 1, 2] * 2


def test_shards_of_parts(tmp_path: Path) -> None:
    data = open_data(f"wds:{shards(tmp_path / 's', parts=('train', 'val', 'test'))}")
    assert data.val is not None
    assert data.test is not None
    assert [len(part) for part in (data.train, data.val, data.test)] == [12, 12, 12]


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_stream_and_are_kept(tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUSX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(loader, "WORTH_KEEPING", 1)
    data = open_data(f"wds:{shards(tmp_path / 'shards')}")
    held = Loader(data.train, 8, 3)
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 1
    monkeypatch.setattr(loader, "MEMORY_LIMIT", 10)
    streamed = Loader(data.train, 8, 3, workers=workers)
    order = [torch.tensor([3, 1, 11]), torch.tensor([0, 2])]
    for (x, a), (y, b) in zip(
        held.batches(order, epoch=0, seed=0), streamed.batches(order, epoch=0, seed=0), strict=True
    ):
        assert torch.equal(x, y)
        assert torch.equal(a, b)
    streamed.close()


def test_wrong_shards_are_one_line(tmp_path: Path) -> None:
    folder = shards(tmp_path / "shards")
    wrong(f"wds:{folder}/train-{{000..002}}.tar", "train-002.tar")
    (tmp_path / "none").mkdir()
    wrong(f"wds:{tmp_path / 'none'}", "no .tar files")
    whole = (folder / "train-000.tar").read_bytes()
    (folder / "train-000.tar").write_bytes(b"not an archive" * 100)
    wrong(f"wds:{folder}", "train-000.tar")
    (folder / "train-000.tar").write_bytes(whole.replace(b"000003.cls", b"000003.cla"))
    with pytest.raises(DataError):
        open_data(f"wds:{folder}")
    (folder / "train-000.tar").write_bytes(whole)
    held = open_data(f"wds:{folder}")
    at = whole.index(b"PNG")
    (folder / "train-000.tar").write_bytes(whole[:at] + bytes(200) + whole[at + 200 :])
    with pytest.raises(DataError, match=r"train-000\.tar/000000\.png"):
        Loader(held.train, 8, 3)
    for name in ("train-000.tar", "train-001.tar"):
        (folder / name).rename(folder / name.replace("train", "val"))
    wrong(f"wds:{folder}", "none is left to train on")


def saved(tmp_path: Path, how: str) -> Path:
    """The three colours as Hugging Face's library keeps them."""
    import datasets

    source = colour_folders(tmp_path / "source" / "train", images=4).parent
    if how == "imagefolder":
        return source
    loaded = datasets.load_dataset("imagefolder", data_dir=str(source), cache_dir=str(tmp_path / "hub"))
    folder = tmp_path / how
    if how == "disk":
        loaded.save_to_disk(str(folder))
        return folder
    folder.mkdir()
    rows = [
        {"image": {"bytes": Path(r["image"]["path"]).read_bytes(), "path": None}, "label": r["label"]}
        for r in loaded["train"].cast_column("image", datasets.Image(decode=False))
    ]
    datasets.Dataset.from_list(rows, features=loaded["train"].features).to_parquet(str(folder / "train-0.parquet"))
    return folder


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("how", ["imagefolder", "parquet", "disk"])
def test_hugging_face(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    data = open_data(f"hf:{saved(tmp_path, how)}")
    assert data.classes == ("blue", "green", "red")
    assert data.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert (data.train.short_side(), data.train.grey()) == (16, False)
    held = Loader(data.train, 8, 3)
    assert held[torch.tensor([9, 1])][0].float().mean((2, 3)).argmax(1).tolist() == [0, 2]
    again = pickle.loads(pickle.dumps(data.train))
    assert np.array_equal(again.take([5]).pixels(0, 8, 3), data.train.pixels(5, 8, 3))
    assert list(again.stamps()) == list(data.train.stamps())


@pytest.mark.filterwarnings("default")
def test_wrong_hugging_face_data_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    (tmp_path / "empty").mkdir()
    wrong(f"hf:{tmp_path / 'empty'}", "hf:")
    wrong("hf:/no/such", "no such folder", "hf:DIR")
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(str(tmp_path / "text"))
    wrong(f"hf:{tmp_path / 'text'}", "one column of Image is needed, 0 are there (text: Value)")
    monkeypatch.setitem(sys.modules, "datasets", None)
    wrong(f"hf:{tmp_path / 'text'}", "needs the extra datasets", "pip install 'plusx[datasets]'")
