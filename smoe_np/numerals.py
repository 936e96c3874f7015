"""Numbers as text, and the ticks and limits of axes."""

import math

import numpy as np


def decibels(value):
    """A PSNR as text: ``31.25 dB``."""
    return f"{value:.2f} dB" if math.isfinite(value) else "∞ dB"


def counted(count, noun):
    """A count with its noun: ``1 kernel``, ``1,024 kernels``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def size_in_words(shape):
    """The size of a picture as text: ``512×768``."""
    return "×".join(map(str, shape))


def labels(ticks):
    """The ticks of an axis as text, if evenly spaced all with the digits that their step needs."""
    steps = np.diff(ticks)
    even = len(steps) > 0 and np.ptp(steps) < 1e-6 * steps[0]
    return [number(tick, steps[0] if even else None) for tick in ticks]


def number(value, step=None):
    """A number as text, such as ``0.002``, ``1,500``, ``2·10⁻⁶``.

    It has the digits that distinguish it from its neighbours ``step`` away; without a step, three
    at most.
    """
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    # decimal place of the last digit
    last = size - 2 if step is None else math.floor(math.log10(step) + 1e-9)
    if -3 <= size < 7:
        text = f"{value:,.{max(0, -last)}f}"
        return text if step is not None or "." not in text else text.rstrip("0").rstrip(".")
    digits = f"{value / 10.0**size:.{max(0, size - last)}f}"
    digits = digits.rstrip("0").rstrip(".") if step is None else digits
    raised = "10" + str(size).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return raised if digits == "1" else f"{digits}·{raised}"


def round_numbers(low, high, most):
    """Evenly spaced round numbers from low to high, about ``most`` at most: list."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    return [step * i for i in range(math.ceil(low / step - 1e-9),
                                    math.floor(high / step + 1e-9) + 1)]


def round_factors(low, high, most):
    """Round numbers from low to high for a logarithmic scale, about ``most`` at most: list."""
    decades = math.log10(high / low)
    if decades < 0.5:
        return round_numbers(low, high, most)
    parts = next((parts for parts in ((1, 2, 3, 4, 5, 7), (1, 2, 5), (1, 3))
                  if len(parts) * decades <= most), (1,))
    stride = math.ceil(decades / most)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = (part * 10.0**power for power in powers if power % stride == 0 for part in parts)
    return [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]


def limits_of(values, logarithmic=False):
    """Lower and upper limit of an axis of these values; None if none of them can be shown."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values) & ((values > 0) | (not logarithmic))]
    if not len(values):
        return None
    low, high = float(values.min()), float(values.max())
    if logarithmic:
        room = max((high / low) ** 0.06, 1.1)
        return low / room, high * room
    room = max(0.06 * (high - low), 0.01 * abs(high), 1e-6)
    return low - room, high + room
