"""Colours: maps of regions in which neighbours differ, and scales from dark to light."""

from itertools import product

import numpy as np

# Twelve hues, alternately dark, middle and light: in OKLab (Ottosson 2020) any two are 0.1 or more
# apart, where a difference of 0.02 is just visible.
_HUES, _LIGHTNESS, _CHROMA = 12, (0.58, 0.71, 0.84), (0.125, 0.115, 0.095)
USUAL_COLOURS = _HUES
_GOLDEN = (5**0.5 - 1) / 2
_SPREAD = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: multiples of it are spread evenly

# Nine evenly spaced colours of the scales of these names by Smith, van der Walt and Firing (CC0);
# colours between them are interpolated linearly.
MAGMA = ("#000004", "#1d1147", "#51127c", "#832681", "#b73779", "#e75263", "#fc8961", "#fec488",
         "#fcfdbf")
VIRIDIS = ("#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30",
           "#fde725")


def in_colours(gating):
    """Colour a map of kernel numbers so that neighbours differ.

    Parameters
    ----------
    gating : (H, W) array of int
        As ``smoe_np.gating`` gives it; of any number of dimensions.

    Returns
    -------
    (H, W, 3) uint8
        Kernels that own pixels side by side or corner to corner have different colours. The same
        map always gets the same colours, and most kernels keep theirs while a map changes.

    Raises
    ------
    TypeError, ValueError
        If the map does not hold whole numbers from 0 on.
    """
    indices, colours = in_indexed_colours(gating)
    return colours[indices]


def in_indexed_colours(gating):
    """The result of ``in_colours`` as indices (H, W) into a table of colours (n, 3)."""
    gating = np.asarray(gating)
    if gating.dtype.kind not in "iu":
        raise TypeError(f"gating must hold kernel numbers, got dtype {gating.dtype}")
    if gating.min(initial=0) < 0:
        raise ValueError(f"gating must hold kernel numbers from 0 on, got {gating.min()}")
    owns = np.zeros(int(gating.max(initial=-1)) + 1, bool)
    owns[gating] = True
    owners = np.flatnonzero(owns)  # (regions,)
    regions = (np.cumsum(owns) - 1)[gating]
    wanted = (owners.astype(np.uint64) * np.uint64(_SPREAD)) >> np.uint64(32)  # below 2^32
    wanted = (wanted * np.uint64(USUAL_COLOURS)) >> np.uint64(32)
    colours = colour_graph(neighbours(regions), wanted.astype(np.int64))
    return colours[regions], palette(int(colours.max(initial=-1)) + 1)


def neighbours(regions):
    """Which regions of a map touch, side by side or corner to corner.

    Parameters
    ----------
    regions : array of int, from 0

    Returns
    -------
    (E, 2) int64
        Each pair once, the smaller number first.
    """
    count = int(regions.max(initial=0)) + 1
    pairs = []
    for step in product((-1, 0, 1), repeat=regions.ndim):
        if step <= (0,) * regions.ndim:  # only one of a step and its opposite
            continue
        here = tuple(slice(max(0, -s), n - max(0, s)) for s, n in zip(step, regions.shape))
        there = tuple(slice(max(0, s), n - max(0, -s)) for s, n in zip(step, regions.shape))
        a, b = regions[here], regions[there]
        differ = a != b
        a, b = a[differ].astype(np.int64), b[differ].astype(np.int64)
        pairs.append(np.minimum(a, b) * count + np.maximum(a, b))
    codes = np.unique(np.concatenate(pairs)) if pairs else np.empty(0, np.int64)
    return np.stack(np.divmod(codes, count), axis=1)


def colour_graph(edges, wanted):
    """Colour the nodes of a graph so that no edge joins equal ones (Jones and Plassmann 1993).

    Parameters
    ----------
    edges : (E, 2) array of int
        Pairs of nodes.
    wanted : (n,) array of int
        The colour that each node prefers, in 0 … USUAL_COLOURS − 1. It gets the first free one from
        there on, cyclically, and one beyond the usual ones where all of these are taken.

    Returns
    -------
    (n,) int64
    """
    n = len(wanted)
    a = np.concatenate([edges[:, 0], edges[:, 1]])  # both directions
    b = np.concatenate([edges[:, 1], edges[:, 0]])
    degree = np.bincount(a, minlength=n)
    rank = np.empty(n, np.int64)  # priority: most neighbours first, then a scrambled number
    mixed = np.arange(n, dtype=np.uint64) * np.uint64(_SPREAD)
    rank[np.lexsort((mixed, degree))] = np.arange(n)
    colours = np.full(n, -1, np.int64)
    while (colours < 0).any():
        waits = np.zeros(n, bool)
        waits[a[(rank[a] < rank[b]) & (colours[b] < 0)]] = True
        now = (colours < 0) & ~waits  # no two of these touch
        of_now = now[a]
        taken = colours[b[of_now]]
        colours[now] = _first_free(a[of_now], taken, wanted, n)[now]
        left = colours[a] < 0
        a, b = a[left], b[left]
    return colours


def _first_free(nodes, taken, wanted, n):
    """The first colour of each of n nodes that is not among those taken by its neighbours."""
    there = taken >= 0
    nodes, taken = nodes[there], taken[there]
    usual = taken < USUAL_COLOURS
    place = np.where(usual, (taken - wanted[nodes]) % USUAL_COLOURS, taken)  # in order of choice
    most = max(n, USUAL_COLOURS) + 1
    nodes, place = np.divmod(np.unique(nodes * most + place), most)  # by node, then by place
    begins = np.searchsorted(nodes, nodes)
    in_a_row = place == np.arange(len(nodes)) - begins  # from 0 on, without a gap
    first = np.bincount(nodes[in_a_row], minlength=n)
    return np.where(first < USUAL_COLOURS, (first + wanted) % USUAL_COLOURS, first)


def palette(count):
    """``count`` distinct colours: (count, 3) uint8.

    The first USUAL_COLOURS are far apart; those beyond are different, but less so.
    """
    index = np.arange(4 * max(count, USUAL_COLOURS))
    usual = index < USUAL_COLOURS
    # hues advance by five twelfths of the circle, which visits each once, and not in order
    hue = np.where(usual, index * 5 % _HUES / _HUES, index * _GOLDEN % 1)
    lightness = np.where(usual, np.take(_LIGHTNESS, index % 3),
                         0.45 + 0.45 * (index * 2**0.5 % 1))
    chroma = np.where(usual, np.take(_CHROMA, index % 3), 0.04 + 0.06 * (index * 3**0.5 % 1))
    angle = 2 * np.pi * hue
    colours = from_oklab(np.stack([lightness, chroma * np.cos(angle), chroma * np.sin(angle)], 1))
    _, first = np.unique(colours @ (1 << 16, 1 << 8, 1), return_index=True)
    return colours[np.sort(first)[:count]]


def from_oklab(lab):
    """Convert OKLab (…, 3) to sRGB, uint8."""
    to_cones = np.array([[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728],
                         [1, -0.0894841775, -1.2914855480]])
    to_rgb = np.array([[4.0767416621, -3.3077115913, 0.2309699292],
                       [-1.2684380046, 2.6097574011, -0.3413193965],
                       [-0.0041960863, -0.7034186147, 1.7076147010]])
    linear = np.clip((lab @ to_cones.T) ** 3 @ to_rgb.T, 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear,
                       1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055)
    return np.rint(255 * encoded).astype(np.uint8)


def scaled(values, scale):
    """Map numbers in [0, 1] to the colours of a scale: (…, 3) uint8."""
    return steps_of(scale)[to_bytes(values)]


def steps_of(scale):
    """The 256 colours of a scale: (256, 3) uint8."""
    anchors = np.array([[int(c[i:i + 2], 16) for i in (1, 3, 5)] for c in scale])
    steps, places = np.linspace(0, 1, 256), np.linspace(0, 1, len(anchors))
    table = np.stack([np.interp(steps, places, anchors[:, c]) for c in range(3)], axis=1)
    return np.rint(table).astype(np.uint8)


def to_bytes(values):
    """Quantize numbers in [0, 1] to uint8, 0 to 255."""
    return np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)
