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
#define CHUNK (sizeof(REAL) == 4 ? 32 : 16)
#define STRIDE (PIXELS + 1)  // gates of different pairs at a pixel lie in different banks
#define PARTS (PIXELS / CHUNK)
#define FOR_PARTS(j, part, n) \
    FOR_THREADS(t_) \
        for (int j = t_ % CHUNK, part = t_ / CHUNK, once2_ = 1; once2_ && j < (n); once2_ = 0)
#endif

#define TILE_THREADS PIXELS
#define STEEP 80.0  // a spread of log2-gates in a tile beyond which a pixel needs its own maximum
#define TINY 1e-19  // a sum of signed gates, relative to the largest, that is not positive

// Of pair j: θ for log2-gates less the winner's, then its expert round the tile's centre less the
// level; and tile − kernel.
template <class Terms, class Offsets>
FUNCTION void prepare_pair(const double *record, const double *centre, const double *winner,
                           const double *level, int j, Terms &terms, Offsets &offsets) {
    double theta[MOMENTS], offset[NDIM];
    log_gate_of(record, centre, theta, offset);
    UNROLL for (int m = 0; m < MOMENTS; m++)
        terms[m * CHUNK + j] = (REAL)((theta[m] - winner[m]) * LOG2E);
    UNROLL for (int c = 0; c < NCHAN; c++) {
        const double *expert = record + 2 + NDIM + LOWER + c * (NDIM + 1);
        double value = expert[0] - level[c];
        UNROLL for (int d = 0; d < NDIM; d++) value += expert[1 + d] * offset[d];
        terms[(MOMENTS + c * (NDIM + 1)) * CHUNK + j] = (REAL)value;
        UNROLL for (int d = 0; d < NDIM; d++)
            terms[(MOMENTS + c * (NDIM + 1) + 1 + d) * CHUNK + j] = (REAL)expert[1 + d];
    }
    UNROLL for (int d = 0; d < NDIM; d++) offsets[d * CHUNK + j] = offset[d];
}

// The level of a tile: the winner's expert at the tile's centre, from which the experts of its
// neighbours differ by little. Where signed gates may add up to nothing there can be none.
FUNCTION void find_level(const double *record, const double *offset, bool is_signed, double *level) {
    UNROLL for (int c = 0; c < NCHAN; c++) {
        const double *expert = record + 2 + NDIM + LOWER + c * (NDIM + 1);
        level[c] = 0;
        if (is_signed) continue;
        level[c] = expert[0];
        UNROLL for (int d = 0; d < NDIM; d++) level[c] += expert[1 + d] * offset[d];
    }
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

FUNCTION int least_int(int a, int b) { return a < b ? a : b; }

// ---- phases that several kernels share; a BARRIER ends each where it must

// The polynomials of `count` pairs of a tile, from pair `first` of the list on.
template <class Terms, class Offsets>
FUNCTION void prepare_pairs(const double *records, const int *list, int first, int count,
                            const double *centre, const double *winner, const double *level,
                            Terms &terms, Offsets &offsets) {
    FOR_EACH(j, count)
        prepare_pair(records + (long long)list[first + j] * RECORD, centre, winner, level, j, terms,
                     offsets);
    BARRIER;
}

// The gates of `count` pairs but for their sum: 2^(log2-gate − top), times their sign.
template <bool IS_SIGNED, class Terms, class Top, class Gates>
FUNCTION Pack gate_at(const double *records, const int *list, int first, int j, const Pack *u,
                      Terms &terms, Top top, Gates &gates, int i) {
    Pack gate = exp2_of(most(log_gate_at(terms, j, u) - top, Pack{} + (REAL)SMALLEST_GATE));
    if (IS_SIGNED) gate *= (REAL)records[(long long)list[first + j] * RECORD + 1];
    STORE(gates, j * STRIDE + i, gate);
    return gate;
}

// All pairs of a tile: the gates' sum S and y, each channel's Σ w e − level, and what is taken off
// log2-gates before they become gates. `terms` and `gates` are left with the last chunk.
template <bool IS_SIGNED, class Terms, class Offsets, class Gates, class Flag, class PerPixel,
          class PerChannel>
FUNCTION void forward(const double *records, const int *list, int first, int pairs,
                      const double *centre, const double *winner, const double *level,
                      Terms &terms, Offsets &offsets, Gates &gates, Flag &steep, PerPixel &top,
                      PerPixel &S, PerChannel &y) {
    const int chunk = CHUNK, chunks = (pairs + chunk - 1) / chunk;
    ONE_THREAD { steep[0] = IS_SIGNED; }
    BARRIER;
    for (int c = 0; c < chunks && !IS_SIGNED; c++) {
        const int count = least_int(chunk, pairs - c * chunk);
        prepare_pairs(records, list, first + c * chunk, count, centre, winner, level, terms, offsets);
        FOR_THREADS(t) {
            int beyond = 0;
            STRIDED(j, t, count) beyond += spread_of(terms, j) > (REAL)STEEP;
            if (beyond) MARK(steep[0]);
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
        const int count = least_int(chunk, pairs - c * chunk);
        prepare_pairs(records, list, first + c * chunk, count, centre, winner, level, terms, offsets);
        FOR_PIXELS(i) {
            Pack u[NDIM];
            UNROLL for (int d = 0; d < NDIM; d++) u[d] = coordinate(d, i);
            for (int j = 0; j < count; j++)
                AT(top, i) = most(AT(top, i), log_gate_at(terms, j, u));
        }
        BARRIER;
    }
    for (int c = 0; c < chunks; c++) {
        const int count = least_int(chunk, pairs - c * chunk);
        if (chunks > 1 || IS_SIGNED)
            prepare_pairs(records, list, first + c * chunk, count, centre, winner, level, terms,
                          offsets);
        FOR_PIXELS(i) {
            Pack u[NDIM], total = AT(S, i), sums[NCHAN];
            const Pack top_here = AT(top, i);
            UNROLL for (int d = 0; d < NDIM; d++) u[d] = coordinate(d, i);
            UNROLL for (int k = 0; k < NCHAN; k++) sums[k] = AT(y[k], i);
            for (int j = 0; j < count; j++) {
                const Pack gate = gate_at<IS_SIGNED>(records, list, first + c * chunk, j, u, terms,
                                                     top_here, gates, i);
                total += gate;
                UNROLL for (int k = 0; k < NCHAN; k++) sums[k] += gate * expert_at(terms, j, k, u);
            }
            AT(S, i) = total;
            UNROLL for (int k = 0; k < NCHAN; k++) AT(y[k], i) = sums[k];
        }
        BARRIER;
    }
    FOR_PIXELS(i) {
        if (IS_SIGNED) AT(S, i) = most(AT(S, i), Pack{} + (REAL)TINY);
        UNROLL for (int c = 0; c < NCHAN; c++) AT(y[c], i) /= AT(S, i);
    }
}
