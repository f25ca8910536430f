"""Specs open as data sets: digits, folders, Fashion-MNIST, CIFAR-10; splits; and everything wrong is one line."""

import functools
import gzip
import hashlib
import http.client
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from plusx.data import downloads, open_data, published
from plusx.errors import DataError
from tests.images import cifar_files, colour_folders, fashion_files, idx


def wrong(spec: str | Path, *words: str) -> None:
    with pytest.raises(DataError) as problem:
        open_data(spec).split(0.2, 0)
    message = str(problem.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_digits_are_the_1797_scans() -> None:
    data = open_data("digits")
    assert len(data.train) == 1797
    assert data.classes == tuple("0123456789")
    assert np.bincount(data.train.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert data.train.held is not None
    first = data.train.held[0, :, :, 0]
    assert data.train.labels[0] == 0
    assert (first[0] / 255 * 16).round().tolist() == [0, 0, 5, 13, 9, 1, 0, 0]
    assert data.train.held.max() == 255


def test_the_split_is_stratified_seeded_and_complete() -> None:
    data = open_data("digits")
    train, held, words = data.split(0.2, 0)
    assert "20 %" in words
    assert "seed 0" in words
    assert sorted(train.keys + held.keys) == sorted(data.train.keys)
    shares = np.bincount(held.labels) / np.bincount(data.train.labels)
    assert np.abs(shares - 0.2).max() < 0.004
    assert data.split(0.2, 0)[1].keys == held.keys
    assert set(data.split(0.2, 1)[1].keys) != set(held.keys)
    # frozen: a run's held-out images must be found again by later versions
    assert held.keys[:8] == ("7", "15", "18", "20", "25", "36", "44", "46")


def test_a_file_stays_on_its_side_of_the_split_when_others_join(tmp_path: Path) -> None:
    root = colour_folders(tmp_path / "photos", images=20)
    before = set(open_data(root).split(0.2, 0)[1].keys)
    for name in ("zz1.png", "zz2.png"):
        (root / "red" / name).write_bytes((root / "red" / "0.png").read_bytes())
    after = set(open_data(root).split(0.2, 0)[1].keys)
    assert len(before - after) <= 1


def test_class_folders(tmp_path: Path) -> None:
    root = colour_folders(tmp_path / "my photos")
    (root / ".cache").mkdir()
    (root / "notes.txt").write_text("no class")
    (root / "red" / "notes.txt").write_text("no image")
    (root / "red" / "more").mkdir()
    (root / "red" / "more" / "deep.PNG").write_bytes((root / "red" / "0.png").read_bytes())
    data = open_data(str(root))
    assert data.classes == ("blue", "green", "red")
    assert data.name == "my-photos"
    assert len(data.train) == 31
    assert "red/more/deep.PNG" in data.train.keys
    assert data.test is None
    assert data.train.short_side() == 16
    assert not data.train.grey()
    assert data.train.pixels(0, 8, 3)[..., 2].mean() > 200  # blue comes first


@pytest.mark.parametrize("part", ["val", "test", "validation"])
def test_train_and_held_out_folders(tmp_path: Path, part: str) -> None:
    colour_folders(tmp_path / "train", images=4)
    colour_folders(tmp_path / part, images=2, classes=("green", "red"))
    train, held, words = open_data(tmp_path).split(0.2, 0)
    assert (len(train), len(held)) == (12, 4)
    assert held.labels.tolist() == [1, 1, 2, 2]
    assert f"{part}/" in words


def test_val_is_taken_before_test_and_train_alone_is_split(tmp_path: Path) -> None:
    colour_folders(tmp_path / "train", images=5)
    assert [len(images) for images in open_data(tmp_path).split(0.2, 0)[:2]] == [12, 3]
    colour_folders(tmp_path / "test", images=1)
    assert not open_data(tmp_path).has_unseen_part
    colour_folders(tmp_path / "val", images=2)
    data = open_data(tmp_path)
    assert len(data.split(0.2, 0)[1]) == 6
    assert data.has_unseen_part
    assert data.test is not None
    assert len(data.test) == 3
    assert "test/" in data.test_name


def test_a_test_folder_without_classes_is_left_aside_and_said(tmp_path: Path) -> None:
    for part in ("train", "val"):
        colour_folders(tmp_path / part, images=2)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "1.png").write_bytes((tmp_path / "val" / "red" / "0.png").read_bytes())
    data = open_data(tmp_path)
    assert data.test is None
    assert data.notes == ("test/ has no folders of classes and is left aside",)


@pytest.mark.parametrize(
    ("train", "held_out"), [("Train", "Test"), ("train", "testing"), ("Training", "Testing"), ("TRAIN", "Validation")]
)
def test_parts_are_known_in_any_case(tmp_path: Path, train: str, held_out: str) -> None:
    colour_folders(tmp_path / train, images=4)
    colour_folders(tmp_path / held_out, images=2)
    data = open_data(tmp_path)
    assert data.classes == ("blue", "green", "red")
    assert [len(images) for images in data.split(0.2, 0)[:2]] == [12, 6]
    assert f"{held_out}/" in data.split(0.2, 0)[2]


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (("val", "test"), "there is no train/"),
        (("Train", "eval"), "eval/ may mean val or test"),
        (("train", "holdout"), "what holdout/ is for is not clear"),
        (("train", "val", "extra"), "what extra/ is for is not clear"),
        (("train", "val", "valid"), "val/ and valid/ are the same part"),
        (("Testing",), "there is no train/"),
        (("cats", "dev"), "there is no train/"),
    ],
)
def test_parts_of_a_split_are_never_taken_for_classes(tmp_path: Path, folders: tuple[str, ...], words: str) -> None:
    for folder in folders:
        colour_folders(tmp_path / folder, images=2)
    wrong(tmp_path, words, "of a split", "accepted: a folder for each class")


def test_two_flat_folders_of_parts_are_no_classes(tmp_path: Path) -> None:
    for name, part in (("red", "test"), ("blue", "val")):
        (colour_folders(tmp_path, images=3, classes=(name,)) / name).rename(tmp_path / part)
    wrong(tmp_path, "there is no train/")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    colour_folders(tmp_path, images=3)
    (tmp_path / "red").rename(tmp_path / "train")  # the one on rails: its images lie in it directly
    (tmp_path / "green").rename(tmp_path / "Test")
    assert open_data(tmp_path).classes == ("Test", "blue", "train")


def test_folders_without_images_beside_the_parts_do_no_harm(tmp_path: Path) -> None:
    for part in ("train", "val"):
        colour_folders(tmp_path / part, images=2)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "all.csv").write_text("")
    assert len(open_data(tmp_path).split(0.2, 0)[1]) == 6


def test_wrong_folders(tmp_path: Path) -> None:
    wrong("digit", "did you mean 'digits'")
    wrong("fashion-minst", "did you mean 'fashion-mnist'")
    wrong(tmp_path / "none", "no such folder", "fashion-mnist:DIR, cifar10, cifar10:DIR")
    wrong(3, "not int")  # type: ignore[arg-type]
    wrong(tmp_path, "no folders and no images")
    (tmp_path / "loose.png").write_bytes(b"")
    wrong(tmp_path, "1 images lie in it directly")
    wrong(tmp_path / "loose.png", "that is a file")
    (tmp_path / "cat").mkdir()
    wrong(tmp_path, "cat", "holds no images")
    (tmp_path / "cat" / "a.png").write_bytes(b"")
    wrong(tmp_path, "only one class", "'cat'")
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "a.png").write_bytes(b"")
    wrong(tmp_path, "'cat' has 1 image")
    (tmp_path / "two\nlines").mkdir()
    wrong(tmp_path, r"two\nlines")


def test_a_held_out_class_that_train_does_not_have(tmp_path: Path) -> None:
    colour_folders(tmp_path / "train", images=2, classes=("green", "red"))
    colour_folders(tmp_path / "val", images=2, classes=("blue",))
    wrong(tmp_path, "'blue'", "not one of train's")


@pytest.mark.parametrize("compress", [True, False])
def test_fashion_mnist_from_a_folder(tmp_path: Path, compress: bool) -> None:
    folder = fashion_files(tmp_path / "f", compress=compress)
    data = open_data(f"fashion-mnist:{folder}")
    assert data.classes[9] == "Ankle boot"
    train, test, words = data.split(0.2, 0)
    assert (len(train), len(test)) == (40, 20)
    assert "own test part" in words
    assert train.pixels(3, 28, 1).tolist() == np.full((28, 28, 1), 75).tolist()
    assert train.grey()
    assert open_data(data.spec).spec == data.spec
    assert open_data(folder).classes == tuple("0123456789")  # recognised; but these labels are not Fashion-MNIST's


def test_fashion_mnist_where_debian_puts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "DEBIAN_FASHION", fashion_files(tmp_path / "debian"))
    data = open_data("fashion-mnist")
    assert (data.spec, len(data.train), data.classes[0]) == ("fashion-mnist", 40, "T-shirt/top")


@pytest.mark.skipif(not published.DEBIAN_FASHION.is_dir(), reason="needs Debian's dataset-fashion-mnist")
def test_the_real_fashion_mnist_is_the_one_expected() -> None:
    data = open_data(published.DEBIAN_FASHION)
    assert data.classes == published.FASHION  # by the checksum of its labels
    assert data.test is not None
    assert (len(data.train), len(data.test)) == (60000, 10000)


def test_wrong_idx_files(tmp_path: Path) -> None:
    folder = fashion_files(tmp_path, compress=False)
    images, labels = folder / "train-images-idx3-ubyte", folder / "train-labels-idx1-ubyte"
    whole = images.read_bytes()
    for data in (
        b"",
        whole[:3],
        whole[:9],
        b"\0\0\x0d" + whole[3:],
        whole[:-1],
        whole + b"0",
        whole[:4] + b"\xff" * 12,
    ):
        images.write_bytes(data)
        wrong(folder, "train-images")
    images.write_bytes(whole)
    labels.write_bytes(idx(np.zeros(39, np.uint8)))
    wrong(folder, "do not match")
    labels.write_bytes(idx(np.full(40, 10, np.uint8)))
    wrong(folder, "label of 10")
    labels.unlink()
    wrong(f"fashion-mnist:{folder}", "train-labels-idx1-ubyte is missing")
    compressed = gzip.compress(whole)
    for data in (b"no gzip", compressed[:100], compressed[:50] + b"xxxx" + compressed[54:]):
        images.unlink(missing_ok=True)
        (folder / "train-images-idx3-ubyte.gz").write_bytes(data)
        wrong(folder, "train-images")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server of a folder, on this machine."""
    folder = tmp_path / "site"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()
        thread.join()


def test_fashion_mnist_is_downloaded_once_and_checked(
    tmp_path: Path, site: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = site
    fashion_files(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cache = tmp_path / "cache" / "plusx" / "fashion-mnist"
    with pytest.raises(DataError, match="SHA-256"):
        downloads.fashion_mnist(url)
    assert not list(cache.glob("*"))  # what is wrong is not kept
    for name in downloads.FASHION_FILES:
        content = gzip.decompress((folder / f"{name}.gz").read_bytes())
        monkeypatch.setitem(downloads.FASHION_FILES, name, hashlib.sha256(content).hexdigest())
    assert downloads.fashion_mnist(url) == cache
    assert len(list(cache.iterdir())) == 4
    for file in folder.iterdir():
        file.unlink()
    assert open_data(f"fashion-mnist:{downloads.fashion_mnist(url)}").name == "fashion-mnist"


def test_offline_is_one_line_that_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(DataError) as problem:
        downloads.fashion_mnist("http://127.0.0.1:9")
    assert "fashion-mnist:DIR" in str(problem.value)
    assert "\n" not in str(problem.value)


def test_cifar10_binary(tmp_path: Path) -> None:
    folder = cifar_files(tmp_path / "cifar-10-batches-bin")
    for spec in (f"cifar10:{folder}", str(folder), str(tmp_path), f"cifar10:{tmp_path}"):
        data = open_data(spec)
        assert data.test is not None
        assert (data.name, len(data.train), len(data.test), data.classes[3]) == ("cifar10", 50, 10, "cat")
        assert data.train.labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
        assert data.train.pixels(13, 32, 3)[5, 7].tolist() == [3, 4, 5]  # red, green, blue planes of record 3
    batch = folder / "data_batch_3.bin"
    for content, word in ((b"", "0 bytes"), (b"\0" * 3072, "3,073"), (b"\x0a" + b"\0" * 3072, "label of 10")):
        batch.write_bytes(content)
        wrong(folder, "data_batch_3.bin", word)
    batch.unlink()
    wrong(folder, "data_batch_3.bin", "No such file")


def cifar_archive(folder: Path, extra: str = "") -> bytes:
    """A .tar.gz as CIFAR-10's authors publish it, with few images; and perhaps a member of another name."""
    files = cifar_files(folder / "cifar-10-batches-bin")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(files, "cifar-10-batches-bin")
        if extra:
            archive.add(files / "test_batch.bin", extra)
    return packed.getvalue()


@pytest.fixture
def cifar_site(tmp_path: Path, site: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site that publishes CIFAR-10, and an empty cache and working folder."""
    url, folder = site
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(downloads, "CIFAR10_URL", f"{url}/cifar.tar.gz")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return folder / "cifar.tar.gz"


def test_cifar10_is_downloaded_once_and_checked(
    tmp_path: Path, cifar_site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = cifar_archive(tmp_path / "packed")
    cifar_site.write_bytes(packed)
    wrong("cifar10", "MD5", "cifar10:DIR")
    assert not list((tmp_path / "cache").rglob("*.bin"))  # what is wrong is not kept
    monkeypatch.setattr(downloads, "CIFAR10_MD5", hashlib.md5(packed).hexdigest())
    said: list[str] = []
    data = open_data("cifar10", say=said.append)
    assert (data.spec, data.name, len(data.train)) == ("cifar10", "cifar10", 50)
    assert len(said) == 1
    assert downloads.CIFAR10_URL in said[0]
    assert [path.name for path in (tmp_path / "cache" / "plusx").iterdir()] == ["cifar10"]
    cifar_site.unlink()
    assert len(open_data("cifar10", say=said.append).train) == 50
    assert len(said) == 1


def test_cifar10_where_people_unpack_it(tmp_path: Path, cifar_site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cifar_files(Path("data/cifar-10-batches-bin")).resolve()
    assert open_data("cifar10").spec == f"cifar10:{folder}"  # good in any other working folder
    nearer = cifar_files(Path("cifar-10-batches-bin")).resolve()
    assert open_data("cifar10").spec == f"cifar10:{nearer}"


def test_cifar10_that_cannot_be_had_is_one_line_that_helps(cifar_site: Path) -> None:
    wrong("cifar10", "not on this machine", "404", "cifar10:DIR")


def test_an_archive_writes_nothing_outside_its_folder(
    tmp_path: Path, cifar_site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = cifar_archive(tmp_path / "packed", extra="../../evil.bin")
    cifar_site.write_bytes(packed)
    monkeypatch.setattr(downloads, "CIFAR10_MD5", hashlib.md5(packed).hexdigest())
    wrong("cifar10", "outside")
    assert not list(tmp_path.rglob("evil.bin"))
    assert not list((tmp_path / "cache").rglob("*"))[1:]  # nothing half-way either


def test_a_connection_that_breaks_off_is_one_line(cifar_site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: object, **__: object) -> None:
        raise http.client.IncompleteRead(b"some")

    monkeypatch.setattr(downloads, "urlopen", breaks)
    wrong("cifar10", "IncompleteRead", "cifar10:DIR")
