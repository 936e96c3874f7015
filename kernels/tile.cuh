// What all kernels do that look at the pixels of a tile: its pairs' polynomials, and their gates.
#pragma once
#include "control.cuh"
#include "gate.cuh"

// Pairs that a tile keeps the gates of; a tile with more of them computes them twice.
#ifndef SCALAR_PACKS
#define CHUNK 128
#define STRIDE PIXELS
#define PARTS 1  // threads that share the pixels of a pair
#define FOR_PARTS(j, part, n) FOR_EACH_PLAIN(j, n) for (int part = 0; part < 1; part++)
#else
#define CHUNK (128 / REAL_BYTES)
#define STRIDE (PIXELS + 1)  // gates of different pairs at a pixel lie in different banks
#define PARTS (PIXELS / CHUNK)
#define FOR_PARTS(j, part, n) \
    FOR_THREADS(t_) \
        for (int j = t_ % CHUNK, part = t_ / CHUNK, once2_ = 1; once2_ && j < (n); once2_ = 0)
#endif

#define TILE_THREADS PIXELS

// What a block needs to go through the pairs of its tile: of a chunk of them the polynomials, where
// their kernels are, and their gates; of each pixel what `forward` says.
#define ARRAYS_OF_A_TILE                  \
    SHARED(REAL, terms, WIDTH * CHUNK);   \
    SHARED(REAL, offsets, NDIM * CHUNK);  \
    SHARED(REAL, gates, CHUNK * STRIDE);  \
    SHARED(int, steep, 2);                \
    PER_PIXEL(top);                       \
    PER_PIXEL(S);                         \
    PER_PIXEL_OF(y, NCHAN)

// Sums of a pair over the pixels of a tile, by several threads each over a part of them.
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

#define STEEP 80.0  // a spread of log2-gates in a tile beyond which a pixel needs its own maximum
#define SHARP 1.0   // a curvature of log2-gates beyond which they cannot be followed by differences
#define TINY 1e-19  // a sum of signed gates, relative to the largest, that is not positive

// A tile, its pairs, first to first + pairs − 1 of the list, and the polynomial of its winner's
// log2-gate.
//
// Its level is the winner's expert at the tile's centre, from which the experts of its neighbours
// differ by little. Where signed gates may add up to nothing it is 0.
struct Tile {
    int first, pairs, corner[NDIM];
    bool is_signed;
    double centre[NDIM], winner[MOMENTS], level[NCHAN];
};

FUNCTION Tile tile_of(const int *control, const int *grid, const double *records, const int *start,
                      const int *winners, int number) {
    Tile tile;
    double offset[NDIM];
    tile.first = start[number];
    tile.pairs = start[number + 1] - tile.first;
    tile.is_signed = control[SIGNED] != 0;
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

// Of pair j: θ for log2-gates less the winner's, then its expert round the tile's centre less the
// level; and tile − kernel.
template <class Terms, class Offsets>
FUNCTION void prepare_pair(const double *record, const Tile &tile, int j, Terms &terms,
                           Offsets &offsets) {
    double theta[MOMENTS], offset[NDIM];
    log_gate_of(record, tile.centre, theta, offset);
    UNROLL for (int m = 0; m < MOMENTS; m++)
        terms[m * CHUNK + j] = (REAL)(theta[m] - tile.winner[m]);
    UNROLL for (int c = 0; c < NCHAN; c++) {
        const double *expert = record + OF_EXPERT + c * (NDIM + 1);
        double value = expert[0] - tile.level[c];
        UNROLL for (int d = 0; d < NDIM; d++) value += expert[1 + d] * offset[d];
        terms[(MOMENTS + c * (NDIM + 1)) * CHUNK + j] = (REAL)value;
        UNROLL for (int d = 0; d < NDIM; d++)
            terms[(MOMENTS + c * (NDIM + 1) + 1 + d) * CHUNK + j] = (REAL)expert[1 + d];
    }
    UNROLL for (int d = 0; d < NDIM; d++) offsets[d * CHUNK + j] = (REAL)offset[d];
}

// The rows of a patch, of those of a batch of patches.
struct Rows {
    long long first;
    int count;
};

FUNCTION Rows rows_of_patch(const int *first_row, int first_patch, int patch) {
    return {(long long)first_row[patch] - first_row[first_patch],
            first_row[patch + 1] - first_row[patch]};
}

// Whether there is room for the rows of a patch; else everything stops.
FUNCTION bool has_room(int *control, const Rows &own, int room) {
    if (own.first + own.count <= room) return true;
    ONE_THREAD { control[HALT] = NO_ROOM; }
    return false;
}

// The log2-gate of pair j at some pixels, less the winner's.
template <class Terms>
FUNCTION Pack log_gate_at(Terms &terms, int j, const Pack *u) {
    Pack gate = Pack{} + (REAL)terms[j];
    UNROLL for (int i = 0; i < NDIM; i++) {
        Pack slope = Pack{} + (REAL)terms[(1 + i) * CHUNK + j];
        UNROLL for (int k = i; k < NDIM; k++)
            slope += u[k] * (REAL)terms[PRODUCT(i, k) * CHUNK + j];
        gate += u[i] * slope;
    }
    return gate;
}

// Channel c of the expert of pair j at some pixels, less the level.
template <class Terms>
FUNCTION Pack expert_at(Terms &terms, int j, int c, const Pack *u) {
    const int first = MOMENTS + c * (NDIM + 1);
    Pack value = Pack{} + (REAL)terms[first * CHUNK + j];
    UNROLL for (int d = 0; d < NDIM; d++) value += u[d] * (REAL)terms[(first + 1 + d) * CHUNK + j];
    return value;
}

template <class Terms>
FUNCTION REAL expert_slope(Terms &terms, int j, int c) {  // along axis 0
    return terms[(MOMENTS + c * (NDIM + 1) + 1) * CHUNK + j];
}

// An upper bound of |log2-gate less the winner's| of pair j in the tile.
template <class Terms>
FUNCTION REAL spread_of(Terms &terms, int j) {
    const REAL half = (REAL)(SIDE - 1) / 2;
    REAL spread = (REAL)terms[j];
    UNROLL for (int m = 1; m <= NDIM; m++) {
        const REAL slope = (REAL)terms[m * CHUNK + j];
        spread += half * (slope < 0 ? -slope : slope);
    }
    UNROLL for (int m = 1 + NDIM; m < MOMENTS; m++) {
        const REAL curvature = (REAL)terms[m * CHUNK + j];
        spread += half * half * (curvature < 0 ? -curvature : curvature);
    }
    return spread;
}

// ---- phases that several kernels share; a BARRIER ends each where it must

// The polynomials of `count` pairs of a tile, from pair `first` of the list on.
template <class Terms, class Offsets>
FUNCTION void prepare_pairs(const double *records, const int *list, int first, int count,
                            const Tile &tile, Terms &terms, Offsets &offsets) {
    FOR_EACH(j, count)
        prepare_pair(records + (long long)list[first + j] * RECORD, tile, j, terms, offsets);
    BARRIER;
}

// The gate of pair j but for their sum: 2^(log2-gate − top), times its sign.
template <bool IS_STEEP, bool IS_SIGNED>
FUNCTION Pack gate_of(Pack log_gate, Pack top, double sign) {
    const Pack gate = exp2_of(IS_STEEP ? log_gate - top : log_gate);
    return IS_SIGNED ? gate * (REAL)sign : gate;
}

// The gates of `count` pairs; what they add to the gates' sum S and to y, each channel's Σ gate ·
// expert.
//
// Where kernels are not IS_SHARP, their log-gates are followed from pack to pack by differences.
// Where a tile is not IS_STEEP, nothing is taken off them.
template <bool IS_SHARP, bool IS_STEEP, bool IS_SIGNED, class Terms, class Gates, class PerPixel,
          class PerChannel>
FUNCTION void accumulate(const double *records, const int *list, int count, Terms &terms,
                         Gates &gates, PerPixel &top, PerPixel &S, PerChannel &y) {
#if WALKS
    Pack total[PACKS], sums[NCHAN][PACKS], u[NDIM];
    UNROLL for (int b = 0; b < PACKS; b++) {
        total[b] = S[b];
        UNROLL for (int c = 0; c < NCHAN; c++) sums[c][b] = y[c][b];
    }
    UNROLL for (int d = 0; d < NDIM; d++) u[d] = coordinate(d, 0);
    for (int j = 0; j < count; j++) {
        const double sign = IS_SIGNED ? records[(long long)list[j] * RECORD + 1] : 1;
        const REAL curvature = terms[PRODUCT(0, 0) * CHUNK + j] * ADVANCE;
        Pack gate = log_gate_at(terms, j, u), expert[NCHAN];
        Pack slope = u[0] * (2 * curvature) + (ADVANCE * terms[CHUNK + j] + ADVANCE * curvature);
        UNROLL for (int k = 1; k < NDIM; k++)
            slope += u[k] * (ADVANCE * terms[PRODUCT(0, k) * CHUNK + j]);
        UNROLL for (int c = 0; c < NCHAN; c++) expert[c] = expert_at(terms, j, c, u);
        UNROLL for (int b = 0; b < PACKS; b++) {
            const Pack p = gate_of<IS_STEEP, IS_SIGNED>(gate, top[b], sign);
            store_pack(gates + j * STRIDE + b * LANES, p);
            total[b] += p;
            UNROLL for (int c = 0; c < NCHAN; c++) {
                sums[c][b] += p * expert[c];
                expert[c] += ADVANCE * expert_slope(terms, j, c);
            }
            if (IS_SHARP) {
                Pack next[NDIM];
                UNROLL for (int d = 0; d < NDIM; d++)
                    next[d] = d == 0 ? u[0] + (REAL)(ADVANCE * (b + 1)) : u[d];
                gate = log_gate_at(terms, j, next);
            } else {
                gate += slope;
                slope += 2 * ADVANCE * curvature;
            }
        }
    }
    UNROLL for (int b = 0; b < PACKS; b++) {
        S[b] = total[b];
        UNROLL for (int c = 0; c < NCHAN; c++) y[c][b] = sums[c][b];
    }
#else
    FOR_PIXELS(i) {
        Pack u[NDIM], total = AT(S, i), sums[NCHAN];
        UNROLL for (int d = 0; d < NDIM; d++) u[d] = coordinate(d, i);
        UNROLL for (int c = 0; c < NCHAN; c++) sums[c] = AT(y[c], i);
        for (int j = 0; j < count; j++) {
            const double sign = IS_SIGNED ? records[(long long)list[j] * RECORD + 1] : 1;
            const Pack p =
                gate_of<IS_STEEP, IS_SIGNED>(log_gate_at(terms, j, u), AT(top, i), sign);
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

// Sums over pixels: Σ g φ(u), and for each channel Σ h and Σ h u. Pixels are added by `add`, i of
// the first one of a pack; `store_moments` ends it, with u round the centre of the kernel.
#if WALKS
// Along axis 0, u = ADVANCE b + c, with b of the pack and c within it, both counted from the
// middle. The lanes of a pack that differ in c are added up last; then there is a Line of sums
// over the other axes.
#define LINE (PIXELS / SIDE)
typedef Lanes<LINE>::Vector Line;

struct Moments {
    Pack g[3], h[NCHAN][2];  // Σ g, Σ b g, Σ b² g; Σ h, Σ b h
};

FUNCTION void add(Moments &moments, int i, const Pack *, Pack g, const Pack *h) {
    const REAL place = (REAL)(i / LANES) - (REAL)(PACKS - 1) / 2;
    moments.g[0] += g;
    moments.g[1] += g * place;
    moments.g[2] += g * (place * place);
    UNROLL for (int c = 0; c < NCHAN; c++) {
        moments.h[c][0] += h[c];
        moments.h[c][1] += h[c] * place;
    }
}

struct Folded {  // Σ p and Σ c p over lanes that differ in c; Σ c² p
    Line sum, once, twice;
};

FUNCTION Folded fold(Pack pack) {
    Folded folded = {Line{}, Line{}, Line{}};
    UNROLL for (int c = 0; c < ADVANCE; c++) {
        Line part;
        memcpy(&part, (const char *)&pack + c * sizeof part, sizeof part);
        const REAL place = (REAL)c - (REAL)(ADVANCE - 1) / 2;
        folded.sum += part;
        if (ADVANCE > 1) folded.once += part * place;
        if (ADVANCE > 1) folded.twice += part * (place * place);
    }
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

// All pairs of a tile: the gates' sum S and y, each channel's Σ w e − level, and what is taken off
// log2-gates before they become gates. `terms` and `gates` are left with the last chunk.
template <bool IS_SIGNED, class Terms, class Offsets, class Gates, class Flag, class PerPixel,
          class PerChannel>
FUNCTION void forward_of(const double *records, const int *list, const Tile &tile, Terms &terms,
                         Offsets &offsets, Gates &gates, Flag &steep, PerPixel &top, PerPixel &S,
                         PerChannel &y) {
    const int chunk = CHUNK, chunks = (tile.pairs + chunk - 1) / chunk;
    ONE_THREAD {  // the first BARRIER of prepare_pairs stands between this and MARK
        steep[0] = IS_SIGNED;
        steep[1] = 0;
    }
    for (int c = 0; c < chunks; c++) {
        const int count = least_int(chunk, tile.pairs - c * chunk);
        prepare_pairs(records, list, tile.first + c * chunk, count, tile, terms, offsets);
        FOR_THREADS(t) {
            int spread = 0, sharp = 0;
            STRIDED_SUM(j, t, count, spread) spread += spread_of(terms, j) > (REAL)STEEP;
            STRIDED_SUM(j, t, count, sharp)
                sharp += (REAL)terms[PRODUCT(0, 0) * CHUNK + j] < -(REAL)SHARP;
            if (spread && !IS_SIGNED) MARK(steep[0]);
            if (sharp) MARK(steep[1]);
        }
        BARRIER;
    }
    const bool is_steep = steep[0], is_sharp = steep[1];
    FOR_PIXELS(i) {
        AT(top, i) = Pack{} + (is_steep ? (REAL)-1e30 : (REAL)0);
        AT(S, i) = Pack{};
        UNROLL for (int c = 0; c < NCHAN; c++) AT(y[c], i) = Pack{};
    }
    for (int c = 0; c < chunks && is_steep; c++) {
        const int count = least_int(chunk, tile.pairs - c * chunk);
        prepare_pairs(records, list, tile.first + c * chunk, count, tile, terms, offsets);
        FOR_PIXELS(i) {
            Pack u[NDIM];
            UNROLL for (int d = 0; d < NDIM; d++) u[d] = coordinate(d, i);
            for (int j = 0; j < count; j++)
                AT(top, i) = most(AT(top, i), log_gate_at(terms, j, u));
        }
        BARRIER;
    }
    for (int c = 0; c < chunks; c++) {
        const int count = least_int(chunk, tile.pairs - c * chunk);
        const int *chunk_list = list + tile.first + c * chunk;
        if (chunks > 1) prepare_pairs(records, chunk_list, 0, count, tile, terms, offsets);
        if (is_steep || IS_SIGNED)
            accumulate<true, true, IS_SIGNED>(records, chunk_list, count, terms, gates, top, S, y);
        else if (is_sharp)
            accumulate<true, false, IS_SIGNED>(records, chunk_list, count, terms, gates, top, S, y);
        else
            accumulate<false, false, IS_SIGNED>(records, chunk_list, count, terms, gates, top, S,
                                                y);
    }
    FOR_PIXELS(i) {
        if (IS_SIGNED) AT(S, i) = most(AT(S, i), Pack{} + (REAL)TINY);
        UNROLL for (int c = 0; c < NCHAN; c++) AT(y[c], i) /= AT(S, i);
    }
}

template <class Terms, class Offsets, class Gates, class Flag, class PerPixel, class PerChannel>
FUNCTION void forward(const double *records, const int *list, const Tile &tile, Terms &terms,
                      Offsets &offsets, Gates &gates, Flag &steep, PerPixel &top, PerPixel &S,
                      PerChannel &y) {
    if (tile.is_signed)
        forward_of<true>(records, list, tile, terms, offsets, gates, steep, top, S, y);
    else
        forward_of<false>(records, list, tile, terms, offsets, gates, steep, top, S, y);
}

// The number of pairs of chunk c of a tile, after `forward`; their terms and gates, of which that
// has left those of the last chunk.
template <class Terms, class Offsets, class Gates, class PerPixel, class PerChannel>
FUNCTION int chunk_again(const double *records, const int *list, const Tile &tile, int c,
                         Terms &terms, Offsets &offsets, Gates &gates, PerPixel &top, PerPixel &S,
                         PerChannel &y) {
    const int chunk = CHUNK, count = least_int(chunk, tile.pairs - c * chunk);
    if (tile.pairs <= chunk) return count;
    const int *chunk_list = list + tile.first + c * chunk;
    prepare_pairs(records, chunk_list, 0, count, tile, terms, offsets);
    if (tile.is_signed)
        accumulate<true, true, true>(records, chunk_list, count, terms, gates, top, S, y);
    else  // top is 0 where the tile is not steep
        accumulate<true, true, false>(records, chunk_list, count, terms, gates, top, S, y);
    return count;
}

// Rows to which several tiles add begin at 0; where a patch is one tile, they are written instead.
FUNCTION void clear_rows(const Rows &own, REAL *rows) {
#if PATCHES_ARE_BOXES
    memset(rows + own.first * ROW, 0, sizeof(REAL) * ROW * own.count);
#else
    (void)own, (void)rows;
#endif
}

// What fills up rows is added to them as well, and written by nobody.
template <class Partial>
FUNCTION void clear_partial(Partial &partial) {
#if PATCHES_ARE_BOXES
    memset(partial, 0, sizeof partial);
#else
    (void)partial;
#endif
}

// The sums of the pairs of chunk c of a tile into their rows.
template <class Partial>
FUNCTION void store_rows(const Tile &tile, int c, int count, Partial &partial,
                         const int *row_of_pair, REAL *rows) {
#if PATCHES_ARE_BOXES
    for (int j = 0; j < count; j++) {
        REAL *row = rows + (long long)row_of_pair[tile.first + c * CHUNK + j] * ROW;
        UNROLL for (int i = 0; i < ROW; i += LANES)
            STORE(row, i, LOAD(row, i) + LOAD(partial, j * SUMS + i));
    }
#else
    (void)tile, (void)row_of_pair;
    FOR_EACH(j, count) {
        REAL *row = rows + ((long long)c * CHUNK + j) * ROW;
        UNROLL for (int w = 0; w < WIDTH; w++) row[w] = sum_of_parts(partial, j, w);
    }
#endif
}
