"""Publishing a trained network on the Hugging Face hub: `push` writes a folder for it, with a card, and uploads that.

    model.safetensors   the run's weights file, byte for byte
    design.toml         the network                                design.svg   the same, drawn
    recipe.toml         how it was trained, where that is known
    README.md           the card: design, costs, accuracy, classes, preprocessing, usage

`plusx.load("hf://owner/name")` reads it back (dialects/remote.py). An extra: pip install 'plusx[hub]'. A card is
public: it names the data set, but no folder, command or machine.
"""

import json
import math
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from plusx import __version__, run_folder
from plusx.checkpoint import WEIGHTS_FILE, Weights, read_weights, replacing, weights_path, write_text
from plusx.cost import cost
from plusx.cost_table import mib
from plusx.data.sources import NAMES
from plusx.dialects.remote import asking, check_name, library
from plusx.draw import draw
from plusx.errors import InputError
from plusx.inference import class_names, given_path
from plusx.notation import count, shape
from plusx.recipe import Recipe
from plusx.reports import Report
from plusx.svg import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

CARD_FILE, DRAWING_FILE = "README.md", "design.svg"
_FILES = (CARD_FILE, run_folder.DESIGN_FILE, DRAWING_FILE, run_folder.RECIPE_FILE, WEIGHTS_FILE)
_MARK = "<!-- Written by plusx push, which writes it anew when it is called again. -->"
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")
_MANY = 40


@dataclass(frozen=True)
class Pushed(Report):
    """What was published, or written only.

    repo: owner/name on the hub; url, commit: where it is there, None where nothing was uploaded. folder: where it was
    written, None where it was uploaded. files: their names, README.md first; size_mib: of all of them.
    """

    repo: str | None
    url: str | None
    commit: str | None
    folder: Path | None
    files: tuple[str, ...]
    size_mib: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data; see the fields."""
        folder = None if self.folder is None else str(self.folder)
        return {**vars(self), "folder": folder, "files": list(self.files)}

    def __rich__(self) -> "RenderableType":
        from rich.text import Text

        what = f"{', '.join(self.files)} ({self.size_mib:,.1f} MiB)"
        if self.url is None:
            return Text(f"Written to {self.folder}, not published: {what}")
        return Text(f'Published at {self.url}: {what}\n\nNext:\n  plusx.load("hf://{self.repo}")')


def push(
    run: str | Path,
    to: str | None = None,
    *,
    output: str | Path | None = None,
    private: bool = False,
    license: str | None = None,
) -> Pushed:
    """Publish a run folder or weights file on the Hugging Face hub as `to`, "owner/name", with a card.

    The repository is made where there is none; what is in it already stays in its history. Who is logged in (hf auth
    login, or HF_TOKEN) must be allowed to write there. private: only its owner sees it. license: what the hub calls it,
    such as "mit" or "cc-by-4.0"; the card names none by default.
    output: write the folder there instead, and publish nothing; one that is new, empty, or of an earlier push.

    Raises InputError for a wrong name or folder and where the extra is missing, WeightsError for what is no trained
    network, WorkError where the hub or the disk refuses.
    """
    _check_options(to, output, private, license)
    source = weights_path(given_path("run", run))
    weights = read_weights(source)
    if output is not None:
        folder = _own_folder(given_path("output", output))
        texts = _texts(Path(run), weights, to, license)
        return Pushed(to, None, None, folder, *_write(folder, texts, source))
    assert to is not None
    hub = library(f"push to {to}")
    texts = _texts(Path(run), weights, to, license)
    with TemporaryDirectory(prefix="plusx-push-") as name:
        files, size = _write(Path(name), texts, source)
        url, commit = _upload(hub.HfApi(library_name="plusx", library_version=__version__), to, Path(name), private)
    return Pushed(to, url, commit, None, files, size)


def _check_options(to: str | None, output: str | Path | None, private: bool, license: str | None) -> None:
    if to is None and output is None:
        raise InputError("push: where to? owner/name on the hub, or output, a folder to write")
    if to is not None:
        check_name("push", to)
    if private and output is not None:
        raise InputError("push: private is of no use with output, which publishes nothing")
    if license is not None and not _LICENSE.fullmatch(license):
        raise InputError(
            f"push: license {license[:80]!r} is not what the hub calls one, such as mit, apache-2.0, other"
        )


def _own_folder(path: Path) -> Path:
    """The folder to write to, made if need be. Raises InputError for one with files that no push wrote."""
    if path.is_dir():
        found = sorted(file.name for file in path.iterdir())
        if found and not (_is_own_card(path / CARD_FILE) and set(found) <= {*_FILES}):
            odd = next((name for name in found if name not in _FILES), CARD_FILE if CARD_FILE in found else found[0])
            raise InputError(
                f"push: output {path}: {odd[:80]!r} in it is no push's; give a folder that is new or empty"
            )
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise InputError(f"push: output {path}: {problem.strerror}") from None
    return path


def _is_own_card(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return _MARK in file.read(4096)
    except OSError:
        return False


def _write(folder: Path, texts: Mapping[str, str], source: Path) -> tuple[tuple[str, ...], float]:
    """Write the card, which marks the folder as a push's, and then the rest; gives the names and MiB of all files."""
    for name, text in texts.items():
        write_text(folder / name, text)
    with replacing(folder / WEIGHTS_FILE) as beside:
        shutil.copyfile(source, beside)
    for name in set(_FILES) - {*texts, WEIGHTS_FILE}:  # an earlier push's
        (folder / name).unlink(missing_ok=True)
    files = (*texts, WEIGHTS_FILE)
    return files, sum((folder / name).stat().st_size for name in files) / 2**20


def _upload(api: Any, to: str, folder: Path, private: bool) -> tuple[str, str]:
    """The repository's address, and the commit. `api` is huggingface_hub's HfApi."""
    gone = [name for name in _FILES if not (folder / name).exists()]
    with asking(f"push to {to}"):
        url = api.create_repo(to, repo_type="model", private=private or None, exist_ok=True)
        if private and not api.model_info(to).private:
            raise InputError(f"push to {to}: that is public already; make it private on its page, or name another")
        done = api.upload_folder(
            repo_id=to, folder_path=folder, commit_message="plusx push", delete_patterns=gone or None
        )
    return str(url), str(done.oid)


def _texts(run: Path, weights: Weights, to: str | None, license: str | None) -> dict[str, str]:
    """All files but the weights, by name, the card first."""
    texts = {
        CARD_FILE: card(run, weights, to, license),
        run_folder.DESIGN_FILE: weights.design.to_toml(),
        DRAWING_FILE: draw(weights.design, weights.input_size).svg,
    }
    if (run / run_folder.RECIPE_FILE).is_file():
        texts[run_folder.RECIPE_FILE] = Recipe.read(run / run_folder.RECIPE_FILE).to_toml()
    return texts


def card(run: Path, weights: Weights, to: str | None = None, license: str | None = None) -> str:
    """The model card: Markdown, with what the hub looks for as YAML in front. Names of others in it are only names."""
    sections = {
        "Design": _design(run),
        "Costs": _costs(weights),
        "Accuracy": _accuracy(run),
        "Classes": _classes(weights),
        "Preprocessing": _preprocessing(weights),
        "Usage": _usage(weights, to),
    }
    parts = [_front(weights, license), _MARK, f"# {_name(weights)}", _summary(weights)]
    for title, paragraphs in sections.items():
        parts += [f"## {title}", *paragraphs]
    return "\n\n".join(parts) + "\n"


def _front(weights: Weights, license: str | None) -> str:
    fields = ["library_name: plusx"]
    if weights.design.head.classes:
        fields.append("pipeline_tag: image-classification")
    if license is not None:
        fields.append(f"license: {json.dumps(license)}")  # in quotes: "no" and "1.0" are not words in YAML
    return "\n".join(["---", *fields, "tags:", "- plusx", "- resnet", "- safetensors", "---"])


def _name(weights: Weights) -> str:
    return _plain(weights.design.name) or "A residual network"


def _summary(weights: Weights) -> str:
    price = cost(weights.design, weights.input_size)
    classes = weights.design.head.classes
    what = f"tells {classes:,} classes of images apart" if classes else "turns images into features"
    return (
        f"A residual network that {what}: {count(price.params)} params, {count(price.macs)} macs "
        f"at {shape(price.input_shape)}. Made with plusx."
    )


def _design(run: Path) -> Iterator[str]:
    yield f"![The network from stem to head, drawn]({DRAWING_FILE})"
    files = f"[{run_folder.DESIGN_FILE}]({run_folder.DESIGN_FILE}) is the same for a program"
    if (run / run_folder.RECIPE_FILE).is_file():
        files += f"; [{run_folder.RECIPE_FILE}]({run_folder.RECIPE_FILE}) says how it was trained"
    yield f"{files}."


def _costs(weights: Weights) -> Iterator[str]:
    price = cost(weights.design, weights.input_size)
    rows = [
        (part.name, shape(part.shape), count(part.params), count(part.macs), count(part.activations),
         mib(part.inference_peak_bytes()))
        for part in (*price.rows(), price.network)
    ]  # fmt: skip
    headings = ("part", "gives", "params", "macs", "activations", "peak MiB")
    yield _table(headings, [*rows[:-1], ("in all", *rows[-1][1:])], numbers_from=1)
    yield (
        "Of one image in float32. macs: multiply-adds of convolutions and linear layers; activations: the elements "
        f"they give; peak: feature maps alive at once in inference, beside {mib(price.weights_bytes())} MiB of weights."
    )


def _accuracy(run: Path) -> Iterator[str]:
    about, epochs = run_folder.read_about(run), run_folder.read_epochs(run)
    last = epochs[-1] if epochs else {}
    right, loss = _number(last, "held_out_accuracy_percent"), _number(last, "held_out_loss")
    if right is None:
        yield "Not recorded with these weights."
        return
    trained, held_out = _number(about, "train_images"), _number(about, "held_out_images")
    images = f"the {held_out:,.0f} images" if held_out is not None else "the images"
    nats = "" if loss is None else f" (loss {loss:.3f} nats)"
    yield f"**{right:.2f} %** of {images} held out are named right{nats}, after epoch {last['epoch']:,}."
    if data := about.get("data"):
        size = "" if trained is None else f" {trained:,.0f} images of"
        yield f"Trained on{size} {_plain(_data_name(str(data)))}."


def _number(record: Mapping[str, Any], name: str) -> float | None:
    value = record.get(name)
    known = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15
    return float(value) if known and math.isfinite(value) else None  # type: ignore[arg-type]


def _data_name(spec: str) -> str:
    """What a data set is called, without the folder it lies in on somebody's machine."""
    name, _, folder = spec.partition(":")
    return name if name in NAMES else Path(folder or name).name or "a folder of images"


def _classes(weights: Weights) -> Iterator[str]:
    names = class_names(weights)
    if not names:
        yield f"None: it gives {weights.design.features[-1].channels:,} features for each image."
        return
    if not weights.classes:
        yield f"{len(names):,}, whose names are not known."
        return
    table = _table(("logit", "class"), [(str(index), _plain(name)) for index, name in enumerate(names)])
    folded = f"<details>\n<summary>{len(names):,} classes</summary>\n\n{table}\n\n</details>"
    yield table if len(names) <= _MANY else folded


def _preprocessing(weights: Weights) -> Iterator[str]:
    channels = weights.design.stem.in_channels
    colours = {1: "one channel, grey", 3: "three channels: red, green, blue"}.get(channels, f"{channels} channels")
    side = weights.input_size
    size = "not recorded" if side is None else f"{side} × {side} pixels: the shorter side resized, the centre cut out"
    rows = [("channels", colours), ("size", size), ("values", "from 0 to 1")]
    for name, what, values in (("mean", "subtracted", weights.mean), ("std", "divided by", weights.std)):
        rows.append((f"{name}, {what}", ", ".join(f"{value:.6g}" for value in values) or "not recorded"))
    yield _table(("images", ""), rows)
    if _predicts(weights):
        yield "`plusx.predict` does all of it."


def _predicts(weights: Weights) -> bool:
    """Whether `plusx.predict` can use them: it must know how images are prepared."""
    known = weights.input_size and weights.mean and weights.std
    return bool(known) and weights.design.head.classes > 0 and weights.design.stem.in_channels in (1, 3)


def _usage(weights: Weights, to: str | None) -> Iterator[str]:
    extra, address = ("plusx", WEIGHTS_FILE) if to is None else ("'plusx[hub]'", f"hf://{to}")
    takes, gives = weights.design.stem.in_channels, weights.design.head.classes
    side = weights.input_size or "size"
    if to is None:
        yield "In this folder:"
    yield _code("sh", [f"pip install {extra}"])
    what = f"N×{takes}×{side}×{side} in, {f'logits N×{gives}' if gives else 'features'} out"
    lines = ["import plusx", "", f'loaded = plusx.load("{address}")', f"net = loaded.network  # an nn.Module: {what}"]
    if not _predicts(weights):
        yield _code("python", lines)
        return
    lines += [
        "weights = plusx.Weights(",
        "    loaded.design, net.state_dict(), loaded.classes, loaded.input_size, loaded.mean, loaded.std",
        ")",
        f'print(plusx.predict(weights, "photo.jpg", top={min(gives, 3)}))',
    ]
    yield _code("python", lines)
    yield "Or on the command line:"
    copied = [] if to is None else [f"plusx convert {address} {WEIGHTS_FILE}"]
    yield _code("sh", [*copied, f"plusx predict {WEIGHTS_FILE} photo.jpg"])


def _code(language: str, lines: Iterable[str]) -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, numbers_from: int | None = None) -> str:
    """A table of Markdown; the columns from `numbers_from` on stand on the right."""
    sides = ["--:" if numbers_from is not None and index >= numbers_from else "---" for index in range(len(headings))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (headings, sides, *rows))


def _plain(name: str) -> str:
    """A name as one line of Markdown that means nothing but itself: no emphasis, link, table or HTML comes of it."""
    return re.sub(r"([\\`*_\[\]<>&|~:.@#$!^{}\"])", r"\\\1", " ".join(printable(name).split()))
