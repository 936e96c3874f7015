"""The report of a training run: a self-contained HTML page."""

import base64
import math
import os
from html import escape
from urllib.parse import quote

import numpy as np

from . import __version__
from .colours import MAGMA, VIRIDIS, in_indexed_colours, steps_of, to_bytes
from .describe import size_of
from .drawing import BLUE, GREEN, ORANGE
from .files import atomic_write, path_text
from .metrics import ssim
from .numerals import (
    counted,
    decibels,
    labels,
    limits_of,
    number,
    round_factors,
    round_numbers,
)
from .png import encoded
from .report_frame import PAGE, SCRIPT, STYLE
from .scene import colours_of, faded, highest_error, scene_of_model

MOST_ELLIPSES = 4000  # more make a browser slow
MOST_POINTS = 1000  # of a curve
MOST_DOTS = 60  # points of a curve up to which each one has a dot that shows its value
MOST_FOR_SSIM = 1 << 22  # pixels; for more, SSIM takes too long

# ---- the page


def write_report(path, params, image=None, history=(), settings=None, folder=None, title=None,
                 channel_axis="auto", backend="auto"):
    """Write an HTML page about a model, the picture it was fitted to, and its training.

    The page contains all that it shows and loads nothing from elsewhere: quality and size of the
    model; original and reconstruction with a slider between them; the error, the kernels and the
    gating map; curves of the training; the settings; and links to files.

    Parameters
    ----------
    path : str or os.PathLike
        The file to write; it is written completely or not at all.
    params : SmoeParams
        The model.
    image : array, optional
        The picture that was fitted, as for ``Smoe``.
    history : sequence of smoe_np.Record
        The validations, for the curves.
    settings : dict, optional
        The settings to list; a dict in it becomes a group.
    folder : str or os.PathLike, optional
        All files in this folder are linked.
    title : str, optional
        Title of the page.
    channel_axis, backend
        As for ``Smoe``.

    Raises
    ------
    ValueError, TypeError
        If image and params do not fit together, or if there is no image and params does not hold
        the size of its picture.
    OSError
        If the file cannot be written.
    """
    scene = scene_of_model(params, image, channel_axis, backend)
    lists = _settings_table(settings or {})
    if folder is not None:
        lists += _links(path_text(folder), path_text(path))
    parts = [_tiles(scene, history), _pictures(scene), _curves(history),
             lists and f'<section class="lists">{lists}</section>']
    title = "A model of a picture" if title is None else " ".join(str(title).split())
    page = PAGE.format(title=escape(title), style=STYLE, script=SCRIPT, version=__version__,
                        subtitle=escape(_subtitle(scene)), parts="\n".join(filter(None, parts)))
    with atomic_write(path) as stream:
        stream.write(page.encode("utf-8", "replace"))  # file names may not be valid UTF-8


def _subtitle(scene):
    channels = scene.params.num_channels
    kind = {1: "grey", 3: "RGB"}.get(channels, f"{channels} channels")
    shape = "×".join(map(str, scene.shape))
    return f"{shape} pixels, {kind}" + (
        "" if len(scene.shape) == 2 else "; the pictures show the middle slice")


def _tiles(scene, history):
    """The most important numbers, in large print."""
    size = size_of(scene.params)
    tiles = []
    if scene.target is not None:
        tiles.append(("PSNR", *decibels(scene.psnr).split()))
        if math.prod(scene.shape) <= MOST_FOR_SSIM:
            tiles.append(("SSIM", f"{ssim(scene.target, scene.rendered, -1):.3f}", ""))
    tiles.append(("Kernels", f"{scene.params.num_kernels:,}", ""))
    scalars, in_bytes = size["scalars"], size["bytes_as_float16"]
    bits = 8 * in_bytes / math.prod(scene.shape)
    tiles.append(("Model size", f"{scalars:,}", f"numbers; {in_bytes:,} bytes as float16, "
                                           f"{bits:.3g} bits a pixel"))
    if history:
        tiles.append(("Training", f"{history[-1].seconds:,.1f}", "s, "
                      + counted(history[-1].iteration, "iteration")))
    return '<section class="tiles">' + "".join(
        f"<div><h2>{name}</h2><p><b>{value}</b> {remark}</p></div>"
        for name, value, remark in tiles) + "</section>"


def _pictures(scene):
    """Original and reconstruction, then the error, the kernels and the gating map."""
    height, width = scene.size
    after = _img(to_bytes(scene.reconstruction), "Reconstruction")
    style = (f'style="--ratio: {width / height:.6g}"'
             + (' data-small=""' if max(height, width) < 256 else ""))
    if scene.target is None:
        main = f'<section class="compare" {style}>{after}</section>'
    else:
        main = (f'<section class="compare" id="compare" {style}>{after}'
                f'<div class="before">{_img(to_bytes(scene.original), "Original")}</div>'
                '<span class="tag left">Original</span><span class="tag right">Reconstruction'
                '</span><div class="bar"></div><input type="range" min="0" max="100" value="50" '
                'step="0.1" aria-label="Share of the original that is shown"></section>')
    figures = []
    if scene.target is not None:
        highest = highest_error(scene.error)
        levels = to_bytes(scene.error / highest)
        figures.append(("Error", f"in grey levels of 0 to 255, at most {scene.error.max():.0f}: "
                        f"{_scale(MAGMA, highest)}",
                        _img(levels, "Error", steps_of(MAGMA))))
    figures.append(_ellipses(scene))
    indices, colours = in_indexed_colours(scene.owners)
    owning = counted(len(np.unique(scene.owners)), "kernel")
    figures.append(("Gating map", f"each pixel is coloured by the kernel with the largest gate "
                    f"there: {owning}, neighbours in different colours",
                    _img(indices, "Gating map", colours)))
    cells = "".join(
        f'<figure {style}><div class="picture">{picture}</div><figcaption><b>{name}</b> {remark}'
        "</figcaption></figure>" for name, remark, picture in figures)
    return f'{main}\n<section class="figures">{cells}</section>'


def _ellipses(scene):
    height, width = scene.size
    kernels, centres, frames, values = scene.ellipses()
    colours = colours_of(values)
    remark = "the 1σ ellipse of each, in its expert's colour"
    if values.shape[1] != 3:
        remark = f"the 1σ ellipse of each, coloured by its expert: {_scale(VIRIDIS, 1)}"
    if len(kernels) > MOST_ELLIPSES:
        heaviest = np.argsort(-scene.params.pis[kernels], kind="stable")[:MOST_ELLIPSES]
        kept = np.sort(heaviest)
        centres, frames, colours = centres[kept], frames[kept], colours[kept]
        remark += f"; only the {MOST_ELLIPSES:,} heaviest of {len(kernels):,}"
    circles = []
    for (row, column), ((a, b), (c, d)), colour in zip(
            centres.tolist(), frames.tolist(), colours.tolist()):
        matrix = " ".join(f"{x:.5g}" for x in (c, a, d, b, column, row))
        circles.append('<circle r="1" color="#{:02x}{:02x}{:02x}" transform="matrix({})"/>'.format(
            *colour, matrix))
    backdrop = scene.reconstruction if scene.target is None else scene.original
    picture = (f"{_img(to_bytes(faded(backdrop)), 'Kernels')}"
               f'<svg viewBox="0 0 {width} {height}" preserveAspectRatio="none" '
               f'aria-hidden="true">{"".join(circles)}</svg>')
    return "Kernels", remark, picture


def _scale(scale, highest):
    """A small colour bar, from 0 to the highest value."""
    stops = ", ".join(scale)
    return (f'<span class="scale">0 <i style="background: linear-gradient(to right, {stops})"></i>'
            f" {number(highest)}</span>")


def _curves(history):
    if not history:
        return ""
    charts = [_chart(history, "psnr", "PSNR", "dB", ORANGE), _chart(history, "loss", "Loss", "",
              BLUE), _chart(history, "kernels", "Kernels", "", GREEN)]
    return f'<section class="charts">{"".join(filter(None, charts))}</section>'


def _chart(history, name, title, unit, colour, width=360, height=210):
    """A curve over the iterations, as SVG."""
    step = -(-len(history) // MOST_POINTS)
    records = [*history[:-1:step], history[-1]]
    values = [getattr(record, name) for record in records]
    is_log = name == "loss"
    limits = limits_of([0, *values] if name == "kernels" else values, is_log)
    if limits is None:
        return ""
    if name == "kernels":
        limits = 0, limits[1]
    left, right, top, bottom = 52, width - 10, 10, height - 38
    first, last = records[0].iteration, records[-1].iteration
    scale = math.log if is_log else float

    def across(iteration):
        return left + (right - left) * ((iteration - first) / (last - first) if last > first
                                        else 0.5)

    def up(value):
        low, high = map(scale, limits)
        return bottom - (bottom - top) * (scale(value) - low) / (high - low)

    ticks = (round_factors if is_log else round_numbers)(*limits, 5)
    if name == "kernels":
        ticks = [tick for tick in ticks if tick == int(tick)]
    steps = round_numbers(first, last, min(5, last - first)) if last > first else [first]
    marks = [f'<line x1="{left}" x2="{right}" y1="{up(tick):.1f}" y2="{up(tick):.1f}"/>'
             f'<text x="{left - 7}" y="{up(tick) + 4:.1f}" class="end">{label}</text>'
             for tick, label in zip(ticks, labels(ticks))]
    marks += [f'<text x="{across(tick):.1f}" y="{bottom + 16}" class="middle">{label}</text>'
              for tick, label in zip(steps, labels(steps))]
    points = [(across(record.iteration), up(value), record.iteration, value)
              for record, value in zip(records, values)
              if math.isfinite(value) and (value > 0 or not is_log)]
    curve = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in points)
    shown = points if len(points) <= MOST_DOTS else points[-1:]
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5"><title>iteration {i:,}: '
                   f"{_value(name, value)}</title></circle>" for x, y, i, value in shown)
    latest = f"{_value(name, points[-1][3])} {unit}" if points else ""
    return (f'<figure><figcaption><b>{title}</b> {latest}</figcaption>'
            f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{title} over iterations" '
            f'style="color: {colour}">{"".join(marks)}<polyline points="{curve}"/>{dots}'
            f'<text x="{(left + right) / 2:.0f}" y="{height - 4}" class="middle">Iteration</text>'
            "</svg></figure>")


def _value(name, value):
    return {"psnr": "{:.2f}", "loss": "{:.3g}", "kernels": "{:,}"}[name].format(value)


def _settings_table(settings):
    if not settings:
        return ""
    rows = []
    plain = {name: value for name, value in settings.items() if not isinstance(value, dict)}
    groups = {"": plain, **{k: v for k, v in settings.items() if isinstance(v, dict)}}
    for group, members in groups.items():
        if group:
            rows.append(f'<tr><th colspan="2" class="group">{escape(str(group))}</th></tr>')
        rows += [f"<tr><th>{escape(str(name))}</th><td>{escape(_in_words(value))}</td></tr>"
                 for name, value in members.items()]
    return f'<div><h2>Settings</h2><table>{"".join(rows)}</table></div>'


def _in_words(value):
    """A setting as text for the reader."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(_in_words, value))
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_in_words(inner)}" for name, inner in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def _links(folder, page):
    """Links to all files of a folder, grouped by sub-folder."""
    base, own = os.path.dirname(os.path.realpath(page)), os.path.realpath(page)
    groups = []
    for place, inner, names in os.walk(folder):
        inner.sort()
        paths = [os.path.join(place, name) for name in sorted(names) if not name.startswith(".")]
        paths = [path for path in paths if os.path.realpath(path) != own and os.path.isfile(path)]
        if not paths:
            continue
        items = "".join(_link(path, base) for path in paths)
        if place == folder:
            groups.append(f"<ul>{items}</ul>")
        else:
            name = os.path.relpath(place, folder)
            groups.append(f"<details><summary>{escape(name)}/ <small>{len(paths):,}</small>"
                          f"</summary><ul>{items}</ul></details>")
    if not groups:
        return ""
    return f'<div><h2>Files</h2>{"".join(groups)}</div>'


def _link(path, base):
    relative = os.path.relpath(os.path.realpath(path), base).replace(os.sep, "/")
    address = "./" + quote(os.fsencode(relative))  # without ./ a colon would make it a URL scheme
    size = os.path.getsize(path)
    in_words = f"{size:,} bytes" if size < 10_000 else f"{size / 1000:,.0f} kB"
    return (f'<li><a href="{escape(address)}">{escape(os.path.basename(path))}</a> '
            f"<small>{in_words}</small></li>")


# ---- embedded pictures


def _img(pixels, alt, palette=None):
    data = base64.b64encode(encoded(pixels, palette)).decode("ascii")
    return f'<img alt="{alt}" src="data:image/png;base64,{data}">'
