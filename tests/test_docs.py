"""The site builds without a word of complaint, a browser finds its figures, and nothing on it comes from elsewhere."""

import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import plusx

ROOT = Path(__file__).parent.parent
ARGUMENTS = ("argument.md", "zh/argument.md")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make docs` builds."""
    folder = tmp_path_factory.mktemp("docs")
    for name in ("docs", "src", "zensical.toml"):
        copy: Any = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    command = [str(Path(sys.executable).with_name("zensical")), "build", "--clean", "--strict"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stdout + done.stderr
    return folder / "site"


class _Loaded(HTMLParser):
    """The addresses of what a page loads: scripts, styles, pictures, fonts; not links."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source") and given.get("src"):
            self.found.append(str(given["src"]))
        if tag == "link" and given.get("rel") not in ("canonical", "prev", "next", "alternate"):
            self.found.append(str(given.get("href")))


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) >= 10
    for page in pages:
        loaded = _Loaded()
        loaded.feed(page.read_text(encoding="utf-8"))
        assert loaded.found
        away = [address for address in loaded.found if re.match(r"(\w+:)?//", address)]
        assert away == [], page


def test_every_public_name_is_explained(site: Path) -> None:
    text = (site / "api.html").read_text(encoding="utf-8")
    for name in plusx.__all__:
        home, _, original = plusx._HOMES[name].partition(":")
        assert f'id="plusx.{home}.{original or name}"' in text, name


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_command_that_makes_it_stands_beneath_each_figure(name: str) -> None:
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    figures = list(re.finditer(r"!\[[^\]]+\]\(([^)]+)\)", text))
    assert len(figures) >= 6
    for figure in figures:
        assert (ROOT / "docs" / name).parent.joinpath(figure[1]).is_file()
        below = text[figure.end() :].lstrip()
        assert re.match(r"```sh\nplusx (study|draw) ", below), figure[1]


def test_both_languages_show_the_same() -> None:
    english, chinese = ((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ARGUMENTS)
    for pattern in (r"figures/[\w-]+\.svg", r"```sh\n.*?```", r"\d+\.\d+ ± \d+\.\d+"):
        assert re.findall(pattern, english, re.DOTALL) == re.findall(pattern, chinese, re.DOTALL)


def test_the_pages_python_runs(tmp_path: Path) -> None:
    for name in ("index.md", *ARGUMENTS):
        for piece in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / name).read_text(encoding="utf-8"), re.DOTALL):
            subprocess.run([sys.executable, "-W", "error", "-c", piece], cwd=tmp_path, check=True)


@pytest.mark.slow
def test_the_pages_figures_are_made_by_their_commands(tmp_path: Path) -> None:
    """The studies shortened to an epoch and a seed."""
    text = (ROOT / "docs" / "argument.md").read_text(encoding="utf-8")
    for figure, command in re.findall(r"\]\(figures/([\w-]+)\.svg\)\s+```sh\n(plusx [^\n]+)\n```", text):
        short = " --epochs 1 --seeds 1" if " study " in command else ""
        program, *words = (command + short).split()
        assert program == "plusx"
        subprocess.run([sys.executable, "-m", "plusx", *words], cwd=tmp_path, check=True, capture_output=True)
        made = tmp_path / figure.rpartition("-")[0] / f"figure-{figure.rpartition('-')[2]}.svg"
        assert (made if short else tmp_path / f"{figure}.svg").read_text().startswith("<svg")


@contextmanager
def served(site: Path) -> Iterator[tuple[int, list[str]]]:
    """The site on a port of loopback, and the requests that were answered with 200."""
    answered: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_request(self, code: Any = "-", size: Any = "-") -> None:
            if int(code) == 200:
                answered.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1], answered
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_browser_finds_its_figures(name: str, site: Path, tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium")
    page = site / name.replace(".md", ".html")
    told = (
        "<script>addEventListener('load', () => { const all = [...document.querySelectorAll('article img')]; "
        "document.title = 'widths ' + all.map(image => image.naturalWidth).join(' ') })</script></body>"
    )
    shown = page.with_name("shown.html")
    shown.write_text(page.read_text(encoding="utf-8").replace("</body>", told), encoding="utf-8")
    with served(site) as (port, answered):
        words = [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
        words += [
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            "--virtual-time-budget=8000",
            "--dump-dom",
        ]
        address = f"http://127.0.0.1:{port}/{shown.relative_to(site)}"
        done = subprocess.run([*words, address], capture_output=True, text=True, check=False, timeout=120)
    shown.unlink()
    title = re.search(r"<title>widths ([\d ]+)</title>", done.stdout)
    assert title is not None
    widths = [int(width) for width in title[1].split()]
    figures = re.findall(r"figures/[\w-]+\.svg", (ROOT / "docs" / name).read_text(encoding="utf-8"))
    assert len(widths) == len(figures)
    assert all(width > 100 for width in widths)
    assert {f"/{figure}" for figure in figures} <= set(answered)
