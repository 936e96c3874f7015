"""The drawing of figures with Matplotlib: lengths in inches, text sizes in points."""

import math
from typing import Any, NamedTuple

import numpy as np

from .colours import MAGMA, VIRIDIS, in_colours, scaled
from .metrics import PEAK, psnr, ssim
from .numerals import counted, decibels, labels, limits_of, number, round_factors, round_numbers
from .scene import check_dimensions, colours_of, faded, flat, highest_error

QUALITIES = {"psnr": "PSNR (dB)", "mse": "MSE (0–255 scale)"}
# smallest weight shown, relative to the largest; smaller ones are counted there
LEAST_WEIGHT = 1e-40
# largest coordinate in pixels; outlines are clipped to it, as larger ones cannot be drawn
MOST_COORDINATE = 1e6
MOST_MARKERS = 25  # lines of at most so many points have markers
INK, GREY, RULE = "#1b1f24", "#5f6973", "#d3d9de"
BLUE, ORANGE, GREEN, RED = "#1f6fb4", "#d9730d", "#2f8f5b", "#c2334d"
LEAST_WIDTH = 2.7  # least width of a panel in inches, for its caption
HEADING, CAPTION, MARGIN, GAP, BETWEEN, CURVE = 0.85, 0.3, 0.6, 0.7, 0.3, 3.0  # inches


def compose_loss(page, history, quality, title):
    """Draw loss, quality and number of kernels over the iterations."""
    page.begin(9.0, 5.6, title or "Training", _facts_of(history[-1]))
    above = page.axes(0.95, 2.15, 7.2, 2.55)
    beside = above.twinx()
    below = page.axes(0.95, 0.6, 7.2, 1.3)
    iterations = [record.iteration for record in history]
    lines = []
    for axes, name, label, colour in ((above, "loss", "Loss", BLUE),
                                      (beside, quality, QUALITIES[quality], ORANGE),
                                      (below, "kernels", "Kernels", GREEN)):
        values = np.array([getattr(record, name) for record in history], float)
        values[~np.isfinite(values)] = np.nan  # an infinite PSNR
        if name != "kernels":
            _scale(axes, values, name in ("loss", "mse"))
        lines.append(_line(axes, iterations, values, colour, label))
        _style(axes, label, colour)
        _iterations(axes, iterations)
    for axes in (above, below):
        axes.yaxis.set_label_coords(-0.7 / 7.2, 0.5)
    beside.grid(False)
    above.tick_params(labelbottom=False)
    above.set_xlabel("")
    most = max(1, *(record.kernels for record in history))
    below.set_ylim(0, 1.15 * most)
    _whole_numbers(below.yaxis, 0, 1.15 * most, 4)
    page.figure.legend(handles=lines, loc="center right", ncols=3, frameon=False, fontsize=10,
                       labelcolor=INK, handlelength=1.6, borderaxespad=0, borderpad=0,
                       bbox_to_anchor=(8.15 / page.width, 1 - 0.63 / page.height))


def _facts_of(record):
    return (f"iteration {record.iteration:,} · {decibels(record.psnr)} · "
            f"{counted(record.kernels, 'kernel')}")


def compose_sheet(page, scene, panels, total, title, facts):
    """Draw panels of a scene side by side."""
    draw = {"original": _draw_original, "reconstruction": _draw_reconstruction,
            "error": _draw_error, "gating": _draw_gating, "kernels": _draw_kernels,
            "weights": lambda panel, scene: _draw_weights(panel, scene.params.pis, total)}
    is_wide = scene.size[1] > 2 * scene.size[0]
    columns = {1: 1, 2: 2, 4: 2}.get(len(panels), 2 if is_wide else 3)
    places = _panels(page, len(panels), columns, scene.size, title or "Model", facts)
    for place, panel in zip(places, panels):
        draw[panel](place, scene)


def _draw_original(panel, scene):
    before = "" if len(scene.shape) == 2 else "middle slice of "
    _draw_picture(panel, scene.original, scene.size, "Original",
                  before + "×".join(map(str, scene.shape)))


def _draw_reconstruction(panel, scene):
    _draw_picture(panel, scene.reconstruction, scene.size, "Reconstruction",
                  "" if scene.psnr is None else decibels(scene.psnr))


def _draw_error(panel, scene):
    highest = highest_error(scene.error)
    _draw_picture(panel, scaled(scene.error / highest, MAGMA), scene.size, "Error",
                  f"of 255 grey levels, {number(float(round(scene.error.max())))} at most")
    _bar(panel, MAGMA, highest)


def _draw_gating(panel, scene):
    owning = counted(len(np.unique(scene.owners)), "kernel")
    _draw_picture(panel, in_colours(scene.owners), scene.size, "Gating map",
                  f"{owning} own pixels")


def _draw_kernels(panel, scene):
    from matplotlib.collections import PolyCollection

    height, width = scene.size
    backdrop = scene.reconstruction if scene.target is None else scene.original
    _draw_picture(panel, faded(backdrop), scene.size, "Kernels", "1σ, in the expert's colour")
    _, centres, frames, values = scene.ellipses()
    angles = np.linspace(0, 2 * np.pi, 41 if len(centres) < 2000 else 21)
    circle = np.stack([np.cos(angles), np.sin(angles)])  # (2, points)
    outlines = centres[:, None] + (frames @ circle).transpose(0, 2, 1)  # (n, points, 2)
    outlines = np.clip(outlines, -MOST_COORDINATE, MOST_COORDINATE)
    thickness = np.clip(1.3 - 0.22 * math.log2(max(len(centres), 1) / 300), 0.4, 1.3)
    colours = colours_of(values) / 255
    panel.axes.add_collection(PolyCollection(
        outlines[..., ::-1], linewidths=float(thickness), edgecolors=colours,
        facecolors=np.column_stack([colours, np.full(len(colours), 0.25)])), autolim=False)
    panel.axes.set(xlim=(0, width), ylim=(height, 0))
    if values.shape[1] != 3:
        _bar(panel, VIRIDIS, 1)


def _draw_weights(panel, pis, total):
    axes, pis = panel.axes, pis[pis > 0]
    high = float(pis.max())
    low = max(float(pis.min()), high * LEAST_WEIGHT)
    half = 1.05 * max(math.sqrt(high / low), 2)  # of the axis, as a factor
    edges = np.geomspace(math.sqrt(low * high) / half, math.sqrt(low * high) * half, 41)
    counts, _ = np.histogram(np.clip(pis, low, high), edges)
    axes.stairs(counts, edges, fill=True, color=BLUE)
    axes.set(xscale="log", xlim=(edges[0], edges[-1]), ylim=(0, 1.08 * counts.max()))
    _ticks(axes.xaxis, (edges[0], edges[-1]), True)
    _whole_numbers(axes.yaxis, 0, 1.08 * counts.max(), 5)
    _style(axes)
    _caption(panel, "Weights π", f"{len(pis):,} of {total:,} kernels used"
             if total is not None and total >= len(pis) else counted(len(pis), "kernel"))


def compose_sparsity(page, scenes, title):
    """Draw models of fewer and fewer kernels side by side: gating maps above reconstructions."""
    places = _panels(page, 2 * len(scenes), len(scenes), scenes[0].size, title or "Sparsity",
                     "×".join(map(str, scenes[0].shape)))
    for scene, above, below in zip(scenes, places, places[len(scenes):]):
        _draw_picture(above, in_colours(scene.owners), scene.size,
                      counted(scene.params.num_kernels, "kernel"), "gating map")
        _draw_picture(below, scene.reconstruction, scene.size,
                      "" if scene.psnr is None else decibels(scene.psnr), "reconstruction")


def compose_denoising(page, noisy, denoised, clean, reference, reference_name, curve, title):
    """Draw a noisy picture, its denoised version, and PSNR over the iterations."""
    check_dimensions(noisy.shape[:-1])
    pictures = [(name, image) for name, image in (
        ("Clean", clean), ("Noisy", noisy), ("Denoised", denoised), (reference_name, reference))
        if image is not None]
    levels = [None if clean is None or image is clean else psnr(clean, image)
              for _, image in pictures]
    remarks = []
    for (_, image), level in zip(pictures, levels):
        if level is not None:
            remarks.append(f"{decibels(level)}, SSIM {ssim(clean, image, -1):.3f}")
        elif clean is None and image is not noisy:
            remarks.append(f"σ {PEAK * float(np.std(image - noisy)):.1f} taken away")
        else:
            remarks.append("")
        if image is denoised:
            facts = remarks[-1]
    has_curve = curve is not None and len(curve[0]) > 0
    size = noisy.shape[-3:-1]
    panels = _panels(page, len(pictures), len(pictures), size, title or "Denoising", facts,
                     CURVE if has_curve else 0)
    for panel, (name, image), remark in zip(panels, pictures, remarks):
        _draw_picture(panel, flat(image), size, name, remark)
    if has_curve:
        axes = page.axes(0.8, 0.6, page.width - 0.8 - MARGIN, CURVE - 0.65)
        others = [(name, level) for (name, image), level in zip(pictures, levels)
                  if level is not None and math.isfinite(level) and image is not denoised]
        _draw_levels(axes, curve, others)
        _style(axes, "PSNR to the noisy (dB)" if clean is None else "PSNR (dB)")


def _draw_levels(axes, curve, others):
    """Draw PSNR over the iterations, and that of other pictures (name, level) as dashed lines."""
    iterations, values = curve[0], np.where(np.isfinite(curve[1]), curve[1], np.nan)
    _scale(axes, [*values, *(level for _, level in others)], False)
    _line(axes, iterations, values, BLUE, "Denoised")
    for (name, level), colour in zip(others, (GREY, RED)):
        axes.axhline(level, color=colour, linewidth=1.5, linestyle=(0, (5, 3)), label=name)
    _iterations(axes, iterations)
    if others:
        legend = axes.legend(loc="lower right", frameon=False, fontsize=10, labelcolor=INK,
                             ncols=3)
        for text in legend.get_texts():
            text.set_parse_math(False)


# ---- parts of figures


class Page:
    """A figure with positions in inches from its lower left corner.

    Parameters
    ----------
    figure : matplotlib.figure.Figure

    Attributes
    ----------
    width, height : float
        In inches; if a window is resized, everything scales with it.
    is_sized : bool
        Whether the figure keeps its size.
    """

    def __init__(self, figure):
        self.figure, self.is_sized = figure, False

    def begin(self, width, height, title, facts):
        """Set the size of the page, and write its heading."""
        self.width, self.height = width, height
        if not self.is_sized:
            self.figure.set_size_inches(width, height)
        most = int((width - 2 * MARGIN) / 0.13)  # number of characters that fit
        title = " ".join(str(title).encode("utf-8", "replace").decode().split())
        if len(title) > most:
            title = title[:most // 2] + "…" + title[len(title) - most // 2 + 1:]
        self.text(MARGIN, height - 0.42, title, fontsize=14, weight="bold", color=INK)
        self.text(MARGIN, height - 0.66, facts, fontsize=10.5, color=GREY)

    def axes(self, left, bottom, width, height):
        """Add axes at a position."""
        return self.figure.add_axes((left / self.width, bottom / self.height, width / self.width,
                                     height / self.height))

    def text(self, left, bottom, text, **style):
        """Add text at a position, without interpreting it as mathematics."""
        self.figure.text(left / self.width, bottom / self.height, text, parse_math=False, **style)


class _Panel(NamedTuple):
    """A position for a picture and for a caption above it."""

    page: Page
    axes: Any
    left: float
    top: float
    width: float
    of_picture: float  # width of the picture itself, which may be narrower than the panel


def _panels(page, count, columns, size, title, facts, foot=0.0):
    """Begin a page of panels for pictures of a size (height, width), row by row.

    Parameters
    ----------
    foot : float
        Height to leave free below the panels.
    """
    usual, steepness = {1: 5.2, 2: 4.6, 3: 3.9}.get(columns, 3.4), size[0] / size[1]
    highest = 1.5 * usual
    width = min(usual, max(highest / steepness, LEAST_WIDTH))
    height = min(highest, width * max(steepness, 0.24))
    rows = -(-count // columns)
    page.begin(2 * MARGIN + columns * width + (columns - 1) * GAP,
               HEADING + rows * (height + CAPTION) + (rows - 1) * BETWEEN + MARGIN + foot,
               title, facts)
    panels = []
    for place in range(count):
        row, column = divmod(place, columns)
        left = MARGIN + column * (width + GAP)
        top = page.height - HEADING - CAPTION - row * (height + CAPTION + BETWEEN)
        axes = page.axes(left, top - height, width, height)
        panels.append(_Panel(page, axes, left, top, width, min(width, height * size[1] / size[0])))
    return panels


def _caption(panel, title, remark):
    page, bottom = panel.page, panel.top + 0.08
    page.text(panel.left, bottom, title, fontsize=10.5, weight="bold", color=INK)
    page.text(panel.left + panel.width, bottom, remark, fontsize=9, color=GREY, ha="right")


def _draw_picture(panel, picture, size, title, remark):
    axes, (height, width) = panel.axes, size
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1, extent=(0, width, height, 0),
                origin="upper", aspect="equal")
    axes.set_anchor("NW")
    axes.set(xticks=(), yticks=())
    for spine in axes.spines.values():
        spine.set(color=RULE, linewidth=0.8)
    _caption(panel, title, remark)


def _bar(panel, scale, highest):
    """Draw a colour scale from 0 to the highest value, beside a picture."""
    axes = panel.axes  # separate axes would take longer to draw than all the rest
    limits = axes.get_xlim(), axes.get_ylim()
    left, right, text = (1 + inches / panel.of_picture for inches in (0.08, 0.2, 0.26))
    axes.imshow(scaled(np.linspace(0, 1, 256)[:, None], scale), extent=(left, right, 0, 1),
                origin="lower", aspect="equal", transform=axes.transAxes, clip_on=False)
    axes.set(xlim=limits[0], ylim=limits[1])
    for value in round_numbers(0, highest, 5):
        axes.text(text, value / highest, number(value), transform=axes.transAxes, fontsize=8.5,
                  color=GREY, va="center")


def _line(axes, iterations, values, colour, label):
    marker = {"marker": "o", "markersize": 4} if len(iterations) <= MOST_MARKERS else {}
    return axes.plot(iterations, values, color=colour, linewidth=1.8, label=label, **marker)[0]


def _style(axes, label="", colour=INK):
    axes.set_ylabel(label, color=colour, fontsize=10)
    axes.tick_params(labelsize=9, labelcolor=GREY, color=RULE, which="both")
    axes.grid(True, color=RULE, linewidth=0.6, alpha=0.7)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set(visible=side in ("left", "bottom"), color=RULE)


def _iterations(axes, iterations):
    """Set up the horizontal axis to cover the iterations."""
    first, last = iterations[0], iterations[-1]
    margin = 0.02 * (last - first) or 1
    axes.set_xlim(first - margin, last + margin)
    _whole_numbers(axes.xaxis, first, last, 8)
    axes.set_xlabel("Iteration", color=INK, fontsize=10)


def _whole_numbers(axis, low, high, most):
    ticks = round_numbers(low, high, min(most, high - low)) if high > low else [low]
    axis.set_ticks(ticks, labels=labels(ticks))


def _scale(axes, values, logarithmic):
    """Make the vertical axis fit its values."""
    limits = limits_of(values, logarithmic)
    if limits is None:
        axes.set_yticks(())
        return
    if logarithmic:
        axes.set_yscale("log")
    axes.set_ylim(limits)
    _ticks(axes.yaxis, limits, logarithmic)


def _ticks(axis, limits, logarithmic):
    from matplotlib.ticker import NullFormatter, NullLocator

    ticks = (round_factors if logarithmic else round_numbers)(*limits, 7)
    axis.set_ticks(ticks, labels=labels(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
