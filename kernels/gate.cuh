// Gate and experts over a tile, and the chain rule back to the parameters: the C++ counterpart of
// gate.py.
//
// The parameters of a kernel are a row of WIDTH numbers, REAL: π, μ (NDIM), A (lower triangle, row
// by row), then for each channel ν and γ (NDIM). Moments and gradients are rows of the same width:
// Σ g φ(x − μ) for the MOMENTS monomials φ, then for each channel Σ w r and Σ w r (x − μ).
#pragma once
#include "phases.cuh"

#define LOWER (NDIM * (NDIM + 1) / 2)  // entries of a lower triangle
#define RECORD (WIDTH + 1 + LOWER)     // numbers of a record: see derive
#define OF_CENTRE 2
#define OF_EXPERT (2 + NDIM)
#define OF_QUADRATIC (OF_EXPERT + EXPERTS)
#define OF_STEERING (OF_QUADRATIC + LOWER)
#define AT_MU 1                        // places of μ, ...
#define AT_A (1 + NDIM)
#define AT_EXPERT (1 + NDIM + LOWER)
#ifdef SCALAR_PACKS
#define ROW WIDTH  // numbers of a row of moments, padded to whole vectors below
#else
#define ROW ((WIDTH + LANES - 1) / LANES * LANES)
#endif
#define DEAD -1e30  // log weight of a kernel that has left; finite, as differences are taken
#define LOG2E 1.4426950408889634
#define SMALLEST_WEIGHT 1e-30          // lower limit of π in steps in the kernel's own frame
#define LARGEST 1e9                    // magnitude of a parameter beyond which the model is refused
#define LARGEST_WEIGHT 1e8             // upper limit of π in such steps, below LARGEST
#define LEAST_DIVISOR 1e-15  // least π by which ∂L/∂log π is divided to give ∂L/∂π: see frame.py

// Index of entry (i, j) of a lower triangle, i ≥ j; and of the monomial u_i u_j in φ, i ≤ j.
#define TRIANGLE(i, j) ((i) * ((i) + 1) / 2 + (j))
#define PRODUCT(i, j) (1 + NDIM + (i) * NDIM - (i) * ((i) - 1) / 2 + (j) - (i))

FUNCTION constexpr int side_of(int d) { return d == 0 ? LENGTH : SIDE; }  // of a tile, in pixels

FUNCTION int least_int(int a, int b) { return a < b ? a : b; }

// ---- packs

// The packs of a tile form COLUMNS. Within a column, packs differ only by ADVANCE pixels along axis
// 0 from one to the next, so that polynomials are updated from pack to pack by their differences.
#ifndef SCALAR_PACKS
#define PACKS (PIXELS / LANES)
#define LINE (PIXELS / LENGTH)  // pixels of a tile that share a coordinate along axis 0
#define COLUMNS (LANES < LINE ? LINE / LANES : 1)
#define ADVANCE (LANES < LINE ? 1 : LANES / LINE)
#endif

#ifdef SCALAR_PACKS

FUNCTION Pack most(Pack a, Pack b) { return a > b ? a : b; }
FUNCTION Pack least(Pack a, Pack b) { return a < b ? a : b; }
FUNCTION Pack where_inside(Pack y, Pack value) { return y >= 0 && y <= 1 ? value : 0; }
FUNCTION Pack where_above_0(Pack h, Pack value) { return h > 0 ? value : 0; }
FUNCTION REAL sum(Pack a) { return a; }
FUNCTION float exp2_of(float t) { return exp2f(t); }
FUNCTION double exp2_of(double t) { return exp2(t); }
FUNCTION Pack coordinate(int d, int i) {
    const int stride[3] = {NDIM == 3 ? SIDE * SIDE : NDIM == 2 ? SIDE : 1, NDIM == 3 ? SIDE : 1, 1};
    return (REAL)((unsigned)i / stride[d] % side_of(d)) - (REAL)(side_of(d) - 1) / 2;
}
FUNCTION Pack product(int p, int q, int i) { return coordinate(p, i) * coordinate(q, i); }

#else

typedef int Bits32 __attribute__((vector_size(PACK_BYTES)));
typedef long long Bits64 __attribute__((vector_size(PACK_BYTES)));
typedef float Floats __attribute__((vector_size(PACK_BYTES)));
typedef double Doubles __attribute__((vector_size(PACK_BYTES)));

FUNCTION Pack least(Pack a, Pack b) { return a < b ? a : b; }
FUNCTION Pack most(Pack a, Pack b) { return a > b ? a : b; }
FUNCTION REAL most(REAL a, REAL b) { return a > b ? a : b; }
FUNCTION Pack where_inside(Pack y, Pack value) { return (y >= 0) & (y <= 1) ? value : Pack{}; }
FUNCTION Pack where_above_0(Pack h, Pack value) { return h > 0 ? value : Pack{}; }

// 2^t = 2^n · 2^f, with n the integer nearest to t, and 2^f by a polynomial (float: a minimax fit
// of error 1e-7; double: a Taylor polynomial of error 2e-16).
FUNCTION Floats exp2_of_fraction(Floats f) {
    Floats y = 1.327647174e-3f * f + 9.675541540e-3f;
    y = y * f + 5.550713276e-2f;
    y = y * f + 2.402211972e-1f;
    y = y * f + 6.931469671e-1f;
    return y * f + 1.0f;
}
FUNCTION Doubles exp2_of_fraction(Doubles f) {
    Doubles y = 2.56784359934881958e-11 * f + 4.44553827187081007e-10;
    y = y * f + 7.05491162080112088e-09;
    y = y * f + 1.01780860092396960e-07;
    y = y * f + 1.32154867901443053e-06;
    y = y * f + 1.52527338040598377e-05;
    y = y * f + 1.54035303933816061e-04;
    y = y * f + 1.33335581464284411e-03;
    y = y * f + 9.61812910762847688e-03;
    y = y * f + 5.55041086648215762e-02;
    y = y * f + 2.40226506959100694e-01;
    y = y * f + 6.93147180559945286e-01;
    return y * f + 1.0;
}
#ifdef __AVX512F__
FUNCTION Floats exp2_of(Floats t) {
    const Floats n = (Floats)_mm512_roundscale_ps((__m512)t, 0);
    return (Floats)_mm512_scalef_ps((__m512)exp2_of_fraction(t - n), (__m512)n);
}
FUNCTION Doubles exp2_of(Doubles t) {
    const Doubles n = (Doubles)_mm512_roundscale_pd((__m512d)t, 0);
    return (Doubles)_mm512_scalef_pd((__m512d)exp2_of_fraction(t - n), (__m512d)n);
}
#else
FUNCTION Floats exp2_of(Floats t) {
    t = t > -126.0f ? t : Floats{} - 126.0f;
    const Floats shifted = t + 12582912.0f;  // 1.5 · 2^23: n is in the lowest bits
    const Floats y = exp2_of_fraction(t - (shifted - 12582912.0f));
    return (Floats)((Bits32)y + ((Bits32)shifted << 23));
}
FUNCTION Doubles exp2_of(Doubles t) {
    t = t > -1022.0 ? t : Doubles{} - 1022.0;
    const Doubles shifted = t + 6755399441055744.0;  // 1.5 · 2^52
    const Doubles y = exp2_of_fraction(t - (shifted - 6755399441055744.0));
    return (Doubles)((Bits64)y + ((Bits64)shifted << 52));
}
#endif

struct Coordinates {  // the coordinates u of a tile's pixels, from its centre, and u_i u_j
    alignas(64) REAL u[NDIM][PIXELS], uu[LOWER][PIXELS];
    constexpr Coordinates() : u(), uu() {
        for (int i = 0; i < PIXELS; i++) {
            int rest = i;
            for (int d = NDIM - 1; d >= 0; d--) {
                u[d][i] = REAL(rest % side_of(d)) - REAL(side_of(d) - 1) / 2;
                rest /= side_of(d);
            }
            for (int p = 0; p < NDIM; p++)
                for (int q = p; q < NDIM; q++)
                    uu[PRODUCT(p, q) - 1 - NDIM][i] = u[p][i] * u[q][i];
        }
    }
};
static constexpr Coordinates COORDINATES;
FUNCTION Pack coordinate(int d, int i) { return load_pack(COORDINATES.u[d] + i); }
FUNCTION Pack product(int p, int q, int i) {
    return load_pack(COORDINATES.uu[PRODUCT(p, q) - 1 - NDIM] + i);
}

// Sums over the lanes of up to L vectors of L lanes at once. Each stage takes two vectors made of
// groups of 2 H lanes, and adds the upper half of every group to the lower half: a group of the
// result holds the H lanes of the first vector, then those of the second. After the last stage,
// lane w holds the sum of vector w.
template <int L>
struct Lanes {
    typedef REAL Vector __attribute__((vector_size(L * REAL_BYTES)));
    template <int H, int UPPER, int... I>
    FUNCTION Vector half_of_groups(Vector a, Vector b, Indices<I...>) {
        constexpr int from = UPPER * H;
#if defined(__clang__) || __GNUC__ >= 12
        return __builtin_shufflevector(
            a, b, I / (2 * H) * 2 * H + I % H + (I / H % 2 ? L : 0) + from...);
#else
        return Vector{(I / H % 2 ? b : a)[I / (2 * H) * 2 * H + I % H + from]...};
#endif
    }
    template <int N, int H, int APART>
    struct Sums {  // of N vectors
        FUNCTION Vector of(const Vector *packs) {
            typedef typename Count<L>::indices All;
            const Vector first = Sums<(N + 1) / 2, 2 * H, 2 * APART>::of(packs);
            const Vector second =
                Sums<(N > 1 ? N / 2 : 1), 2 * H, 2 * APART>::of(packs + (N > 1) * APART);
            return half_of_groups<H, 0>(first, second, All()) +
                   half_of_groups<H, 1>(first, second, All());
        }
    };
    template <int N, int APART>
    struct Sums<N, L, APART> {
        FUNCTION Vector of(const Vector *packs) { return packs[0]; }
    };
    template <int N>
    FUNCTION void sum(const Vector *packs, REAL *out) {
        UNROLL for (int first = 0; first < N / L * L; first += L) {
            const Vector sums = Sums<L, 1, 1>::of(packs + first);
            memcpy(out + first, &sums, sizeof sums);
        }
        if (N % L == 0) return;
        const Vector sums = Sums<(N % L ? N % L : 1), 1, 1>::of(packs + N / L * L);
        memcpy(out + N / L * L, &sums, sizeof sums);
    }
};
FUNCTION REAL sum(Pack pack) { return Lanes<LANES>::Sums<1, 1, 1>::of(&pack)[0]; }

#endif

// ---- kernels of the model

// Fill the record of a kernel, all in pixels: log weight (log π + Σ log|A_dd|), sign of det A,
// centre; for each channel the expert's value at the centre and its slopes; the coefficients of u_i
// u_j, i ≤ j, in the log2-gate; A.
FUNCTION_ONCE void derive(const double *row, int longest, double *record) {
    double determinant = 1;
    UNROLL for (int d = 0; d < NDIM; d++) {
        determinant *= row[AT_A + TRIANGLE(d, d)] / longest;
        record[OF_CENTRE + d] = row[AT_MU + d] * longest;
    }
    record[0] = row[0] > 0 ? log(row[0] * fabs(determinant)) : DEAD;
    record[1] = determinant < 0 ? -1 : 1;
    double *A = record + OF_STEERING, *quadratic = record + OF_QUADRATIC;
    UNROLL for (int e = 0; e < LOWER; e++) A[e] = row[AT_A + e] / longest;
    UNROLL for (int i = 0; i < NDIM; i++) {
        UNROLL for (int j = i; j < NDIM; j++) {
            double precision = 0;
            UNROLL for (int m = 0; m <= i; m++) precision += A[TRIANGLE(i, m)] * A[TRIANGLE(j, m)];
            quadratic[PRODUCT(i, j) - 1 - NDIM] = precision * (i == j ? -0.5 * LOG2E : -LOG2E);
        }
    }
    UNROLL for (int c = 0; c < NCHAN; c++) {
        const double *expert = row + AT_EXPERT + c * (NDIM + 1);
        double *of_record = record + OF_EXPERT + c * (NDIM + 1);
        double value = expert[0];
        UNROLL for (int d = 0; d < NDIM; d++) {
            value += expert[1 + d] * row[AT_MU + d];
            of_record[1 + d] = expert[1 + d] / longest;
        }
        of_record[0] = value;
    }
}

// The log2-gate as a polynomial θ · φ(u) round a point `origin`, and offset = origin − μ.
template <class Record, class Number>
FUNCTION void log_gate_of(Record record, const Number *origin, Number *theta, Number *offset) {
    Number quadratic[LOWER], twice = Number{};
    UNROLL for (int e = 0; e < LOWER; e++) quadratic[e] = record[OF_QUADRATIC + e];
    UNROLL for (int d = 0; d < NDIM; d++) offset[d] = origin[d] - record[OF_CENTRE + d];
    UNROLL for (int i = 0; i < NDIM; i++) {
        theta[1 + i] = Number{};
        UNROLL for (int j = 0; j < NDIM; j++)
            theta[1 + i] += (i == j ? 2.0 : 1.0) * offset[j] *
                            quadratic[(i < j ? PRODUCT(i, j) : PRODUCT(j, i)) - 1 - NDIM];
        twice += theta[1 + i] * offset[i];
    }
    theta[0] = record[0] * LOG2E + 0.5 * twice;
    UNROLL for (int e = 0; e < LOWER; e++) theta[1 + NDIM + e] = quadratic[e];
}

// Move moments from round a tile's centre to round the kernel's centre, in place; offset = tile
// centre − kernel centre.
template <class Number>
FUNCTION void move_moments(Number *moments, const REAL *offset) {
    Number first[NDIM];
    UNROLL for (int i = 0; i < NDIM; i++) {
        first[i] = moments[1 + i];
        moments[1 + i] += offset[i] * moments[0];
    }
    // Σ g (u+o)_i (u+o)_j = Σ g u_i u_j + o_i Σ g (u+o)_j + o_j Σ g u_i
    UNROLL for (int i = 0; i < NDIM; i++) {
        UNROLL for (int j = i; j < NDIM; j++)
            moments[PRODUCT(i, j)] += offset[i] * moments[1 + j] + offset[j] * first[i];
    }
    UNROLL for (int c = 0; c < NCHAN; c++) {
        Number *expert = moments + MOMENTS + c * (NDIM + 1);
        UNROLL for (int i = 0; i < NDIM; i++) expert[1 + i] += offset[i] * expert[0];
    }
}

// Gradients of the mean squared error with respect to a row of parameters; scale = 2 / (N C).
template <class Row>
FUNCTION void chain_rule(const double *moments, const Row *row, int longest, double scale,
                         double *gradient) {
    const double per_pixel = 1.0 / longest;
    double first[NDIM], z[NDIM], A[LOWER];
    UNROLL for (int e = 0; e < LOWER; e++) A[e] = row[AT_A + e];
    const double total = moments[0] * scale;
    UNROLL for (int i = 0; i < NDIM; i++) first[i] = moments[1 + i] * (scale * per_pixel);
    gradient[0] = total / (double)row[0];
    UNROLL for (int j = 0; j < NDIM; j++) {  // Σ g Aᵀ(x − μ)
        z[j] = 0;
        UNROLL for (int i = j; i < NDIM; i++) z[j] += A[TRIANGLE(i, j)] * first[i];
    }
    UNROLL for (int i = 0; i < NDIM; i++) {
        gradient[AT_MU + i] = 0;
        UNROLL for (int j = 0; j <= i; j++) {
            gradient[AT_MU + i] += A[TRIANGLE(i, j)] * z[j];
            double sum = 0;  // (x − μ) zᵀ = (x − μ)(x − μ)ᵀ A
            UNROLL for (int m = j; m < NDIM; m++)
                sum += moments[i < m ? PRODUCT(i, m) : PRODUCT(m, i)] * A[TRIANGLE(m, j)];
            gradient[AT_A + TRIANGLE(i, j)] = -sum * (scale * per_pixel * per_pixel);
        }
        gradient[AT_A + TRIANGLE(i, i)] += total / A[TRIANGLE(i, i)];
    }
    UNROLL for (int c = 0; c < NCHAN; c++) {
        const double *sums = moments + MOMENTS + c * (NDIM + 1);
        double *expert = gradient + AT_EXPERT + c * (NDIM + 1);
        expert[0] = sums[0] * scale;
        UNROLL for (int d = 0; d < NDIM; d++)
            expert[1 + d] = (sums[1 + d] * per_pixel + sums[0] * (double)row[AT_MU + d]) * scale;
    }
}

// ---- a kernel's own frame, z = Aᵀ(x − μ): frame.py in C++

// Gradients of half the sum of squared errors with respect to log π, a shift δ of the centre in z,
// Ω in A ← A exp(Ω), and ν̂ and η of the expert ν̂ + η·z.
template <class Row>
FUNCTION void chain_rule_whitened(const double *moments, const Row *row, int longest,
                                  double *gradient) {
    const double per_pixel = 1.0 / longest;
    double A[LOWER], first[NDIM];
    UNROLL for (int e = 0; e < LOWER; e++) A[e] = row[AT_A + e] * per_pixel;
    gradient[0] = moments[0];
    UNROLL for (int j = 0; j < NDIM; j++) {
        first[j] = 0;  // Σ g z
        UNROLL for (int i = j; i < NDIM; i++) first[j] += A[TRIANGLE(i, j)] * moments[1 + i];
        gradient[AT_MU + j] = first[j];
        UNROLL for (int i = j; i < NDIM; i++) {  // Σ g (1{i=j} − z_i z_j)
            double second = 0;
            UNROLL for (int m = i; m < NDIM; m++) {
                UNROLL for (int n = j; n < NDIM; n++)
                    second += A[TRIANGLE(m, i)] * A[TRIANGLE(n, j)] *
                              moments[m < n ? PRODUCT(m, n) : PRODUCT(n, m)];
            }
            gradient[AT_A + TRIANGLE(i, j)] = (i == j ? moments[0] : 0) - second;
        }
    }
    UNROLL for (int c = 0; c < NCHAN; c++) {
        const double *sums = moments + MOMENTS + c * (NDIM + 1);
        double *expert = gradient + AT_EXPERT + c * (NDIM + 1);
        expert[0] = sums[0];
        UNROLL for (int j = 0; j < NDIM; j++) {
            expert[1 + j] = 0;
            UNROLL for (int i = j; i < NDIM; i++)
                expert[1 + j] += A[TRIANGLE(i, j)] * sums[1 + i];
        }
    }
}

// Clip an expert's slopes η along z to ± `steepest`, then move its value at the centre to within
// `beyond` of [0, 1]. The clipping of slopes keeps the value at the centre.
FUNCTION void bound_expert(const double *A, const double *centre, double beyond, double steepest,
                           double *expert) {
    double frame[NDIM];
    UNROLL for (int i = 0; i < NDIM; i++) {  // η = A⁻¹γ
        frame[i] = expert[1 + i];
        UNROLL for (int j = 0; j < i; j++) frame[i] -= A[TRIANGLE(i, j)] * frame[j];
        frame[i] /= A[TRIANGLE(i, i)];
    }
    UNROLL for (int i = 0; i < NDIM; i++) {
        const double bounded = frame[i] < -steepest ? -steepest : frame[i] > steepest ? steepest
                                                                                      : frame[i];
        UNROLL for (int k = i; k < NDIM; k++) {
            const double slope = (bounded - frame[i]) * A[TRIANGLE(k, i)];
            expert[1 + k] += slope;
            expert[0] -= slope * centre[k];
        }
    }
    double value = expert[0];
    UNROLL for (int i = 0; i < NDIM; i++) value += expert[1 + i] * centre[i];
    expert[0] += (value < -beyond ? -beyond : value > 1 + beyond ? 1 + beyond : value) - value;
}

// Apply −change, given in the kernel's own frame, to a row of parameters. The expert's surface
// stays where it is in the picture while centre and A move. `least` is the lower limit of A_dd,
// `most` the upper limit of the sharpness √(A Aᵀ)_dd along each axis.
FUNCTION void retract(const double *change, double least, double most, double beyond,
                      double steepest, double *row) {
    row[0] *= exp(-change[0]);
    row[0] = row[0] < SMALLEST_WEIGHT ? SMALLEST_WEIGHT : row[0];
    row[0] = row[0] > LARGEST_WEIGHT ? LARGEST_WEIGHT : row[0];
    double *A = row + AT_A, shift[NDIM];
    UNROLL for (int i = NDIM - 1; i >= 0; i--) {  // Aᵀ Δμ = δ
        shift[i] = -change[AT_MU + i];
        UNROLL for (int k = i + 1; k < NDIM; k++) shift[i] -= A[TRIANGLE(k, i)] * shift[k];
        shift[i] /= A[TRIANGLE(i, i)];
        row[AT_MU + i] += shift[i];
    }
    // left to right: the columns to the right are still the old ones
    UNROLL for (int j = 0; j < NDIM; j++) {
        UNROLL for (int i = j; i < NDIM; i++) {
            double entry = A[TRIANGLE(i, j)] * exp(-change[AT_A + TRIANGLE(j, j)]);
            UNROLL for (int k = j + 1; k <= i; k++)
                entry -= A[TRIANGLE(i, k)] * change[AT_A + TRIANGLE(k, j)];
            A[TRIANGLE(i, j)] = entry;
        }
    }
    UNROLL for (int i = 0; i < NDIM; i++) {  // the norm of a row is the sharpness along its axis
        double square = 0;
        UNROLL for (int j = 0; j <= i; j++) square += A[TRIANGLE(i, j)] * A[TRIANGLE(i, j)];
        const double part = square > most * most ? most / sqrt(square) : 1;
        UNROLL for (int j = 0; j <= i; j++) A[TRIANGLE(i, j)] *= part;
        double &own = A[TRIANGLE(i, i)];
        own = own < least ? least : own;
    }
    UNROLL for (int c = 0; c < NCHAN; c++) {
        const double *wanted = change + AT_EXPERT + c * (NDIM + 1);
        double *expert = row + AT_EXPERT + c * (NDIM + 1);
        expert[0] -= wanted[0];
        UNROLL for (int i = 0; i < NDIM; i++) {
            double slope = 0;  // Δγ = A Δη
            UNROLL for (int j = 0; j <= i; j++) slope -= A[TRIANGLE(i, j)] * wanted[1 + j];
            expert[1 + i] += slope;
            expert[0] -= slope * row[AT_MU + i];
        }
        bound_expert(A, row + AT_MU, beyond, steepest, expert);
    }
}

// ---- tiles

// A grid is an array of 2 NDIM ints: the picture's size in pixels along each axis, then the number
// of tiles along each axis. A box of level l has 2^l tiles along each axis; level 0 are the tiles.

// The size of the picture along its longest axis, in pixels.
FUNCTION int longest_of(const int *grid) {
    int longest = 0;
    UNROLL for (int d = 0; d < NDIM; d++) longest = longest < grid[d] ? grid[d] : longest;
    return longest;
}

// The number of boxes of a level along axis d.
FUNCTION int boxes_along(const int *grid, int level, int d) {
    return (grid[NDIM + d] + (1 << level) - 1) >> level;
}

// The index along each axis of box `number` of a level (row-major).
FUNCTION void place_of_box(const int *grid, int level, int number, int *corner) {
    UNROLL for (int d = NDIM - 1; d >= 0; d--) {
        const int boxes = boxes_along(grid, level, d);
        corner[d] = number % boxes;
        number /= boxes;
    }
}

// The first pixel of a tile, and its centre, in pixels from the picture's corner.
FUNCTION void tile_corner(const int *grid, int tile, int *corner) {
    place_of_box(grid, 0, tile, corner);
    UNROLL for (int d = 0; d < NDIM; d++) corner[d] *= side_of(d);
}

FUNCTION void tile_centre(const int *grid, int tile, double *centre) {
    int corner[NDIM];
    tile_corner(grid, tile, corner);
    UNROLL for (int d = 0; d < NDIM; d++) centre[d] = corner[d] + 0.5 * side_of(d);
}

// The number of the box at an index along each axis; −1: there is none.
FUNCTION int number_of_box(const int *grid, int level, const int *corner) {
    int number = 0;
    UNROLL for (int d = 0; d < NDIM; d++) {
        const int boxes = boxes_along(grid, level, d);
        if (corner[d] >= boxes) return -1;
        number = number * boxes + corner[d];
    }
    return number;
}

// A patch is the part of the picture that a block processes, tile by tile: on a GPU one tile, on a
// CPU a box of some level. The sums of its pairs are kept in rows, one for each kernel listed in
// the patch; on a GPU that is one for each pair.
#ifdef SCALAR_PACKS
#define PATCHES_ARE_BOXES 0
#define TILES_OF_PATCH(level) 1
FUNCTION int tile_of_patch(const int *, int, int patch, int) { return patch; }
#else
#define PATCHES_ARE_BOXES 1
#define TILES_OF_PATCH(level) (1 << NDIM * (level))
// Tile i of a patch; −1: there is none.
FUNCTION int tile_of_patch(const int *grid, int level, int patch, int i) {
    int corner[NDIM];
    place_of_box(grid, level, patch, corner);
    UNROLL for (int d = NDIM - 1; d >= 0; d--) {
        corner[d] = (corner[d] << level) + (i & ((1 << level) - 1));
        i >>= level;
    }
    return number_of_box(grid, 0, corner);
}
#endif
#define FOR_TILES(tile, grid, level, patch) \
    for (int n_ = 0, tile = 0; n_ < TILES_OF_PATCH(level); n_++) \
        if ((tile = tile_of_patch(grid, level, patch, n_)) >= 0)

// 1 where a pixel lies inside the picture, 0 where the tile extends beyond it.
FUNCTION Pack inside_picture(const int *grid, const int *corner, int i) {
    Pack inside = Pack{} + 1;
    UNROLL for (int d = 0; d < NDIM; d++) {
        // half a pixel beyond the last
        const REAL last = (REAL)(grid[d] - corner[d] - 0.5 * side_of(d));
        inside = coordinate(d, i) <= last ? inside : Pack{};
    }
    return inside;
}
