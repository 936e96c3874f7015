// Bounds of log-gates over boxes, for kernels that may move: tiling.py in C++, in double.
#pragma once
#include "gate.cuh"

// An anchor: the log weight, centre and A from which lists are built, and how far the kernel may
// move while they must hold: in ‖z‖ by a factor and a shift, and in log weight (see drift).
#define ANCHOR (1 + NDIM + LOWER + 3)
#define ALLOWANCE (1 + NDIM + LOWER)
#define ROUNDING 1e-9  // relative error of a bound, far above that of a double

FUNCTION double larger(double a, double b) { return a > b ? a : b; }
FUNCTION double smaller(double a, double b) { return a < b ? a : b; }

// A box of pixel centres: its middle, and half its extent along each axis.
struct Box {
    double middle[NDIM], half[NDIM];
};

FUNCTION void seen_from(const double *anchor, const Box &box, double *middle, double *z) {
    const double *A = anchor + 1 + NDIM;
    UNROLL for (int i = 0; i < NDIM; i++) middle[i] = box.middle[i] - anchor[1 + i];
    UNROLL for (int j = 0; j < NDIM; j++) {
        z[j] = 0;
        UNROLL for (int i = j; i < NDIM; i++) z[j] += A[TRIANGLE(i, j)] * middle[i];
    }
}

FUNCTION double precision_of(const double *A, int i, int j) {
    double precision = 0;
    UNROLL for (int m = 0; m < NDIM; m++)
        if (m <= i && m <= j) precision += A[TRIANGLE(i, m)] * A[TRIANGLE(j, m)];
    return precision;
}

// An upper bound of a log-gate over a box: at the nearest point.
//
// A step of coordinate descent along each axis finds a point y near the minimum of the convex ‖Aᵀy‖²
// over the box; then for any w, ‖z(x)‖ ≥ w·z(x)/‖w‖, which is linear in x; w = Aᵀy makes it tight.
FUNCTION double upper_bound(const double *anchor, const Box &box) {
    const double *A = anchor + 1 + NDIM;
    double middle[NDIM], z[NDIM], point[NDIM], w[NDIM];
    seen_from(anchor, box, middle, z);
    UNROLL for (int i = 0; i < NDIM; i++)
        point[i] = smaller(larger(middle[i] - box.half[i], 0), middle[i] + box.half[i]);
    if (NDIM > 1) {
        UNROLL for (int i = 0; i < NDIM; i++) {
            double rest = 0;
            UNROLL for (int j = 0; j < NDIM; j++)
                if (j != i) rest += precision_of(A, i, j) * point[j];
            rest /= -precision_of(A, i, i);
            point[i] = smaller(larger(rest, middle[i] - box.half[i]), middle[i] + box.half[i]);
        }
    }
    double norm = 0, reach = 0;
    UNROLL for (int j = 0; j < NDIM; j++) {
        w[j] = 0;
        UNROLL for (int i = j; i < NDIM; i++) w[j] += A[TRIANGLE(i, j)] * point[i];
        norm += w[j] * w[j];
        reach += w[j] * z[j];
    }
    UNROLL for (int i = 0; i < NDIM; i++) {
        double along = 0;
        UNROLL for (int j = 0; j <= i; j++) along += A[TRIANGLE(i, j)] * w[j];
        reach -= fabs(along) * box.half[i];
    }
    const double *allowance = anchor + ALLOWANCE;
    double nearest = larger(reach, 0) / larger(sqrt(norm), 1e-300);
    nearest = larger(nearest * (1 - ROUNDING) * (1 - allowance[0]) - allowance[1], 0);
    return anchor[0] + allowance[2] - 0.5 * nearest * nearest;
}

// A lower bound of a log-gate over a box: ‖z‖² in the middle, and the most that half a box can add.
FUNCTION double lower_bound(const double *anchor, const Box &box) {
    const double *A = anchor + 1 + NDIM;
    double middle[NDIM], z[NDIM], farthest = 0;
    seen_from(anchor, box, middle, z);
    UNROLL for (int j = 0; j < NDIM; j++) farthest += z[j] * z[j];
    UNROLL for (int i = 0; i < NDIM; i++) {
        double slope = 0;  // of ‖z‖²/2 along axis i
        UNROLL for (int j = 0; j <= i; j++) slope += A[TRIANGLE(i, j)] * z[j];
        farthest += 2 * box.half[i] * fabs(slope);
        farthest += precision_of(A, i, i) * box.half[i] * box.half[i];
        UNROLL for (int j = 0; j < i; j++)
            farthest += 2 * box.half[i] * box.half[j] * fabs(precision_of(A, j, i));
    }
    const double *allowance = anchor + ALLOWANCE;
    farthest = sqrt(farthest) * (1 + ROUNDING) * (1 + allowance[0]) + allowance[1];
    return anchor[0] - allowance[2] - 0.5 * farthest * farthest;
}

// How far a kernel has moved from its anchor. With z(x) = Aᵀ(x − μ), B = A_nowᵀ A⁻ᵀ and
// d = A_nowᵀ (μ − μ_now), z_now = B z + d: ‖z‖ changes by a factor of at most 1 ± ‖B − I‖, and then
// by at most ± ‖d‖. The third is the change of the log weight.
FUNCTION_ONCE void drift(const double *anchor, const double *record, double *moved) {
    const double *A = anchor + 1 + NDIM, *now = record + 2 + NDIM;
    double inverse[LOWER], relative = 0, shift = 0;
    UNROLL for (int i = 0; i < NDIM; i++) {
        inverse[TRIANGLE(i, i)] = 1 / A[TRIANGLE(i, i)];
        UNROLL for (int j = 0; j < i; j++) {
            double sum = 0;
            UNROLL for (int m = j; m < i; m++)
                sum += A[TRIANGLE(i, m)] * inverse[TRIANGLE(m, j)];
            inverse[TRIANGLE(i, j)] = -sum * inverse[TRIANGLE(i, i)];
        }
    }
    UNROLL for (int j = 0; j < NDIM; j++) {
        double d = 0;
        UNROLL for (int i = j; i < NDIM; i++)
            d += now[TRIANGLE(i, j)] * (anchor[1 + i] - record[2 + i]);
        shift += d * d;
        UNROLL for (int i = 0; i <= j; i++) {  // (i, j) of B: column i of now, row j of A⁻¹
            double element = i == j ? -1 : 0;
            UNROLL for (int m = i; m <= j; m++)
                element += now[TRIANGLE(m, i)] * inverse[TRIANGLE(j, m)];
            relative += element * element;
        }
    }
    moved[0] = sqrt(relative);
    moved[1] = sqrt(shift);
    moved[2] = fabs(record[0] - anchor[0]);
}
