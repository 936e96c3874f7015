"""Whole numbers in about as few bits as how often each occurs allows.

Asymmetric numeral systems (J. Duda, arXiv:1311.2540): a state x takes in a symbol that occurs f
times in 2ⁿ, of which F symbols are before it, by x → ⌊x/f⌋ 2ⁿ + F + (x mod f), and gives it back
last in, first out. States lie in [2¹⁶, 2³²); what would go beyond leaves in words of 16 bits.
Several states take turns, the "lanes", so that NumPy has something to do at a time.

How often a symbol occurs is not in the file: both sides count those that have gone by. They do so
in arithmetic of integers, so that every machine reads what another one wrote.
"""

import numpy as np

PRECISION = 14  # n of learned symbols
LEARNED = 7  # bits of a number, the first ones, how often each of which occurs is learned
FIRST = 16  # numbers after which tables are made anew; then after as many as there were so far
UNSEEN = 2  # what a class has that was not seen yet, where one that was seen has 16
KERNELS_OF_LANE, MOST_LANES = 128, 4096  # a lane costs two bytes
WORD = 16  # bits
_FULL = 1 << WORD  # a state has at least this


class Damaged(ValueError):
    """What is read was not written by a ``Writer`` of the same columns."""


class Column:
    """Numbers of a column, and classes of neighbouring ones, which are learned.

    Parameters
    ----------
    values : (K,) int64 array
        From 0 to below the sum of 2^width; a ``Reader`` fills it.
    widths : (classes,) int array
        Bits that tell numbers of a class apart, not learned; at most 58.
    """

    def __init__(self, values, widths):
        self.values, self.widths = values, np.asarray(widths, np.int64)
        self.first = np.concatenate([[0], np.cumsum(1 << self.widths)[:-1]])
        self.counts = np.zeros(len(self.widths), np.int64)

    def frequencies(self):
        """How often each class is expected among 2ⁿ: (classes,) int64, 1 or more."""
        near = np.pad(self.counts, 2, mode="edge")
        weights = near[:-4] + 4 * near[1:-3] + 6 * near[2:-2] + 4 * near[3:-1] + near[4:] + UNSEEN
        frequencies = 1 + weights * ((1 << PRECISION) - len(weights)) // weights.sum()
        frequencies[weights.argmax()] += (1 << PRECISION) - frequencies.sum()
        return frequencies

    def go(self, coder, begin, end):
        """Have a coder write some of the numbers, or read them."""
        values = self.values[begin:end]
        classes = np.searchsorted(self.first, values, side="right") - 1
        rest = values - self.first[classes]
        classes = coder.symbols(classes, self.frequencies())
        widths = self.widths[classes]
        values[...] = self.first[classes]
        for shift in range(0, int(self.widths.max()), WORD):
            part = coder.bits(rest >> shift & _FULL - 1, np.clip(widths - shift, 0, WORD))
            values += part << shift
        self.counts += np.bincount(classes, minlength=len(self.counts))


def even(bits):
    """Widths of classes for numbers of so many bits, all of which may occur alike."""
    return np.full(1 << min(bits, LEARNED), max(bits - LEARNED, 0))


def falling(bits):
    """Widths of classes for numbers of so many bits, small ones of which are frequent.

    Four classes to an octave.
    """
    return np.repeat(np.arange(bits - 2), [8, *[4] * (bits - 3)])


def go_through(coder, columns):
    """Have a coder write columns of equally many numbers, or read them."""
    K, begin, end = len(columns[0].values), 0, FIRST
    while begin < K:
        for column in columns:
            column.go(coder, begin, min(end, K))
        begin, end = end, 2 * end


class Writer:
    """What takes in symbols of K numbers to a column.

    Symbols come back in the order in which they were given, so they are taken in at the end.
    """

    def __init__(self, K):
        self.lanes, self.taken = _lanes_of(K), []

    def symbols(self, classes, frequencies):
        """Take in classes, and give them back."""
        before = np.cumsum(frequencies) - frequencies
        self.taken.append((before[classes], frequencies[classes],
                           np.full(len(classes), PRECISION)))
        return classes

    def bits(self, values, widths):
        """Take in numbers of so many bits each, 16 at most, and give them back."""
        values = values & (1 << widths) - 1
        self.taken.append((values, np.ones(len(values), np.int64), widths))
        return values

    def data(self):
        """All that was taken in."""
        state, words = np.full(self.lanes, _FULL, np.int64), []
        for before, frequencies, widths in reversed(self.taken):
            for begin in reversed(range(0, len(before), self.lanes)):
                part = slice(begin, begin + self.lanes)
                frequency, width = frequencies[part], widths[part]
                x = state[:len(frequency)]
                beyond = x >= frequency << 2 * WORD - width
                words.append(x[beyond] & _FULL - 1)
                x = np.where(beyond, x >> WORD, x)
                state[:len(x)] = (x // frequency << width) + before[part] + x % frequency
        words = np.concatenate([*reversed(words), []])
        return state.astype("<u4").tobytes() + words.astype("<u2").tobytes()


class Reader:
    """What gives back the symbols of K numbers to a column, from the bytes of a ``Writer``.

    Raises
    ------
    Damaged
        Where these bytes cannot be a ``Writer``'s.
    """

    def __init__(self, K, data):
        self.lanes = _lanes_of(K)
        if len(data) < 4 * self.lanes or len(data) % 2:
            raise Damaged
        self.state = np.frombuffer(data, "<u4", self.lanes).astype(np.int64)
        self.words = np.frombuffer(data, "<u2", offset=4 * self.lanes).astype(np.int64)
        self.at = 0

    def symbols(self, classes, frequencies):
        """As many classes as are given."""
        found, before = np.empty_like(classes), np.cumsum(frequencies) - frequencies
        class_of = np.repeat(np.arange(len(frequencies)), frequencies)
        for begin in range(0, len(found), self.lanes):
            part = slice(begin, begin + self.lanes)
            x = self.state[:len(found[part])]
            slot = x & (1 << PRECISION) - 1
            found[part] = which = class_of[slot]
            self._go_on(frequencies[which] * (x >> PRECISION) + slot - before[which])
        return found

    def bits(self, values, widths):
        """As many numbers as are given, of so many bits each."""
        found = np.empty_like(values)
        for begin in range(0, len(found), self.lanes):
            part = slice(begin, begin + self.lanes)
            x = self.state[:len(found[part])]
            found[part] = x & (1 << widths[part]) - 1
            self._go_on(x >> widths[part])
        return found

    def _go_on(self, x):
        short = x < _FULL
        words = self.words[self.at:self.at + int(short.sum())]
        if len(words) < short.sum():
            raise Damaged
        x[short] = (x[short] << WORD) + words
        self.state[:len(x)] = x
        self.at += len(words)

    def check_end(self):
        """Raise ``Damaged`` unless all was given back."""
        if self.at < len(self.words) or (self.state != _FULL).any():
            raise Damaged


def _lanes_of(K):
    return max(1, min(K // KERNELS_OF_LANE, MOST_LANES))
