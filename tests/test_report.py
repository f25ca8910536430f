"""The report: one file that needs no other, says what evaluate says, and does nothing that a name asks for."""

import base64
import io
import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plusx import html, run_folder
from plusx.cost import cost
from plusx.errors import InputError, WeightsError
from plusx.evaluate import ClassResult, Evaluation, evaluate
from plusx.families import cifar
from plusx.metrics import Bin, Calibration
from plusx.notation import count
from plusx.recipe import Recipe
from plusx.records import Run
from plusx.report import duration, report, write_report
from plusx.report_figures import LARGEST_TABLE, MISTAKES, confusion_figure, reliability_figure
from plusx.train import train
from tests.commands import in_process
from tests.images import COLOURS, colour_folders, noisy

HOSTILE = "<img src=x onerror=alert(1)>&amp;"


class Page(HTMLParser):
    """Every tag with its attributes, and the text between them."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(file.read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def assert_alone(page: Page) -> None:
    """Nothing is fetched, nothing runs."""
    assert not {"script", "link", "iframe", "object", "embed", "base", "form", "a"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href", "data", "srcset"):
            assert (attributes.get(name) or "data:image/png;base64,").startswith("data:image/png;base64,"), tag
    policy = next(a for tag, a in page.tags if tag == "meta" and "http-equiv" in a)
    assert policy["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    style = " ".join(page.words)
    assert "@import" not in style
    assert "url(" not in style
    assert "://" not in style


def copy(run: Run, to: Path) -> Path:
    return Path(shutil.copytree(run.folder, to))


def test_a_report_says_what_evaluate_says(digits_run: Run, tmp_path: Path) -> None:
    folder = copy(digits_run, tmp_path / "run")
    written = report(folder)
    result = evaluate(folder)
    assert written.file == folder / "report.html"
    assert written.evaluation == result
    page = Page(written.file)
    assert_alone(page)
    price = cost(digits_run.design, 8)
    for fact in (
        f"{result.accuracy_percent:.2f} %",
        f"{result.loss:.3f}",
        f"{result.calibration.ece_percent:.2f} %",
        count(price.params),
        count(price.macs),
        "359 images of digits: 20 % of each class held out, split seed 0",
        f"epochs = {digits_run.recipe.epochs}",
    ):
        assert fact in page.text, fact
    headings = re.findall(r"<h2>(.*?)</h2>", written.file.read_text())
    sections = ["Curves", "Confusion", "Calibration", "Worst mistakes", "Design", "Recipe", "How it was made"]
    assert headings == sections
    wrong = round(359 * (1 - result.accuracy_percent / 100))
    true_class = re.findall(r'is <span class="true">\d</span> (?:&lt; )?([\d.]+) %', written.file.read_text())
    assert len(true_class) == min(wrong, MISTAKES) > 1
    assert sorted(map(float, true_class)) == list(map(float, true_class))  # worst first
    assert json.loads(json.dumps(written.to_dict()))["evaluation"]["images"] == 359
    assert str(written) == str(written.file)


def test_the_worst_mistake_is_shown_with_both_classes(colours: tuple[Path, Run], tmp_path: Path) -> None:
    """A red image among the blue ones: it is named red, surely, and that is the one mistake."""
    _, run = colours
    data = tmp_path / "photos"
    for part in ("train", "test"):
        colour_folders(data / part, images=4, seed=70)
    wrong = noisy(COLOURS["red"], 5)
    wrong.save(data / "test" / "blue" / "wrong.png")
    folder = copy(run, tmp_path / "run")
    lines = [{"run": run_folder.read_about(folder) | {"data": str(data)}}, *run_folder.read_epochs(folder)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    report(folder)
    text = (folder / "report.html").read_text()
    (figure,) = re.findall(r"<figure>(.*?)</figure>", text)
    assert re.search(r'class="named">red</span> \d\d\.\d %<br>is <span class="true">blue</span>', figure)
    assert "blue/wrong.png" in figure
    (source,) = re.findall(r'src="data:image/png;base64,(.*?)"', figure)
    with Image.open(io.BytesIO(base64.b64decode(source))) as picture:
        assert np.abs(np.asarray(picture).mean((0, 1)) - COLOURS["red"]).max() < 5
    assert "1 of 5" in Page(folder / "report.html").text  # blue taken for red


def test_hostile_names_are_text(tmp_path: Path) -> None:
    data = colour_folders(tmp_path / "data", images=6)
    (data / "red").rename(data / HOSTILE)
    (data / HOSTILE / "0.png").rename(data / HOSTILE / '"><script>alert(2)</script'.replace("/", "∕"))
    for file in (data / HOSTILE).glob("*.png"):
        file.rename(file.with_name(f"<b onmouseover=alert(3)>{file.name}"))
    design = cifar(8).replace(name="<script>net</script>")
    run = train(data, design=design, recipe=Recipe(epochs=1, batch_size=8), out=tmp_path / "run", show=False)
    with (run.folder / "recipe.toml").open("a") as recipe:
        recipe.write("# </pre><script>alert(4)</script>")
    about = run_folder.read_about(run.folder) | {"command": "plusx train '<script>'", "started": "<i>now</i>"}
    lines = [{"run": about | {"environment": {"<u>a</u>": "<u>b</u>"}}}, *run_folder.read_epochs(run.folder)]
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = Page(report(run.folder).file)
    assert_alone(page)
    assert not {"b onmouseover=alert(3)", "i", "u"} & {tag for tag, _ in page.tags}
    for words in (HOSTILE, "<script>net</script>", "plusx train '<script>'", "<i>now</i>", "<u>b</u>", "alert(4)"):
        assert words in page.text, words


def test_images_that_are_gone_leave_the_rest(colours: tuple[Path, Run], tmp_path: Path) -> None:
    _, run = colours
    folder = copy(run, tmp_path / "run")
    lines = [{"run": run_folder.read_about(folder) | {"data": str(tmp_path / "gone")}}, *run_folder.read_epochs(folder)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    written = report(folder)
    assert written.evaluation is None
    assert "no such folder" in written.to_dict()["unjudged"]
    assert "without an evaluation" in str(written)
    page = Page(written.file)
    assert "The images could not be judged" in page.text
    assert "Recipe" in page.text
    assert "8 epochs" in page.text


def test_metrics_cut_short_are_no_obstacle(digits_run: Run, tmp_path: Path) -> None:
    folder = copy(digits_run, tmp_path / "run")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 99, "lr"')
    assert "Curves" in Page(report(folder).file).text
    (folder / "metrics.jsonl").write_text("nothing\n")
    assert "say on which data" in report(folder).unjudged


def test_a_report_never_takes_a_run_with_it(digits_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copy(digits_run, tmp_path / "run")
    monkeypatch.setattr(sys.modules["plusx.report"], "AT_MOST", 50)
    assert write_report(folder) == f"Report: {folder / 'report.html'}"
    assert "50 of 359 images" in Page(folder / "report.html").text
    assert write_report(tmp_path / "none") == (
        f"no report could be written: report on {tmp_path / 'none'}: there is no such folder; "
        "a run folder of plusx train is needed"
    )

    def explode(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(sys.modules["plusx.report"], "_page", explode)
    assert write_report(folder) == "no report could be written: ZeroDivisionError"


def test_report_refuses(digits_run: Run, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="that is a file; a run folder"):
        report(digits_run.folder / "model.safetensors")
    with pytest.raises(WeightsError, match=r"without model\.safetensors"):
        report(tmp_path)
    with pytest.raises(InputError, match="device"):
        report(digits_run.folder, device="nonsense")


def test_the_command(digits_run: Run, tmp_path: Path) -> None:
    folder = copy(digits_run, tmp_path / "run")
    done = in_process("report", folder, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["report"] == str(folder / "report.html")


def of_classes(confusion: list[list[int]]) -> Evaluation:
    classes = tuple(
        ClassResult(f"class {i}", sum(row), 100 * row[i] / sum(row) if sum(row) else None)
        for i, row in enumerate(confusion)
    )
    return Evaluation(
        "run", "data", "all of it", "none", sum(map(sum, confusion)), 50.0, None, 1.0, Calibration(()), classes,
        tuple(map(tuple, confusion)),
    )  # fmt: skip


def test_many_classes_are_a_picture() -> None:
    size = LARGEST_TABLE + 1
    confusion = [[10 * (i == j) for j in range(size)] for i in range(size)]
    confusion[3][5], confusion[7][7] = 5, 0
    figure = confusion_figure(of_classes(confusion))
    (source,) = re.findall(r'src="data:image/png;base64,(.*?)"', figure)
    with Image.open(io.BytesIO(base64.b64decode(source))) as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (size, size, 4)
    assert pixels[0, 0, 3] == 255  # all right
    assert pixels[0, 1, 3] == pixels[7, 7, 3] == 0
    assert pixels[3, 5, 3] > 200  # a third of them wrong
    assert pixels[3, 5, 0] > pixels[3, 5, 2]
    assert "class 3</td><td>class 5</td>" in figure
    small = confusion_figure(of_classes([[1, 0], [0, 0]]))
    assert "<img" not in small
    assert "No image is taken for another class" in small


def test_the_reliability_diagram_has_a_bar_for_each_bin_with_images() -> None:
    bins = (Bin(0, 50, 0, None, None), Bin(50, 100, 4, 90.0, 75.0))
    figure = reliability_figure(Calibration(bins))
    (bar,) = re.findall(r'class="bar".*?height="([\d.]+)"', figure)
    (gap,) = re.findall(r'class="gap".*?height="([\d.]+)"', figure)
    assert float(bar) / float(gap) == pytest.approx(75 / 15)
    assert "50 to 100 %: 4 images, 75.0 % right" in figure


def test_text_is_escaped_and_keeps_its_lines() -> None:
    assert html.text("a<b>\n\x1b'\"&") == "a&lt;b&gt;\n\ufffd&#x27;&quot;&amp;"
    assert [duration(s) for s in (3.14, 240, 7200)] == ["3.1 s", "4 min", "2.0 h"]
