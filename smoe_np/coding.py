"""Adaptive entropy coding of integers.

Asymmetric numeral systems (J. Duda, arXiv:1311.2540): a state x takes in a symbol of frequency f
out of 2ⁿ, with F the sum of the frequencies of the symbols before it, by x → ⌊x/f⌋ 2ⁿ + F + (x mod
f). Symbols come out last in, first out. States lie in [2¹⁶, 2³²); what would exceed that is written
in words of 16 bits. Several states, the "lanes", take turns, so that NumPy processes whole arrays.

Frequencies are not in the file: writer and reader both count the symbols so far. They do so in
integer arithmetic, so that every machine can read what another one wrote.
"""

import numpy as np

PRECISION = 14  # n: frequencies of classes add up to 2ⁿ
LEARNED = 7  # leading bits of a number that make its class, whose frequency is learned
# numbers after which frequencies are first updated; then whenever their count has doubled
FIRST = 16
UNSEEN = 2  # weight of a class not yet seen, where one occurrence weighs 16 in all
KERNELS_OF_LANE, MOST_LANES = 128, 4096  # a lane costs about two bytes
FEW_LANES = 16  # most lanes that are encoded one by one
WORD = 16  # bits
_FULL = 1 << WORD  # least value of a state


class Damaged(ValueError):
    """The data was not written by a ``Writer`` of the same columns."""


class Column:
    """A column of integers, divided into classes of neighbouring values with learned frequencies.

    Parameters
    ----------
    values : (K,) int64 array
        0 or more, below the sum of 2^width over the classes; a ``Reader`` fills it.
    widths : (classes,) int array
        Bits that distinguish the values within a class, stored as they are; at most 58.
    """

    def __init__(self, values, widths):
        self.values, self.widths = values, np.asarray(widths, np.int64)
        self.first = np.concatenate([[0], np.cumsum(1 << self.widths)[:-1]])
        self.counts = np.zeros(len(self.widths), np.int64)

    def frequencies(self):
        """The expected frequency of each class out of 2ⁿ: (classes,) int64, 1 or more."""
        near = np.pad(self.counts, 2, mode="edge")
        weights = near[:-4] + 4 * near[1:-3] + 6 * near[2:-2] + 4 * near[3:-1] + near[4:] + UNSEEN
        frequencies = 1 + weights * ((1 << PRECISION) - len(weights)) // weights.sum()
        frequencies[weights.argmax()] += (1 << PRECISION) - frequencies.sum()
        return frequencies

    def go(self, coder, begin, end):
        """Have a ``Writer`` write the numbers begin:end, or a ``Reader`` read them."""
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
    """Class widths for numbers of ``bits`` bits, if all values are about equally likely."""
    return np.full(1 << min(bits, LEARNED), max(bits - LEARNED, 0))


def falling(bits):
    """Class widths for numbers of ``bits`` bits, if small values are frequent.

    There are four classes per octave.
    """
    return np.repeat(np.arange(bits - 2), [8, *[4] * (bits - 3)])


def go_through(coder, columns):
    """Have a ``Writer`` write columns of equal length, or a ``Reader`` read them."""
    K, begin, end = len(columns[0].values), 0, FIRST
    while begin < K:
        for column in columns:
            column.go(coder, begin, min(end, K))
        begin, end = end, 2 * end


class Writer:
    """Encodes the symbols of columns of K numbers.

    The coder returns symbols in reverse order, so they are collected, and encoded at the end.
    """

    def __init__(self, K):
        self.lanes, self.taken = _lanes_of(K), []

    def symbols(self, classes, frequencies):
        """Collect classes of the given frequencies, and return them."""
        before = np.cumsum(frequencies) - frequencies
        self.taken.append((before[classes], frequencies[classes],
                           np.full(len(classes), PRECISION)))
        return classes

    def bits(self, values, widths):
        """Collect numbers of ``widths`` bits each, 16 at most, and return them."""
        values = values & (1 << widths) - 1
        self.taken.append((values, np.ones(len(values), np.int64), widths))
        return values

    def data(self):
        """The encoded bytes of all that was collected."""
        encode = self._one_by_one if self.lanes <= FEW_LANES else self._by_lanes
        state, words = encode()
        return np.array(state, "<u4").tobytes() + np.array(words, "<u2").tobytes()

    def _by_lanes(self):
        """The last states, and the words in the order in which they are read."""
        state, words = np.full(self.lanes, _FULL, np.int64), []
        for before, frequencies, widths in reversed(self.taken):
            for begin in reversed(range(0, len(before), self.lanes)):
                part = slice(begin, begin + self.lanes)
                frequency, width = frequencies[part], widths[part]
                x = state[:len(frequency)]
                beyond = x >= _limit(frequency, width)
                words.append(x[beyond] & _FULL - 1)
                x = np.where(beyond, x >> WORD, x)
                state[:len(x)] = _taken_in(x, before[part], frequency, width)
        return state, np.concatenate([*reversed(words), []])

    def _one_by_one(self):
        """As ``_by_lanes``, in numbers of Python: faster than arrays of few numbers."""
        state, words = [_FULL] * self.lanes, []
        for columns in reversed(self.taken):
            before, frequencies, widths = (column.tolist() for column in columns)
            for i in reversed(range(len(before))):
                lane, frequency, width = i % self.lanes, frequencies[i], widths[i]
                x = state[lane]
                if x >= _limit(frequency, width):
                    words.append(x & _FULL - 1)
                    x >>= WORD
                state[lane] = _taken_in(x, before[i], frequency, width)
        return state, words[::-1]


def _limit(frequency, width):
    """The state from which on a word is written before it takes in a symbol."""
    return frequency << 2 * WORD - width


def _taken_in(x, before, frequency, width):
    """A state after it has taken in a symbol."""
    return (x // frequency << width) + before + x % frequency


class Reader:
    """Decodes the symbols of columns of K numbers, from the bytes of a ``Writer``.

    Raises
    ------
    Damaged
        If the bytes cannot come from a ``Writer``.
    """

    def __init__(self, K, data):
        self.lanes = _lanes_of(K)
        if len(data) < 4 * self.lanes or len(data) % 2:
            raise Damaged
        self.state = np.frombuffer(data, "<u4", self.lanes).astype(np.int64)
        self.words = np.frombuffer(data, "<u2", offset=4 * self.lanes).astype(np.int64)
        self.at = 0

    def symbols(self, classes, frequencies):
        """Decode as many classes as ``classes`` has; its values are ignored."""
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
        """Decode as many numbers as ``values`` has, of ``widths`` bits each."""
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
        """Raise ``Damaged`` unless all data was consumed."""
        if self.at < len(self.words) or (self.state != _FULL).any():
            raise Damaged


def _lanes_of(K):
    return max(1, min(K // KERNELS_OF_LANE, MOST_LANES))
