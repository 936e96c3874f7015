// What all kernels over pixels share: the gates of a tile's pairs, the regression, and sums over
// pixels.
#pragma once
#include "pairs.cuh"

// Working arrays of a block: for a chunk of pairs their polynomials, their offsets from the
// kernels' centres, and their gates; for each pixel the results of `forward`.
#define ARRAYS_OF_A_TILE                  \
    SHARED(REAL, terms, TERMS * CHUNK);   \
    SHARED(REAL, offsets, NDIM * CHUNK);  \
    SHARED(REAL, gates, CHUNK * STRIDE);  \
    SHARED(int, steep, 1);                \
    Bands bands;                          \
    PER_PIXEL(top);                       \
    PER_PIXEL(S);                         \
    PER_PIXEL_OF(y, NCHAN)

// Sums of a pair over the pixels of a tile. On a GPU, PARTS threads each sum over a part of the
// pixels.
#ifdef SCALAR_PACKS
#define SUMS (WIDTH * PARTS)
template <class Partial>
FUNCTION void store_sums(const Pack *sums, int j, int part, Partial &partial) {
    UNROLL for (int w = 0; w < WIDTH; w++) partial[(w * PARTS + part) * CHUNK + j] = sums[w];
}
template <class Partial>
FUNCTION REAL sum_of_parts(Partial &partial, int j, int w) {
    REAL sum = (REAL)partial[w * PARTS * CHUNK + j];
    UNROLL for (int p = 1; p < PARTS; p++) sum += (REAL)partial[(w * PARTS + p) * CHUNK + j];
    return sum;
}
#else
#define SUMS ROW
FUNCTION void store_sums(const Pack *sums, int j, int, REAL *partial) {
    Lanes<LANES>::sum<WIDTH>(sums, partial + j * SUMS);
}
#endif

// If a log2-gate may exceed the winner's by more than this, 2^ of it could overflow in float, and
// each pixel's own maximum is subtracted
#define STEEP 80.0
// least sum of signed gates, relative to the largest gate: a sum that is not positive counts as
// this
#define TINY 1e-19

// The rows of a patch: the index of the first among the rows of its batch, and their number.
struct Rows {
    long long first;
    int count;
};

FUNCTION Rows rows_of_patch(const int *first_row, int first_patch, int patch) {
    return {(long long)first_row[patch] - first_row[first_patch],
            first_row[patch + 1] - first_row[patch]};
}

// Whether there is room for the rows of a patch; if not, HALT is set to NO_ROOM.
FUNCTION bool has_room(int *control, const Rows &own, int room) {
    if (own.first + own.count <= room) return true;
    ONE_THREAD { control[HALT] = NO_ROOM; }
    return false;
}

// ---- phases that several kernels share; a BARRIER ends each where it must

// The unnormalised gate of a pair: 2^(log2-gate − top), times its sign. If IS_PLAIN, all signs are
// 1 and all tops 0.
template <bool IS_PLAIN>
FUNCTION Pack gate_of(Pack log_gate, Pack top, double sign) {
    return IS_PLAIN ? exp2_of(log_gate) : exp2_of(log_gate - top) * (REAL)sign;
}

// The log2-gate of pair j at a pack in a steep tile. It may be as large as a million, so that the
// difference to the top has few correct digits left. Top and gate must be computed from identical
// bits, which only a function that is compiled once guarantees.
template <class Terms>
FUNCTION_ONCE Pack steep_log_gate(Terms &terms, int j, int i) {
    Pack u[NDIM];
    UNROLL for (int d = 0; d < NDIM; d++) u[d] = coordinate(d, i);
    return log_gate_at(terms, j, u);
}

#ifndef SCALAR_PACKS
// `accumulate` for pairs `first` to `last` − 1 of `bands.order`. If IS_PLAIN and not IS_SHARP,
// log-gates are updated from pack to pack by first and second differences instead of being
// evaluated anew.
template <bool IS_SHARP, bool IS_PLAIN, class Terms, class Gates, class PerPixel, class PerChannel>
FUNCTION void walk(const double *records, const int *list, const Bands &bands, int first, int last,
                   Terms &terms, Gates &gates, PerPixel &top, PerPixel &S, PerChannel &y) {
    Pack columns[COLUMNS][NDIM];
    UNROLL for (int q = 0; q < COLUMNS; q++)
        UNROLL for (int d = 1; d < NDIM; d++) columns[q][d] = coordinate(d, q * LANES);
    for (int n = first; n < last; n++) UNROLL for (int q = 0; q < COLUMNS; q++) {
        const int j = bands.order[n];
        const double sign = IS_PLAIN ? 1 : records[(long long)list[j] * RECORD + 1];
        const REAL curvature = terms[PRODUCT(0, 0) * CHUNK + j] * ADVANCE;
        Pack u[NDIM];
        u[0] = coordinate(0, bands.first[j]);
        UNROLL for (int d = 1; d < NDIM; d++) u[d] = columns[q][d];
        Pack gate = log_gate_at(terms, j, u), expert[NCHAN];
        Pack slope = (u[0] - ahead_of_centre(terms, j)) * (2 * curvature) +
                     (ADVANCE * terms[CHUNK + j] + ADVANCE * curvature);
        UNROLL for (int k = 1; k < NDIM; k++)
            slope += u[k] * (ADVANCE * terms[PRODUCT(0, k) * CHUNK + j]);
        UNROLL for (int c = 0; c < NCHAN; c++) expert[c] = expert_at(terms, j, c, u);
        FOR_PACKS_OF_COLUMN(i, bands, j, q) {
            if (!IS_PLAIN) gate = steep_log_gate(terms, j, i);
            const Pack p = gate_of<IS_PLAIN>(gate, AT(top, i), sign);
            STORE(gates, j * STRIDE + i, p);
            AT(S, i) += p;
            UNROLL for (int c = 0; c < NCHAN; c++) {
                AT(y[c], i) += p * expert[c];
                expert[c] += ADVANCE * expert_slope(terms, j, c);
            }
            if (IS_PLAIN && IS_SHARP) {
                u[0] += (REAL)ADVANCE;
                gate = log_gate_at(terms, j, u);
            } else if (IS_PLAIN) {
                gate += slope;
                slope += 2 * ADVANCE * curvature;
            }
        }
    }
}
#endif

// Compute the unnormalised gates of a chunk of pairs, and add them to their sum S and to y, each
// channel's Σ gate · expert.
template <bool IS_PLAIN, class Terms, class Gates, class PerPixel, class PerChannel>
FUNCTION void accumulate(const double *records, const int *list, const Bands &bands, Terms &terms,
                         Gates &gates, PerPixel &top, PerPixel &S, PerChannel &y) {
#ifndef SCALAR_PACKS
    const int sharp = IS_PLAIN ? bands.sharp : bands.end;
    walk<true, IS_PLAIN>(records, list, bands, 0, sharp, terms, gates, top, S, y);
    if (IS_PLAIN)
        walk<false, true>(records, list, bands, sharp, bands.end, terms, gates, top, S, y);
#else
    FOR_PIXELS(i) {
        Pack u[NDIM], total = AT(S, i), sums[NCHAN];
        UNROLL for (int d = 0; d < NDIM; d++) u[d] = coordinate(d, i);
        UNROLL for (int c = 0; c < NCHAN; c++) sums[c] = AT(y[c], i);
        for (int j = 0; j < bands.pairs; j++) {
            const double sign = IS_PLAIN ? 1 : records[(long long)list[j] * RECORD + 1];
            const Pack gate = IS_PLAIN ? log_gate_at(terms, j, u) : steep_log_gate(terms, j, i);
            const Pack p = gate_of<IS_PLAIN>(gate, AT(top, i), sign);
            STORE(gates, j * STRIDE + i, p);
            total += p;
            UNROLL for (int c = 0; c < NCHAN; c++) sums[c] += p * expert_at(terms, j, c, u);
        }
        AT(S, i) = total;
        UNROLL for (int c = 0; c < NCHAN; c++) AT(y[c], i) = sums[c];
    }
#endif
    BARRIER;
}

// Sums over pixels: Σ g φ(u), and for each channel Σ h and Σ h u. `add` adds the pixels of a pack,
// with i the first of them; `store_moments` finishes the sums, with u taken round the kernel's
// centre.
#if !defined(SCALAR_PACKS) && LANES >= LINE
// Along axis 0, u = ADVANCE b + c, with b the place of the pack and c the place within it, both
// counted from the middle. Lanes that differ in c are added up only at the end, which leaves a Line
// of sums, one for each place along the other axes.
typedef Lanes<LINE>::Vector Line;

struct Places {  // place b of each pack, from the middle, and b²
    REAL of[PACKS], squared[PACKS];
    constexpr Places() : of(), squared() {
        for (int b = 0; b < PACKS; b++) {
            of[b] = (REAL)b - (REAL)(PACKS - 1) / 2;
            squared[b] = of[b] * of[b];
        }
    }
};
static constexpr Places PLACES;

struct Moments {
    Pack g[3], h[NCHAN][2];  // Σ g, Σ b g, Σ b² g; Σ h, Σ b h
};

FUNCTION void add(Moments &moments, int i, const Pack *, Pack g, const Pack *h) {
    const REAL place = PLACES.of[(unsigned)i / LANES], square = PLACES.squared[(unsigned)i / LANES];
    moments.g[0] += g;
    moments.g[1] += g * place;
    moments.g[2] += g * square;
    UNROLL for (int c = 0; c < NCHAN; c++) {
        moments.h[c][0] += h[c];
        moments.h[c][1] += h[c] * place;
    }
}

struct Folded {  // Σ p, Σ c p and Σ c² p over the lanes that differ in c
    Line sum, once, twice;
};

// Line C of a pack. Not through memory: the compiler would then keep all sums there.
template <int C, int... I>
FUNCTION Line line_of(Pack pack, Indices<I...>) {
#if defined(__clang__) || __GNUC__ >= 12
    return __builtin_shufflevector(pack, pack, C * LINE + I...);
#else
    return Line{pack[C * LINE + I]...};
#endif
}

template <int C>
FUNCTION void fold_from(Pack pack, Folded &folded) {
    const Line part = line_of<C>(pack, typename Count<LINE>::indices());
    const REAL place = (REAL)C - (REAL)(ADVANCE - 1) / 2;
    folded.sum += part;
    if (ADVANCE > 1) folded.once += part * place;
    if (ADVANCE > 1) folded.twice += part * (place * place);
    if constexpr (C + 1 < ADVANCE) fold_from<C + 1>(pack, folded);
}

FUNCTION Folded fold(Pack pack) {
    Folded folded = {Line{}, Line{}, Line{}};
    fold_from<0>(pack, folded);
    return folded;
}

FUNCTION void store_moments(const Moments &moments, const REAL *offset, int j, int, REAL *partial) {
    const REAL step = ADVANCE;
    const Folded f0 = fold(moments.g[0]), f1 = fold(moments.g[1]), f2 = fold(moments.g[2]);
    Line sums[WIDTH], v[NDIM];
    UNROLL for (int d = 1; d < NDIM; d++) {
        const Pack u = coordinate(d, 0);
        memcpy(&v[d], &u, sizeof v[d]);
    }
    sums[0] = f0.sum;
    sums[1] = f0.once + step * f1.sum;
    sums[PRODUCT(0, 0)] = f0.twice + 2 * step * f1.once + step * step * f2.sum;
    UNROLL for (int d = 1; d < NDIM; d++) {
        sums[1 + d] = v[d] * sums[0];
        sums[PRODUCT(0, d)] = v[d] * sums[1];
        UNROLL for (int k = d; k < NDIM; k++) sums[PRODUCT(d, k)] = v[k] * sums[1 + d];
    }
    UNROLL for (int c = 0; c < NCHAN; c++) {
        const Folded once = fold(moments.h[c][0]), of_b = fold(moments.h[c][1]);
        Line *of_channel = sums + MOMENTS + c * (NDIM + 1);
        of_channel[0] = once.sum;
        of_channel[1] = once.once + step * of_b.sum;
        UNROLL for (int d = 1; d < NDIM; d++) of_channel[1 + d] = v[d] * of_channel[0];
    }
    move_moments(sums, offset);
    Lanes<LINE>::sum<WIDTH>(sums, partial + j * SUMS);
}
#else
struct Moments {
    Pack sums[WIDTH];
};

FUNCTION void add(Moments &moments, int i, const Pack *u, Pack g, const Pack *h) {
    Pack *sums = moments.sums;
    sums[0] += g;
    UNROLL for (int d = 0; d < NDIM; d++) {
        sums[1 + d] += g * u[d];
        UNROLL for (int k = d; k < NDIM; k++) sums[PRODUCT(d, k)] += g * product(d, k, i);
    }
    UNROLL for (int c = 0; c < NCHAN; c++) {
        sums[MOMENTS + c * (NDIM + 1)] += h[c];
        UNROLL for (int d = 0; d < NDIM; d++) sums[MOMENTS + c * (NDIM + 1) + 1 + d] += h[c] * u[d];
    }
}

template <class Partial>
FUNCTION void store_moments(Moments &moments, const REAL *offset, int j, int part,
                            Partial &partial) {
    move_moments(moments.sums, offset);
    store_sums(moments.sums, j, part, partial);
}
#endif

template <class Terms, class PerPixel>
FUNCTION void raise_top(Terms &terms, int i, int j, PerPixel &top) {
    AT(top, i) = most(AT(top, i), steep_log_gate(terms, j, i));
}

// Raise `top`, the largest log2-gate at each pixel, by those of a chunk of pairs.
template <class Terms, class PerPixel>
FUNCTION void find_top(const Bands &bands, Terms &terms, PerPixel &top) {
#ifndef SCALAR_PACKS
    for (int n = 0; n < bands.end; n++) {
        const int j = bands.order[n];
        FOR_PACKS(i, bands, j, 0) raise_top(terms, i, j, top);
    }
#else
    FOR_PIXELS(i) for (int j = 0; j < bands.pairs; j++) raise_top(terms, i, j, top);
#endif
    BARRIER;
}

// Forward pass over all pairs of a tile: the sum S of the unnormalised gates; y, each channel's Σ w
// e less the level; and `top`, which is subtracted from log2-gates before exponentiation. `steep`
// tells whether any top is not 0. `terms` and `gates` are left with the last chunk.
template <class Terms, class Offsets, class Gates, class Flag, class PerPixel, class PerChannel>
FUNCTION void forward(const double *records, const int *list, const Tile &tile, Terms &terms,
                      Offsets &offsets, Gates &gates, Flag &steep, Bands &bands, PerPixel &top,
                      PerPixel &S, PerChannel &y) {
    const int chunk = CHUNK, chunks = (tile.pairs + chunk - 1) / chunk;
    ONE_THREAD { steep[0] = tile.is_signed; }  // prepare_pairs has a BARRIER before the first MARK
    for (int c = 0; c < chunks; c++) {
        const int count = prepare_chunk(records, list, tile, c, terms, offsets, bands);
        FOR_THREADS(t) {
            if (some_are_above((REAL)STEEP, terms, t, count, bands)) MARK(steep[0]);
        }
        BARRIER;
    }
    const bool is_steep = steep[0];
    FOR_PIXELS(i) {
        AT(top, i) = Pack{} + (is_steep ? (REAL)-1e30 : (REAL)0);
        AT(S, i) = Pack{};
        UNROLL for (int c = 0; c < NCHAN; c++) AT(y[c], i) = Pack{};
    }
    for (int c = 0; c < chunks && is_steep; c++) {
        if (chunks > 1) prepare_chunk(records, list, tile, c, terms, offsets, bands);
        find_top(bands, terms, top);
    }
    for (int c = 0; c < chunks; c++) {
        const int *chunk_list = list + tile.first + c * chunk;
        if (chunks > 1) prepare_chunk(records, list, tile, c, terms, offsets, bands);
        if (is_steep)
            accumulate<false>(records, chunk_list, bands, terms, gates, top, S, y);
        else
            accumulate<true>(records, chunk_list, bands, terms, gates, top, S, y);
    }
    FOR_PIXELS(i) {
        if (tile.is_signed) AT(S, i) = most(AT(S, i), Pack{} + (REAL)TINY);
        UNROLL for (int c = 0; c < NCHAN; c++) AT(y[c], i) /= AT(S, i);
    }
}

// `forward`, compiled once for all kernels but `step`, which is faster if it has a copy of its own.
template <class Terms, class Offsets, class Gates, class Flag, class PerPixel, class PerChannel>
FUNCTION_CALLED void forward_called(const double *records, const int *list, const Tile &tile,
                                    Terms &terms, Offsets &offsets, Gates &gates, Flag &steep,
                                    Bands &bands, PerPixel &top, PerPixel &S, PerChannel &y) {
    forward(records, list, tile, terms, offsets, gates, steep, bands, top, S, y);
}

// Make `terms` and `gates` those of chunk c of a tile again, after `forward`; nothing to do if
// there is only one chunk. Returns its number of pairs. S and y are spoilt where gates are
// recomputed.
template <class Terms, class Offsets, class Gates, class Flag, class PerPixel, class PerChannel>
FUNCTION_CALLED int chunk_again(const double *records, const int *list, const Tile &tile, int c,
                                Terms &terms, Offsets &offsets, Gates &gates, Flag &steep,
                                Bands &bands, PerPixel &top, PerPixel &S, PerChannel &y) {
    const int chunk = CHUNK;
    if (tile.pairs <= chunk) return tile.pairs;
    const int *chunk_list = list + tile.first + c * chunk;
    const int count = prepare_chunk(records, list, tile, c, terms, offsets, bands);
    if (steep[0])
        accumulate<false>(records, chunk_list, bands, terms, gates, top, S, y);
    else
        accumulate<true>(records, chunk_list, bands, terms, gates, top, S, y);
    return count;
}

// Set the rows of a patch to 0, where several tiles add to them; where a patch is one tile, they
// are written instead.
FUNCTION void clear_rows(const Rows &own, REAL *rows) {
#if PATCHES_ARE_BOXES
    memset(rows + own.first * ROW, 0, sizeof(REAL) * ROW * own.count);
#else
    (void)own, (void)rows;
#endif
}

// Set to 0 once: the padding at the end of rows is added as well, but never written.
template <class Partial>
FUNCTION void clear_partial(Partial &partial) {
#if PATCHES_ARE_BOXES
    memset(partial, 0, sizeof partial);
#else
    (void)partial;
#endif
}

// Add the sums of the pairs of chunk c of a tile to their rows, or write them there.
template <class Partial>
FUNCTION void store_rows(const Tile &tile, int c, int count, const Bands &bands, Partial &partial,
                         const int *row_of_pair, REAL *rows) {
#if PATCHES_ARE_BOXES
    (void)count;
    for (int n = 0; n < bands.end; n++) {
        const int j = bands.order[n];
        REAL *row = rows + (long long)row_of_pair[tile.first + c * CHUNK + j] * ROW;
        UNROLL for (int i = 0; i < ROW; i += LANES)
            STORE(row, i, LOAD(row, i) + LOAD(partial, j * SUMS + i));
    }
#else
    (void)tile, (void)row_of_pair, (void)bands;
    FOR_EACH(j, count) {
        REAL *row = rows + ((long long)c * CHUNK + j) * ROW;
        UNROLL for (int w = 0; w < WIDTH; w++) row[w] = sum_of_parts(partial, j, w);
    }
#endif
}
