"""The page tells what has come of a training, loads nothing, and runs nothing of strangers."""

import base64
import io
import json
import math
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from helpers import picture, random_model
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import smoe_np
from smoe_np import Record, Smoe, cli, png, report
from smoe_np.read_results import read_history, read_results

VOID = {"meta", "img", "input"}
OF_SVG = {"svg", "circle", "line", "polyline", "text", "title"}


class Page(HTMLParser):
    """What a browser makes of a page: elements, their text, and whether all are closed."""

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.elements, self.texts, self.open = [], [], []
        self.source = Path(path).read_text("utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == [], f"{self.open} are not closed"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        assert tag in OF_SVG
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    @property
    def images(self):
        """The pictures in it by their names."""
        found = {}
        for image in self.all("img"):
            kind, data = image["src"].split(",")
            assert kind == "data:image/png;base64"
            found[image["alt"]] = base64.b64decode(data, validate=True)
        return found


HISTORY = [Record(i, 0.01 / (1 + i), 650 / (1 + i), 20 + i / 50, 30, i / 10)
           for i in range(0, 110, 10)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder of results as the command line leaves it, with a picture of a wicked name."""
    folder = tmp_path_factory.mktemp("results")
    image = folder / "a <b>&'x'.tif"
    smoe_np.write_image(image, picture((24, 32))[..., 0])
    assert cli.main(["train", "-i", str(image), "-r", str(folder / "run"), "-k", "4", "-n", "20",
                     "-v", "10", "-q"]) == 0
    return folder / "run"


def write(path, *args, **kwargs):
    report.write_report(path, *args, **kwargs)
    return Page(path)


# ---- what it shows


def test_the_page_tells_quality_size_and_settings(run, tmp_path):
    results = read_results(run)
    page = write(tmp_path / "report.html", *results[:4])
    image = smoe_np.pixels.as_float(results.image)
    rendered = smoe_np.render(results.params, image.shape)
    assert f"{smoe_np.psnr(image, rendered):.2f} dB" in page.text
    assert f"{smoe_np.ssim(image, rendered):.3f}" in page.text
    assert f"Kernels {results.params.num_kernels}" in page.text
    assert "24×32 pixels, grey" in page.text
    assert "20 iterations" in page.text
    for name, value in results.settings["training"].items():
        assert name in page.texts
        assert report._in_words(value) in page.texts


def test_the_pictures_in_the_page_are_those_of_the_model(run, tmp_path):
    Image = pytest.importorskip("PIL.Image")
    results = read_results(run)
    images = write(tmp_path / "report.html", *results[:4]).images
    assert images.keys() == {"Original", "Reconstruction", "Error", "Kernels", "Gating map"}
    pixels = {name: np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
              for name, data in images.items()}
    original = np.rint(255 * smoe_np.pixels.as_float(results.image)).astype(np.uint8)
    rendered = np.rint(255 * smoe_np.render(results.params, original.shape)).astype(np.uint8)
    assert (pixels["Original"] == original[..., None]).all()
    assert (pixels["Reconstruction"] == rendered[..., None]).all()
    labels = smoe_np.gating(results.params, original.shape)
    np.testing.assert_array_equal(pixels["Gating map"], smoe_np.colours.in_colours(labels))


def test_each_kernel_is_an_ellipse_where_its_distance_is_one(tmp_path):
    model = random_model(0, 25, sigma=0.1, anisotropy=5)
    page = write(tmp_path / "report.html", model, picture((20, 32))[..., 0], backend="numpy")
    matrices = [circle["transform"] for circle in page.all("circle") if "transform" in circle]
    assert len(matrices) == 25
    found = set()
    for matrix in matrices:
        a, b, c, d, e, f = map(float, re.findall(r"[-+.\de]+", matrix.removeprefix("matrix")))
        turn = np.linspace(0, 6, 7)
        x = np.stack([b * np.cos(turn) + d * np.sin(turn) + f,  # SVG has the column first
                      a * np.cos(turn) + c * np.sin(turn) + e], axis=1) / 32
        z = np.einsum("kde,kpd->kpe", model.A, x - model.musX[:, None])
        off = np.abs(np.linalg.norm(z, axis=-1) - 1).max(axis=1)
        found.add(int(off.argmin()))
        assert off.min() < 0.01
    assert found == set(range(25))


def test_of_too_many_kernels_the_heaviest_are_drawn_and_the_page_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "MOST_ELLIPSES", 10)
    model = random_model(0, 25, sigma=0.1)
    page = write(tmp_path / "report.html", model, picture((16, 16))[..., 0], backend="numpy")
    assert len([circle for circle in page.all("circle") if "transform" in circle]) == 10
    assert "the 10 heaviest of 25" in page.text


def test_curves_go_through_the_records(tmp_path):
    page = write(tmp_path / "report.html", random_model(0, 3), picture((8, 8))[..., 0], HISTORY)
    curves = [np.array([point.split(",") for point in curve["points"].split()], float)
              for curve in page.all("polyline")]
    assert len(curves) == 3  # PSNR, loss, kernels
    values = [np.array([r.psnr for r in HISTORY]), np.log([r.loss for r in HISTORY]),
              np.array([float(r.kernels) for r in HISTORY])]
    for curve, wanted in zip(curves, values):
        assert len(curve) == len(HISTORY)
        np.testing.assert_allclose(np.diff(curve[:, 0]), np.diff(curve[:, 0])[0], atol=0.11)
        slopes = np.polyfit(wanted, curve[:, 1], 1) if np.ptp(wanted) else (0, curve[0, 1])
        np.testing.assert_allclose(curve[:, 1], np.polyval(slopes, wanted), atol=0.11)
        assert slopes[0] <= 0  # upwards on the page
    assert "iteration 100: 22.00" in page.text


@pytest.mark.parametrize("history", [
    [], HISTORY[:1], [Record(i, 0.0, 0.0, math.inf, 1, 0.0) for i in range(3)],
    [Record(i, 0.5, 1.0, 30.0, 5, 0.1) for i in range(5000)],
])
def test_histories_may_be_empty_perfect_or_long(history, tmp_path):
    page = write(tmp_path / "report.html", random_model(0, 3), picture((8, 8))[..., 0], history)
    for curve in page.all("polyline"):
        assert len(curve["points"].split()) <= report.MOST_POINTS + 1
        assert "nan" not in curve["points"]


CASES = {"1x1": ((1, 1), 1, 1), "one kernel": ((8, 9), 1, 1), "RGB": ((12, 16), 3, 4),
         "4 channels": ((10, 12), 4, 4), "volume": ((5, 8, 10), 1, 4), "a row": ((1, 30), 3, 5)}


@pytest.mark.parametrize("case", CASES)
def test_any_picture_makes_a_page(case, tmp_path):
    shape, C, k = CASES[case]
    image = picture(shape, C)
    smoe = Smoe(image, k, channel_axis=-1, backend="numpy")
    smoe.train(2)
    page = write(tmp_path / "report.html", smoe.params, image, smoe.history, smoe.settings,
                 channel_axis=-1)
    assert len(page.images) == 5
    assert "×".join(map(str, shape)) in page.text
    assert ("middle slice" in page.text) == (len(shape) == 3)


def test_a_constant_picture_has_an_infinite_psnr(tmp_path):
    image = np.full((8, 8), 0.5)
    page = write(tmp_path / "report.html", Smoe(image, 2).params, image)
    assert "PSNR ∞ dB" in page.text


def test_without_the_picture_the_page_shows_the_model_alone(tmp_path):
    model = random_model(0, 5)
    with pytest.raises(ValueError, match="give image"):
        report.write_report(tmp_path / "report.html", model)
    model.image_shape = (12, 10)
    page = write(tmp_path / "report.html", model)
    assert page.images.keys() == {"Reconstruction", "Kernels", "Gating map"}
    assert "PSNR" not in page.text
    assert not page.all("input")


# ---- what it does not do


def test_the_page_needs_nothing_but_itself(run, tmp_path):
    page = write(tmp_path / "report.html", *read_results(run)[:4], folder=run)
    for tag, attributes in page.elements:
        assert tag not in {"link", "iframe", "object", "embed", "base", "video", "audio", "form"}
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name == "src":
                assert value.startswith("data:image/png;base64,")
            if name == "href":
                assert tag == "a"
                assert value.startswith("./")
    assert "http:" not in page.source
    assert "https:" not in page.source
    assert "url(" not in page.source
    assert "@import" not in page.source
    policy, = (meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    assert "default-src 'none'" in policy
    assert "script-src 'unsafe-inline'" in policy
    assert "img-src data:" in policy


WICKED = ['<script>alert(1)</script>', '"><img src=x onerror=alert(1)>', "'; alert(1); '",
          "</title></style><b>", "&lt;", "{title}", "\udcff"]


@pytest.mark.parametrize("wicked", WICKED)
def test_what_comes_from_users_is_text_and_nothing_else(wicked, tmp_path):
    model, image = random_model(0, 2), picture((6, 6))[..., 0]
    plain = write(tmp_path / "plain.html", model, image, title="t",
                  settings={"a": "b", "c": {"d": "e"}, "f": ["g"]})
    settings = {wicked: wicked, wicked + "2": {wicked: wicked}, "f": [wicked]}
    page = write(tmp_path / "report.html", model, image, title=wicked, settings=settings)
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    shown = wicked.encode("utf-8", "replace").decode()
    assert page.texts.count(shown) == 7  # title, heading, two names, a group, and values
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)


def test_every_file_is_linked_by_a_name_that_leads_to_it(run, tmp_path):
    wicked = ["a b#c?d%20.txt", "<img src=x>.txt", "javascript:alert(1)", "ö.txt", "\udcff.txt",
              '"quoted".txt']
    made = []
    for name in wicked:
        try:
            (run / name).write_text("x")
            made.append(name)
        except (OSError, UnicodeError):  # not on every file system
            continue
    (run / ".hidden").write_text("x")
    path = run / "report.html"
    try:
        report.write_report(path, *read_results(run)[:4], folder=run)
        page = write(path, *read_results(run)[:4], folder=run)  # over itself
        linked = [run / unquote(a["href"], errors="surrogateescape") for a in page.all("a")]
        assert all(file.is_file() for file in linked)
        wanted = {file for file in run.rglob("*") if file.is_file() and file.name != ".hidden"}
        assert {file.resolve() for file in linked} == {f.resolve() for f in wanted - {path}}
        assert len(linked) == len(wanted) - 1
        assert {"params_best.npz", "last.npz"} <= {file.name for file in linked}
        assert "<img src=x>.txt" in page.texts
    finally:
        for name in [*made, ".hidden", "report.html"]:
            (run / name).unlink()


def test_a_page_beside_the_folder_leads_into_it(run, tmp_path):
    page = write(tmp_path / "report.html", *read_results(run)[:4], folder=run)
    for link in page.all("a"):
        assert (tmp_path / unquote(link["href"])).resolve().is_file()


def test_the_page_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("older")
    monkeypatch.setattr(report, "_curves", lambda history: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        report.write_report(path, random_model(0, 2), picture((6, 6))[..., 0])
    assert path.read_text() == "older"
    monkeypatch.undo()
    model, image = random_model(0, 2), picture((6, 6))[..., 0]
    with pytest.raises(OSError, match="folder does not exist"):
        report.write_report(tmp_path / "none" / "a.html", model, image)
    assert list(tmp_path.iterdir()) == [path]


def test_the_page_needs_neither_matplotlib_nor_pillow(monkeypatch, tmp_path):
    import sys

    for name in ("matplotlib", "PIL"):
        monkeypatch.setitem(sys.modules, name, None)
    assert len(write(tmp_path / "report.html", random_model(0, 3), picture((6, 8))[..., 0],
                     HISTORY).images) == 5


# ---- PNG


def decoded(data):
    """A PNG of this library as pixels, by the letter of the standard."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    place, chunks = 8, {}
    while place < len(data):
        size = int.from_bytes(data[place:place + 4])
        name, body = data[place + 4:place + 8], data[place + 8:place + 8 + size]
        assert int.from_bytes(data[place + 8 + size:place + 12 + size]) == zlib.crc32(name + body)
        chunks[name] = body
        place += 12 + size
    assert list(chunks)[-1] == b"IEND"
    header = chunks[b"IHDR"]
    width, height = int.from_bytes(header[:4]), int.from_bytes(header[4:8])
    depth, kind = header[8:10]
    assert depth == 8
    samples = {0: 1, 2: 3, 3: 1}[kind]
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, -1)
    filters, rows = rows[:, 0], rows[:, 1:]
    assert set(filters) <= {0, 2}
    pixels = np.zeros((height, width * samples), np.uint8)
    for y in range(height):
        pixels[y] = rows[y] + (pixels[y - 1] if filters[y] == 2 and y else 0)
    if kind == 3:
        return np.frombuffer(chunks[b"PLTE"], np.uint8).reshape(-1, 3)[pixels]
    return pixels.reshape(height, width, 3) if kind == 2 else pixels


@given(hnp.arrays(np.uint8, st.one_of(hnp.array_shapes(min_dims=2, max_dims=2, max_side=8),
                                      st.tuples(st.integers(1, 6), st.integers(1, 6), st.just(3)))))
def test_pictures_are_packed_without_loss(pixels):
    np.testing.assert_array_equal(decoded(png.encoded(pixels)), pixels)


@pytest.mark.parametrize("count", [1, 2, 256, 300])
def test_pictures_of_few_colours_keep_them(count):
    rng = np.random.default_rng(0)
    palette = rng.integers(0, 256, (count, 3), np.uint8)
    indices = rng.integers(0, count, (20, 30))
    np.testing.assert_array_equal(decoded(png.encoded(indices, palette)), palette[indices])


# ---- the folder


def test_the_history_that_was_written_is_read_again(run):
    history = read_history(run / "history.csv")
    assert [record.iteration for record in history] == [0, 10, 20]
    assert all(type(getattr(record, name)) is kind for record in history for name, kind in (
        ("iteration", int), ("loss", float), ("psnr", float), ("kernels", int)))
    assert history[-1].psnr == pytest.approx(-10 * math.log10(history[-1].mse / 255**2))


@pytest.mark.parametrize(("table", "line"), [
    ("", None), ("iteration,loss\n1,2\n", 2), ("iteration,loss,mse,psnr,kernels,seconds\n1,2\n", 2),
    ("iteration,loss,mse,psnr,kernels,seconds\n0,1,1,1,1,1\nx,1,1,1,1,1\n", 3),
    ("\x00\xff", 2)])
def test_a_history_that_is_none_is_refused_with_its_line(table, line, tmp_path):
    path = tmp_path / "history.csv"
    path.write_bytes(table.encode("latin-1"))
    if line is None:
        assert read_history(path) == []
        return
    with pytest.raises(ValueError, match=f"history.csv.*line {line}") as caught:
        read_history(path)
    assert "\n" not in str(caught.value)


def test_results_are_read_even_if_the_picture_has_gone_or_is_another_one(run, tmp_path):
    results = read_results(run)
    assert results.image.shape == (24, 32)
    assert len(results.history) == 3
    assert results.settings["training"]["iterations"] == 20
    other = tmp_path / "other.tif"
    for name in ("params_best.npz", "settings.json"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    settings = json.loads((tmp_path / "settings.json").read_text())
    for image in (None, "none.tif", str(other), 7):
        smoe_np.write_image(other, picture((10, 10))[..., 0])
        (tmp_path / "settings.json").write_text(json.dumps({**settings, "image": image}))
        found = read_results(tmp_path)
        assert found.image is None
        assert found.history == []
        write(tmp_path / "report.html", *found)
    (tmp_path / "settings.json").unlink()
    assert read_results(tmp_path).settings == {}
    given = read_results(tmp_path, settings["image"])
    np.testing.assert_array_equal(given.image, results.image)
    smoe_np.write_image(other, picture((10, 10), 3))
    with pytest.raises(ValueError, match="3 channels"):
        read_results(tmp_path, other)


@pytest.mark.parametrize("text", ["{", "[1]", "\xff"])
def test_settings_that_are_none_are_refused(run, tmp_path, text):
    (tmp_path / "params_best.npz").write_bytes((run / "params_best.npz").read_bytes())
    (tmp_path / "settings.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="settings.json"):
        read_results(tmp_path)


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="params_best.npz"):
        read_results(tmp_path)
