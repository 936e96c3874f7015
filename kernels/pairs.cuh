// The pairs (tile, kernel) of a tile: the polynomials of their gates and experts, and the pixels
// where they matter.
#pragma once
#include "control.cuh"
#include "gate.cuh"

// CHUNK: pairs whose gates are held at a time. A tile with more of them computes their gates twice,
// in the forward and in the backward pass.
#ifndef SCALAR_PACKS
#define CHUNK 256
#define STRIDE PIXELS
#define PARTS 1  // number of threads that share the pixels of a pair
#define FOR_PARTS(j, part, n) FOR_EACH_PLAIN(j, n) for (int part = 0; part < 1; part++)
#else
#define CHUNK (128 / REAL_BYTES)
// padded: the gates of different pairs at a pixel lie in different banks
#define STRIDE (PIXELS + 1)
#define PARTS (PIXELS / CHUNK)
#define FOR_PARTS(j, part, n) \
    FOR_THREADS(t_) \
        for (int j = t_ % CHUNK, part = t_ / CHUNK, once2_ = 1; once2_ && j < (n); once2_ = 0)
#endif

// Lists leave out gates below e^−tau. Of the listed pairs, pixels are skipped where the gate is
// below e^−(tau + BEYOND_LISTS), which adds little to the error of the lists.
#define BEYOND_LISTS 1.0

// Numbers per pair in `terms`: those of its polynomials, and in long tiles AHEAD_OF_CENTRE.
#define TERMS (WIDTH + (LONG > 1))
#define AHEAD_OF_CENTRE WIDTH

// A tile; its pairs, entries first to first + pairs − 1 of the list; and the polynomial of its
// winner's log2-gate round the tile's centre.
//
// `level` is the value of the winner's expert at the tile's centre. It is subtracted from all
// experts of the tile, which differ little from it, for accuracy in float. It is 0 where there are
// negative gates, as their sum may be close to 0.
struct Tile {
    int first, pairs, corner[NDIM];
    bool is_signed;
    // log2-gate relative to the winner's, below which a pair does not matter at a pixel
    REAL least;
    double centre[NDIM], winner[MOMENTS], level[NCHAN];
};

FUNCTION Tile tile_of(const int *control, const double *settings, const int *grid,
                      const double *records, const int *start, const int *winners, int number) {
    Tile tile;
    double offset[NDIM];
    tile.first = start[number];
    tile.pairs = start[number + 1] - tile.first;
    tile.is_signed = control[SIGNED] != 0;
    tile.least = tile.is_signed ? (REAL)-1e30 : (REAL)(-LOG2E * (settings[TAU] + BEYOND_LISTS));
    tile_corner(grid, number, tile.corner);
    tile_centre(grid, number, tile.centre);
    const double *winner = records + (long long)winners[number] * RECORD;
    log_gate_of(winner, tile.centre, tile.winner, offset);
    UNROLL for (int c = 0; c < NCHAN; c++) {
        const double *expert = winner + OF_EXPERT + c * (NDIM + 1);
        tile.level[c] = 0;
        if (tile.is_signed) continue;
        tile.level[c] = expert[0];
        UNROLL for (int d = 0; d < NDIM; d++) tile.level[c] += expert[1 + d] * offset[d];
    }
    return tile;
}

// Polynomials are prepared in double; on a CPU WIDE pairs at a time, whose records are first
// gathered into a structure of arrays (Staged).
#ifdef SCALAR_PACKS
typedef double Wide;
FUNCTION Wide whole_of(Wide number) { return (int)number; }
template <class Array>
FUNCTION void put(Array &array, int at, Wide number) {
    array[at] = (REAL)number;
}
#else
#define WIDE (PACK_BYTES / 8)
typedef double Wide __attribute__((vector_size(PACK_BYTES)));
FUNCTION Wide whole_of(Wide numbers) {
    typedef int Ints __attribute__((vector_size(WIDE * sizeof(int))));
    return __builtin_convertvector(__builtin_convertvector(numbers, Ints), Wide);
}
FUNCTION void put(REAL *array, int at, Wide numbers) {
    typedef REAL Reals __attribute__((vector_size(WIDE * REAL_BYTES)));
    const Reals rounded = __builtin_convertvector(numbers, Reals);
    memcpy(array + at, &rounded, sizeof rounded);
}
struct Staged {
    const double *numbers;
    Wide operator[](int r) const {
        Wide found;
        memcpy(&found, numbers + r * WIDE, sizeof found);
        return found;
    }
};
#endif

// Prepare pair j (on a CPU, WIDE pairs from j on). `terms` gets θ of its log2-gate relative to the
// winner's, round the tile's centre, but `ahead` pixels from it along axis 0; then its expert round
// the tile's centre, relative to the level. `offsets` gets tile centre − kernel centre.
//
// In a long tile, `ahead` leads to the kernel, or to the end of the tile that is nearest to it:
// round the tile's centre, the log-gates of narrow kernels would lose too many digits.
template <class Record, class Terms, class Offsets>
FUNCTION void prepare_pair(Record record, const Tile &tile, int j, Terms &terms, Offsets &offsets) {
    Wide theta[MOMENTS], offset[NDIM], origin[NDIM], ahead = Wide{};
    if (LONG > 1) {
        const double end = LENGTH / 2;
        ahead = record[OF_CENTRE] - tile.centre[0];
        ahead = ahead > -end ? ahead : Wide{} - end;
        ahead = whole_of(ahead < end ? ahead : Wide{} + end);
        put(terms, AHEAD_OF_CENTRE * CHUNK + j, ahead);
    }
    UNROLL for (int d = 0; d < NDIM; d++) origin[d] = tile.centre[d] + Wide{};
    log_gate_of(record, origin, theta, offset);
    // exactly 0 for the winner
    UNROLL for (int m = 0; m < MOMENTS; m++) theta[m] -= tile.winner[m];
    if (LONG > 1) {
        theta[0] += ahead * (theta[1] + ahead * theta[PRODUCT(0, 0)]);
        UNROLL for (int d = 0; d < NDIM; d++)
            theta[1 + d] += ahead * ((d == 0 ? 2 : 1) * theta[PRODUCT(0, d)]);
    }
    UNROLL for (int m = 0; m < MOMENTS; m++) put(terms, m * CHUNK + j, theta[m]);
    UNROLL for (int c = 0; c < NCHAN; c++) {
        const int expert = OF_EXPERT + c * (NDIM + 1), to = MOMENTS + c * (NDIM + 1);
        Wide value = record[expert] - tile.level[c];
        UNROLL for (int d = 0; d < NDIM; d++) {
            value += record[expert + 1 + d] * offset[d];
            put(terms, (to + 1 + d) * CHUNK + j, record[expert + 1 + d]);
        }
        put(terms, to * CHUNK + j, value);
    }
    UNROLL for (int d = 0; d < NDIM; d++) put(offsets, d * CHUNK + j, offset[d]);
}

// The polynomials of `count` pairs of a tile, from pair `first` of the list on.
template <class Terms, class Offsets>
FUNCTION void prepare_pairs(const double *records, const int *list, int first, int count,
                            const Tile &tile, Terms &terms, Offsets &offsets) {
#ifdef SCALAR_PACKS
    FOR_EACH(j, count)
        prepare_pair(records + (long long)list[first + j] * RECORD, tile, j, terms, offsets);
#else
    alignas(64) double staged[OF_STEERING * WIDE];  // structure of arrays: number by number
    for (int j = 0; j < count; j += WIDE) {
        for (int k = 0; k < WIDE; k++) {  // pad by repeating the last pair
            const int pair = first + least_int(j + k, count - 1);
            const double *record = records + (long long)list[pair] * RECORD;
            UNROLL for (int r = 0; r < OF_STEERING; r++) staged[r * WIDE + k] = record[r];
        }
        prepare_pair(Staged{staged}, tile, j, terms, offsets);
    }
#endif
    BARRIER;
}

// The origin of pair j's log2-gate polynomial along axis 0, in pixels from the tile's centre.
template <class Terms>
FUNCTION REAL ahead_of_centre(Terms &terms, int j) {
    return LONG > 1 ? (REAL)terms[AHEAD_OF_CENTRE * CHUNK + j] : (REAL)0;
}

// The log2-gate of pair j relative to the winner's, at the pixels u of a pack.
template <class Terms>
FUNCTION Pack log_gate_at(Terms &terms, int j, const Pack *u) {
    Pack gate = Pack{} + (REAL)terms[j], from[NDIM];
    UNROLL for (int d = 0; d < NDIM; d++)
        from[d] = d == 0 && LONG > 1 ? u[0] - ahead_of_centre(terms, j) : u[d];
    UNROLL for (int i = 0; i < NDIM; i++) {
        Pack slope = Pack{} + (REAL)terms[(1 + i) * CHUNK + j];
        UNROLL for (int k = i; k < NDIM; k++)
            slope += from[k] * (REAL)terms[PRODUCT(i, k) * CHUNK + j];
        gate += from[i] * slope;
    }
    return gate;
}

// Channel c of the expert of pair j relative to the level, at the pixels u of a pack.
template <class Terms>
FUNCTION Pack expert_at(Terms &terms, int j, int c, const Pack *u) {
    const int first = MOMENTS + c * (NDIM + 1);
    Pack value = Pack{} + (REAL)terms[first * CHUNK + j];
    UNROLL for (int d = 0; d < NDIM; d++) value += u[d] * (REAL)terms[(first + 1 + d) * CHUNK + j];
    return value;
}

template <class Terms>
FUNCTION REAL expert_slope(Terms &terms, int j, int c) {  // per pixel along axis 0
    return terms[(MOMENTS + c * (NDIM + 1) + 1) * CHUNK + j];
}

// ---- where in its tile a pair matters

// Distance from the centre of a tile to its last pixel along axis d, in pixels.
FUNCTION constexpr REAL half_side(int d) { return (REAL)(side_of(d) - 1) / 2; }

// An upper bound of a polynomial θ over the pixels of a tile whose coordinate along axis 0 is
// within `half` of `place`.
template <class Vector>
FUNCTION Vector highest(const Vector *theta, Vector place, REAL half) {
    Vector along = theta[1] + place * theta[PRODUCT(0, 0)], curved = Vector{};
    Vector bound = theta[0] + place * along;
    UNROLL for (int i = 0; i < NDIM; i++) {
        const Vector slope = (i == 0 ? along : theta[1 + i]) + place * theta[PRODUCT(0, i)];
        bound += (i == 0 ? half : half_side(i)) * most(slope, -slope);
        UNROLL for (int k = i; k < NDIM; k++) {
            const Vector curvature = theta[PRODUCT(i, k)];
            curved += (i == 0 ? half : half_side(i)) * (k == 0 ? half : half_side(k)) *
                      most(curvature, i == k ? Vector{} : -curvature);
        }
    }
    return bound + curved;
}

// Where pairs are evaluated. On a GPU: at all pixels. On a CPU: a tile is divided along axis 0 into
// ALL_BANDS bands of pixels, and a pair is evaluated from the first to the last band in which it
// may matter, or not at all; its gates are not written elsewhere, and its sums leave the other
// pixels out.
//
// FOR_PAIRS loops over the pairs that matter, with `part` the thread's share of their pixels;
// FOR_PACKS loops over the first pixels i of the packs at which pair j is evaluated.
#ifdef SCALAR_PACKS

struct Bands {
    int pairs;
};
#define FOR_PAIRS(j, part, bands) FOR_PARTS(j, part, (bands).pairs)
#define RUN 8  // pixels at a time, of whose coordinates the compiler knows the last digits
#define FOR_PACKS(i, bands, j, part) \
    for (int i_ = (part) * (PIXELS / PARTS), left_ = PIXELS / PARTS; left_ > 0; \
         i_ += RUN, left_ -= RUN) \
        UNROLL for (int k_ = 0, i = i_; k_ < RUN; k_++, i++)

FUNCTION int pixels_of(const Bands &bands) { return bands.pairs * PIXELS; }

template <class Terms>
FUNCTION void find_bands(Terms &, int count, REAL, Bands &bands) {
    bands.pairs = count;
}

// Whether some pair in thread t's share of a chunk may have a log2-gate more than `limit` above the
// winner's somewhere in the tile.
template <class Terms>
FUNCTION bool some_are_above(REAL limit, Terms &terms, int t, int count, const Bands &) {
    bool found = false;
    STRIDED(j, t, count) {
        REAL theta[MOMENTS];
        UNROLL for (int m = 0; m < MOMENTS; m++) theta[m] = terms[m * CHUNK + j];
        found = found || highest(theta, (REAL)0, half_side(0)) > limit;
    }
    return found;
}

#else

#define ALL_BANDS (PACKS / COLUMNS < 4 ? PACKS / COLUMNS : 4)
#define BAND (PIXELS / ALL_BANDS)  // pixels of a band
// curvature of a log2-gate along axis 0 beyond which updates by differences lose accuracy
#define SHARP 1.0

struct Bands {
    REAL summit;                    // upper bound of the log2-gates relative to the winner's
    int sharp, end;                 // ends in `order`: of the sharp pairs, and of all
    int order[CHUNK + 1];           // the pairs that matter, grouped by number of bands, so that
                                    // loops over bands are of predictable length; sharp ones first
    int first[CHUNK], last[CHUNK];  // of each pair, its first pixel, and the one after its last
    alignas(64) int key[CHUNK];     // number of bands of each pair, plus ALL_BANDS if it is sharp
};
#define FOR_PAIRS(j, part, bands) \
    for (int n_ = 0, part = 0; n_ < (bands).end; n_++) \
        for (int j = (bands).order[n_], once_ = 1; once_; once_ = 0)
#define FOR_PACKS(i, bands, j, part) \
    for (int i_ = (bands).first[j]; i_ < (bands).last[j]; i_ += BAND) \
        UNROLL for (int k_ = 0, i = i_; k_ < BAND; k_ += LANES, i += LANES)
#define FOR_PACKS_OF_COLUMN(i, bands, j, column) \
    for (int i_ = (bands).first[j]; i_ < (bands).last[j]; i_ += BAND) \
        UNROLL for (int k_ = 0, i = i_ + (column) * LANES; k_ < BAND; \
                    k_ += COLUMNS * LANES, i += COLUMNS * LANES)

FUNCTION int pixels_of(const Bands &bands) {
    int pixels = 0;
    for (int n = 0; n < bands.end; n++)
        pixels += bands.last[bands.order[n]] - bands.first[bands.order[n]];
    return pixels;
}

struct Numbers {  // 0, 1, 2, …
    alignas(64) REAL of[LANES];
    constexpr Numbers() : of() {
        for (int k = 0; k < LANES; k++) of[k] = (REAL)k;
    }
};
static constexpr Numbers NUMBERS;

FUNCTION REAL most_of(Pack numbers) {
    REAL found = numbers[0];
    UNROLL for (int k = 1; k < LANES; k++) found = found < numbers[k] ? numbers[k] : found;
    return found;
}

FUNCTION void store_whole(int *to, Pack numbers) {
    typedef int Ints __attribute__((vector_size(LANES * sizeof(int))));
    const Ints whole = __builtin_convertvector(numbers, Ints);
    memcpy(to, &whole, sizeof whole);
}

// The indices of those of the first `count` keys that equal `key`, from `to` on; returns their end.
FUNCTION int *find_all(const int *keys, int key, int count, int *to) {
#ifdef __AVX512F__
    const __m512i wanted = _mm512_set1_epi32(key), step = _mm512_set1_epi32(16);
    __m512i number = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (int j = 0; j < count; j += 16) {
        __mmask16 found = _mm512_cmpeq_epi32_mask(_mm512_load_si512(keys + j), wanted);
        if (count - j < 16) found &= (__mmask16)((1u << (count - j)) - 1);
        const int n = __builtin_popcount(found);
        _mm512_mask_storeu_epi32(to, (__mmask16)((1u << n) - 1),
                                 _mm512_maskz_compress_epi32(found, number));
        number = _mm512_add_epi32(number, step);
        to += n;
    }
#else
    for (int j = 0; j < count; j++) {
        *to = j;  // branch-free: the outcome is hard to predict
        to += keys[j] == key;
    }
#endif
    return to;
}

template <class Terms>
FUNCTION void find_bands(Terms &terms, int count, REAL least, Bands &bands) {
    Pack all_sharp = Pack{}, summit = Pack{};
    for (int j = 0; j < count; j += LANES) {
        Pack theta[MOMENTS], after = Pack{}, last = Pack{};
        UNROLL for (int m = 0; m < MOMENTS; m++) theta[m] = LOAD(terms, m * CHUNK + j);
        // positive where there is a pair
        const Pack left = (REAL)(count - j) - load_pack(NUMBERS.of);
        const Pack ahead = LONG > 1 ? LOAD(terms, AHEAD_OF_CENTRE * CHUNK + j) : Pack{};
        UNROLL for (int b = 0; b < ALL_BANDS; b++) {
            const REAL place = ((REAL)b - (REAL)(ALL_BANDS - 1) / 2) * LENGTH / ALL_BANDS;
            const Pack bound = highest(theta, place - ahead, ((REAL)LENGTH / ALL_BANDS - 1) / 2);
            const Pack matters = bound < least ? Pack{} : Pack{} + 1;  // NaN matters
            after = most(after, matters * (REAL)(ALL_BANDS - b));
            last = most(last, matters * (REAL)(b + 1));
            summit = most(summit, left > 0 ? bound : Pack{});
        }
        const Pack many = after + last - (REAL)ALL_BANDS;
        const Pack sharp = theta[PRODUCT(0, 0)] < -(REAL)SHARP ? Pack{} + 1 : Pack{};
        all_sharp += left > 0 ? sharp : Pack{};
        store_whole(bands.first + j, ((REAL)ALL_BANDS - after) * (REAL)BAND);
        store_whole(bands.last + j, last * (REAL)BAND);
        store_whole(bands.key + j, many > 0 ? many + sharp * (REAL)ALL_BANDS : many);
    }
    bands.summit = most_of(summit);
    int *end = bands.order;
    for (int many = ALL_BANDS; many > 0 && sum(all_sharp) > 0; many--)
        end = find_all(bands.key, ALL_BANDS + many, count, end);
    bands.sharp = (int)(end - bands.order);
    for (int many = ALL_BANDS; many > 0; many--) end = find_all(bands.key, many, count, end);
    bands.end = (int)(end - bands.order);
}

template <class Terms>
FUNCTION bool some_are_above(REAL limit, Terms &, int, int, const Bands &bands) {
    return bands.summit > limit;
}
#endif

// Prepare chunk c of the pairs of a tile: their polynomials, and where they matter. Returns the
// number of pairs in it.
template <class Terms, class Offsets>
FUNCTION int prepare_chunk(const double *records, const int *list, const Tile &tile, int c,
                           Terms &terms, Offsets &offsets, Bands &bands) {
    const int chunk = CHUNK, count = least_int(chunk, tile.pairs - c * chunk);
    prepare_pairs(records, list, tile.first + c * chunk, count, tile, terms, offsets);
    find_bands(terms, count, tile.least, bands);
    return count;
}
