"""The pages in a real browser: quiet, offline, sortable, whole, and no wider than a telephone."""

import shutil

import pytest
from browser import CHROMIUM, DRIVER, Browser

from genflow.bench.cells import plan
from genflow.bench.store import Store
from genflow.commands.report import report_command
from genflow.report.write import write_outputs

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no chromium and chromedriver here: apt-get install chromium chromium-driver"
)
SETTINGS = {"process": ["pfgm", "vp_ode"], "solver": ["euler", "heun", "rk45"], "nfe": [5, 20], "samples": 70}
COLUMN = """
const table = [...document.querySelectorAll("table.sortable")].find(t => t.tHead.textContent.includes(arguments[0]));
const heads = [...table.tHead.rows[0].cells];
const column = heads.findIndex(head => head.textContent === arguments[0]);
const texts = () => [...table.tBodies[0].rows].map(row => row.cells[column].textContent);
const button = heads[column].firstElementChild;
const sorted = () => heads.map(head => head.getAttribute("aria-sort"));
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory, made_up_bench):
    """A bench's page and a comparison's."""
    folder = tmp_path_factory.mktemp("pages")
    config = made_up_bench(folder / "a", **SETTINGS)
    write_outputs(config, Store(folder / "a"), plan(config), "genflow bench")
    shutil.copytree(folder / "a", folder / "b")
    words = [str(folder / "a"), str(folder / "b"), "--out", str(folder / "ab")]
    assert report_command.main(words, standalone_mode=False) == 0
    return {"bench": folder / "a" / "report.html", "comparison": folder / "ab" / "report.html"}


@pytest.fixture(scope="module")
def browser():
    with Browser() as window:
        yield window


@pytest.fixture(params=["bench", "comparison"])
def opened(request, pages, browser):
    browser.size(1200)
    browser.log("browser"), browser.log("performance")
    browser.open(pages[request.param])
    return browser


@pytest.fixture
def bench(pages, browser):
    browser.size(1200)
    browser.open(pages["bench"])
    return browser


@pytest.mark.quick_one_in(2)
def test_the_console_is_quiet_and_nothing_is_asked_for(opened, pages):
    assert opened.log("browser") == []
    assert (
        opened.run("return performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length")
        == 0
    )
    sent = [line["message"] for line in opened.log("performance") if "Network.requestWillBeSent" in line["message"]]
    assert sent  # the log works: the page itself is there
    assert [m for m in sent if '"url":"http' in m or '"url":"ws' in m] == []


def test_the_policy_forbids_what_it_should(bench):
    """A script or a request that were smuggled in would not run."""
    bench.run(
        "const s = document.createElement('script'); s.textContent = 'window.smuggled = 1'; document.body.append(s);"
        "const i = new Image(); i.src = 'http://127.0.0.1:9/x.png'; document.body.append(i);"
    )
    assert bench.run("return window.smuggled === undefined")
    messages = " ".join(line["message"] for line in bench.log("browser"))
    assert messages.count("Content Security Policy") >= 2


def test_every_image_shows(opened):
    widths = opened.run("return Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))")
    assert len(widths) >= 1
    assert min(widths) > 0


def test_headings_sort_their_columns_as_numbers(bench):
    before, up, marks, down = bench.run(
        COLUMN + "const before = texts(); button.click(); const up = texts(), marks = sorted();"
        "button.click(); return [before, up, marks, texts()];",
        "NFE 20",
    )
    number = lambda text: float(text.split(" ")[0])  # noqa: E731
    assert up[0] == before[0] == "6"  # the floor stays on top
    known = [number(t) for t in up[1:] if t]
    assert known == sorted(known)
    assert len(set(known)) > 2  # so that one of the two orders is not the one it came in
    assert up[-2:] == ["", ""]  # what is not there comes last, whichever way
    assert [number(t) for t in down[1:] if t] == sorted(known, reverse=True)
    assert down[-2:] == ["", ""]
    assert [m for m in marks if m] == ["ascending"]


def test_words_sort_as_words_and_one_heading_at_a_time(bench):
    up, marks = bench.run(
        COLUMN + "heads[0].firstElementChild.click(); button.click(); return [texts(), sorted()];", "solver"
    )
    assert up[1:] == sorted(up[1:])
    assert marks.index("ascending") == 1
    assert marks.count(None) == len(marks) - 1


def test_numbers_with_errors_signs_and_powers(bench):
    """The script's own reading of cells."""
    texts = ["12.3 ± 0.4", "−4.5", "1e-05", "+2", "57.1 (NFE 88)", ".5"]
    assert bench.run("return arguments[0].map(number)", texts) == [12.3, -4.5, 1e-05, 2, 57.1, 0.5]
    assert bench.run("return ['rk45(0.001)', '–', 'x1'].map(number)") == [None, None, None]


def test_the_keyboard_reaches_headings_and_sorts(bench):
    assert bench.run(COLUMN + "button.focus(); return document.activeElement === button;", "NFE 20")
    for kind in ("keyDown", "keyUp"):
        key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r" if kind == "keyDown" else ""}
        bench.devtools("Input.dispatchKeyEvent", type=kind, **key)
    assert bench.run(COLUMN + "return sorted().filter(x => x);", "NFE 20") == ["ascending"]


@pytest.mark.parametrize("width", [360, 768])
def test_nothing_is_wider_than_the_window(opened, width):
    opened.size(width, phone=True)
    assert opened.run("return [document.documentElement.scrollWidth, innerWidth]") == [width, width]
    outside = """
    return [...document.querySelectorAll("body *")]
      .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(".scroll, pre")).map(e => e.outerHTML)
    """
    assert opened.run(outside) == []


def test_a_copy_button_says_that_it_copied(bench):
    assert bench.run(
        "const b = document.querySelector('[data-copy=bibtex]'); b.click();"
        "return new Promise(done => setTimeout(() => done(b.textContent), 200));"
    ) == "Copied"  # fmt: skip


@pytest.mark.slow
def test_dark_colours_have_enough_contrast(bench):
    """Text on its ground, by the formula of WCAG 2: at least 4.5 in both schemes."""
    for scheme in ("light", "dark"):
        bench.scheme(scheme)
        pairs = bench.run(
            "const s = getComputedStyle(document.body), soft = getComputedStyle(document.querySelector('.caption'));"
            "return [[s.color, s.backgroundColor], [soft.color, s.backgroundColor]];"
        )
        assert all(contrast(*pair) >= 4.5 for pair in pairs), (scheme, pairs)
    bench.scheme("light")


def contrast(one, other):
    """Ratio of relative luminances of two "rgb(r, g, b)"."""
    bright = []
    for words in (one, other):
        parts = [int(p) / 255 for p in words.removeprefix("rgb(").removesuffix(")").split(",")]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        bright.append(sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear)))
    return (max(bright) + 0.05) / (min(bright) + 0.05)
