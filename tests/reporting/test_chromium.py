"""The pages in a browser: nothing is complained about, nothing is fetched, and something is to be seen."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from mprm.reporting.comparison import write_comparison
from mprm.reporting.run_record import run_folders
from mprm.reporting.settings import compare
from mprm.reporting.steps import write_report

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="needs chromium, chromium-browser or google-chrome"),
]
DARK = "--blink-settings=preferredColorScheme=0"
LIGHT = "--blink-settings=preferredColorScheme=1"


@pytest.fixture(scope="module")
def pages(many_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The comparison and the page of one run."""
    runs = Path(shutil.copytree(many_runs, tmp_path_factory.mktemp("browser") / "runs"))
    return {
        "comparison": write_comparison(runs, compare(run_folders(runs)), Console(quiet=True)),
        "run": write_report(runs / "bis-0.2-0.5-0"),
    }


def browse(url: str, folder: Path, *options: str) -> str:
    """Open the page in a fresh profile; returns what the browser logged."""
    assert BROWSER is not None
    command = [
        *(BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
        *(
            "--enable-logging=stderr",
            "--log-level=0",
            f"--user-data-dir={folder / 'profile'}",
            "--window-size=1280,4000",
        ),
        *("--no-first-run", "--disable-component-update", "--disable-background-networking", *options, url),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stderr


def console_lines(log: str) -> list[str]:
    return [line for line in log.splitlines() if "CONSOLE" in line]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("L"), dtype=np.float64)


@pytest.mark.parametrize("name", ["comparison", "run"])
def test_a_page_is_drawn_light_and_dark_without_a_word_in_the_console(
    pages: dict[str, Path], name: str, tmp_path: Path
) -> None:
    brightness = {}
    for scheme, option in (("light", LIGHT), ("dark", DARK)):
        picture = tmp_path / f"{scheme}.png"
        log = browse(pages[name].as_uri(), tmp_path / scheme, option, f"--screenshot={picture}")
        assert console_lines(log) == []
        drawn = pixels(picture)
        assert drawn.std() > 5, "a blank page"
        brightness[scheme] = float(np.median(drawn))
    assert brightness["light"] > 200
    assert brightness["dark"] < 60


def test_what_a_page_would_fetch_is_refused_and_heard(pages: dict[str, Path], tmp_path: Path) -> None:
    # So an empty console says that nothing was to be fetched.
    page = tmp_path / "curious.html"
    for element in (
        '<img src="http://127.0.0.1:9/a.png">',
        '<script src="a.js"></script>',
        "<style>@import 'a.css';</style>",
    ):
        page.write_text(pages["run"].read_text().replace("</main>", f"{element}</main>"))
        log = browse(page.as_uri(), tmp_path, f"--screenshot={tmp_path / 'curious.png'}")
        assert any("Content Security Policy" in line for line in console_lines(log)), element
