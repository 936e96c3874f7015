// Bounds of log-gates over boxes of pixels, for kernels that may move: the C++ counterpart of
// tiling.py, with the upper bounds in float.
#pragma once
#include "gate.cuh"

// An anchor is a kernel as it was when the lists were built: its log weight, centre and A; then its
// allowance, how far it may move while the lists must hold: relative change of ‖z‖, shift of ‖z‖,
// change of log weight (see drift).
#define ANCHOR (1 + NDIM + LOWER + 3)
#define ALLOWANCE (1 + NDIM + LOWER)
// allowance of a kernel that is listed everywhere and bounds no other, far above any log-gate
#define BOUNDLESS 1e31
// bound on the relative rounding error of a bound in double, with a wide margin
#define ROUNDING 1e-9
#define FINE 1e-6f     // the same for bounds in float, see may_reach

FUNCTION double larger(double a, double b) { return a > b ? a : b; }
FUNCTION double smaller(double a, double b) { return a < b ? a : b; }

// Candidates for the list of a box, stored as a structure of arrays, so that their bounds are
// vectorized: log weight, centre relative to the middle of the parent box, A, A Aᵀ (lower
// triangle), the reciprocals of its diagonal, the allowance. In float, which doubles the vector
// width and is fast on every GPU; may_reach allows for the rounding. CANDIDATES are held at a time.
#define CANDIDATES 128
#define COLUMN (CANDIDATES + 16)  // padded, so that columns do not fall into the same cache sets
#define CANDIDATE_NUMBERS (1 + NDIM + 2 * LOWER + NDIM + 3)
#define OF_A (1 + NDIM)
#define OF_PRECISION (OF_A + LOWER)
#define OF_INVERSE (OF_PRECISION + LOWER)
#define OF_ALLOWANCE (OF_INVERSE + NDIM)
// Largest |entry of A| (1/pixel). A sharper kernel is scaled down to it, which makes it wider, so
// its bound stays valid; its precision times the square of a picture's size stays far below the
// largest float.
#define SHARPEST 1e5
#define NUMBER_OF(candidates, what, j) (float)candidates[(what) * COLUMN + (j)]

FUNCTION float larger_float(float a, float b) { return a > b ? a : b; }
FUNCTION float smaller_float(float a, float b) { return a < b ? a : b; }

template <class Candidates>
FUNCTION void take_candidate(const double *anchor, const double *origin, int j,
                             Candidates &candidates) {
    double sharpest = 0, scale = 1;
    UNROLL for (int e = 0; e < LOWER; e++) sharpest = larger(sharpest, fabs(anchor[1 + NDIM + e]));
    if (sharpest > SHARPEST) scale = SHARPEST / sharpest;
    candidates[j] = (float)anchor[0];
    UNROLL for (int d = 0; d < NDIM; d++)
        candidates[(1 + d) * COLUMN + j] = (float)(anchor[1 + d] - origin[d]);
    UNROLL for (int e = 0; e < LOWER; e++)
        candidates[(OF_A + e) * COLUMN + j] = (float)(anchor[1 + NDIM + e] * scale);
    UNROLL for (int r = 0; r < 3; r++)
        candidates[(OF_ALLOWANCE + r) * COLUMN + j] = (float)anchor[ALLOWANCE + r];
}

#define PADDED(n) (((n) + 15) / 16 * 16)

// padding: a candidate that is never kept
template <class Candidates>
FUNCTION void no_candidate(int j, Candidates &candidates) {
    UNROLL for (int e = 0; e < CANDIDATE_NUMBERS; e++) candidates[e * COLUMN + j] = 0;
    UNROLL for (int i = 0; i < NDIM; i++) candidates[(OF_A + TRIANGLE(i, i)) * COLUMN + j] = 1;
    candidates[j] = (float)DEAD;
}

template <class Candidates>
FUNCTION void complete_candidate(int j, Candidates &candidates) {
    UNROLL for (int i = 0; i < NDIM; i++) {
        UNROLL for (int k = 0; k <= i; k++) {
            float precision = 0;
            UNROLL for (int m = 0; m <= k; m++)
                precision += NUMBER_OF(candidates, OF_A + TRIANGLE(i, m), j) *
                             NUMBER_OF(candidates, OF_A + TRIANGLE(k, m), j);
            candidates[(OF_PRECISION + TRIANGLE(i, k)) * COLUMN + j] = precision;
            if (i == k) candidates[(OF_INVERSE + i) * COLUMN + j] = 1 / precision;
        }
    }
}

// The log-gate of candidate j at the middle of each of PARTS_ parts of a box: the whole box, or its
// CHILDREN, whose middles lie at ± `off` along each axis from the box's middle.
template <int PARTS_, class Candidates, class Gates>
FUNCTION void log_gates_in_parts(Candidates &candidates, int j, const float *middle,
                                 const float *off, Gates &gates) {
    float offset[NDIM], gate = NUMBER_OF(candidates, 0, j), slope[NDIM];
    if (NUMBER_OF(candidates, OF_ALLOWANCE, j) > 1) gate = (float)DEAD;  // as a winner worth nothing
    UNROLL for (int i = 0; i < NDIM; i++) {
        offset[i] = middle[i] - NUMBER_OF(candidates, 1 + i, j);
        slope[i] = 0;
    }
    UNROLL for (int k = 0; k < NDIM; k++) {
        float z = 0;
        UNROLL for (int i = k; i < NDIM; i++)
            z += NUMBER_OF(candidates, OF_A + TRIANGLE(i, k), j) * offset[i];
        gate -= 0.5f * z * z;
        UNROLL for (int i = k; i < NDIM; i++)
            slope[i] -= NUMBER_OF(candidates, OF_A + TRIANGLE(i, k), j) * z;
    }
    if (PARTS_ == 1) {
        gates[j] = gate;
        return;
    }
    UNROLL for (int part = 0; part < PARTS_; part++) {
        float there = gate;
        UNROLL for (int i = 0; i < NDIM; i++) {
            const float step = part >> (NDIM - 1 - i) & 1 ? off[i] : -off[i];
            there += step * slope[i];
            there -= 0.5f * step * step * NUMBER_OF(candidates, OF_PRECISION + TRIANGLE(i, i), j);
            UNROLL for (int k = 0; k < i; k++)
                there -= step * (part >> (NDIM - 1 - k) & 1 ? off[k] : -off[k]) *
                         NUMBER_OF(candidates, OF_PRECISION + TRIANGLE(i, k), j);
        }
        gates[part * COLUMN + j] = there;
    }
}

// Whether the log-gate of candidate j may reach `least` somewhere in a box: its upper bound there,
// from the point nearest to the kernel.
//
// One step of coordinate descent along each axis finds a point y near the minimum of the convex
// ‖Aᵀy‖² over the box. For any w, ‖z(x)‖ ≥ w·z(x)/‖w‖, which is linear in x, so its minimum over
// the box is known; w = Aᵀy makes it tight. A NaN counts as reaching.
//
// Rounding, with ε = 2^−24: the z_k and what half a box adds are wrong by less than 10 ε S, S the
// sum of all |A_ik| (|x|_i + |x − μ|_i + half_i), x and μ from the parent's middle, to which both
// were rounded; and all else by factors within 1 ± 10 ε; FINE is 16 ε.
template <class Candidates>
FUNCTION bool may_reach(Candidates &candidates, int j, const float *middle, const float *half,
                        float least) {
    float seen[NDIM], point[NDIM], extent[NDIM], norm = 0, reach = 0, w[NDIM], size = 0;
    UNROLL for (int i = 0; i < NDIM; i++) {
        seen[i] = middle[i] - NUMBER_OF(candidates, 1 + i, j);
        extent[i] = fabsf(middle[i]) + fabsf(seen[i]) + half[i];
        point[i] = smaller_float(larger_float(seen[i] - half[i], 0), seen[i] + half[i]);
    }
    UNROLL for (int i = 0; i < NDIM && NDIM > 1; i++) {
        float rest = 0;
        UNROLL for (int k = 0; k < NDIM; k++) {
            const int entry = OF_PRECISION + (i > k ? TRIANGLE(i, k) : TRIANGLE(k, i));
            if (k != i) rest -= NUMBER_OF(candidates, entry, j) * point[k];
        }
        rest *= NUMBER_OF(candidates, OF_INVERSE + i, j);
        point[i] = smaller_float(larger_float(rest, seen[i] - half[i]), seen[i] + half[i]);
    }
    UNROLL for (int k = 0; k < NDIM; k++) {
        float z = 0;
        w[k] = 0;
        UNROLL for (int i = k; i < NDIM; i++) {
            const float a = NUMBER_OF(candidates, OF_A + TRIANGLE(i, k), j);
            w[k] += a * point[i];
            z += a * seen[i];
            size += fabsf(a) * extent[i];
        }
        norm += w[k] * w[k];
        reach += w[k] * z;
    }
    UNROLL for (int i = 0; i < NDIM; i++) {
        float along = 0;
        UNROLL for (int k = 0; k <= i; k++)
            along += NUMBER_OF(candidates, OF_A + TRIANGLE(i, k), j) * w[k];
        reach -= fabsf(along) * half[i];
    }
    // ‖z‖ ≥ factor · reach/‖w‖ − shift, and the candidate is dropped if that exceeds √(2 (log
    // weight − least)); compared as squares, which needs no square root and no division
    const float log_weight = NUMBER_OF(candidates, 0, j);
    const float factor = (1 - FINE) * (1 - NUMBER_OF(candidates, OF_ALLOWANCE, j));
    const float room = log_weight + NUMBER_OF(candidates, OF_ALLOWANCE + 2, j) - least +
                       FINE * (fabsf(log_weight) + fabsf(least));
    const float most = (1 + FINE) * (sqrtf(larger_float(2 * room, 0)) +
                                     NUMBER_OF(candidates, OF_ALLOWANCE + 1, j)) + FINE * size;
    reach = larger_float(reach, 0) * larger_float(factor, 0);
    return (room >= 0) & ((room > 1e30f) | !(reach * reach > most * most * norm));
}

// A lower bound of a log-gate over a box: ‖z‖² at the middle plus the most that moving by half the
// box can add, corrected for the allowance.
FUNCTION double lower_bound(const double *anchor, const double *middle, const double *half) {
    const double *A = anchor + 1 + NDIM, *allowance = anchor + ALLOWANCE;
    double z[NDIM], farthest = 0;
    UNROLL for (int k = 0; k < NDIM; k++) {
        z[k] = 0;
        UNROLL for (int i = k; i < NDIM; i++)
            z[k] += A[TRIANGLE(i, k)] * (middle[i] - anchor[1 + i]);
        farthest += z[k] * z[k];
    }
    UNROLL for (int i = 0; i < NDIM; i++) {
        double slope = 0;  // of ‖z‖²/2 along axis i
        UNROLL for (int k = 0; k <= i; k++) slope += A[TRIANGLE(i, k)] * z[k];
        farthest += 2 * half[i] * fabs(slope);
        UNROLL for (int k = 0; k <= i; k++) {
            double precision = 0;
            UNROLL for (int m = 0; m <= k; m++) precision += A[TRIANGLE(i, m)] * A[TRIANGLE(k, m)];
            farthest += (i == k ? 1 : 2) * half[i] * half[k] * fabs(precision);
        }
    }
    farthest = sqrt(farthest) * (1 + ROUNDING) * (1 + allowance[0]) + allowance[1];
    return anchor[0] - allowance[2] - 0.5 * farthest * farthest;
}

// How far a kernel has moved from its anchor. With z(x) = Aᵀ(x − μ), B = A_nowᵀ A⁻ᵀ and
// d = A_nowᵀ (μ − μ_now), z_now = B z + d: ‖z‖ changes by a factor of at most 1 ± ‖B − I‖, and then
// by at most ± ‖d‖. The third is the change of the log weight.
FUNCTION_ONCE void drift(const double *anchor, const double *record, double *moved) {
    const double *A = anchor + 1 + NDIM, *now = record + OF_STEERING;
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
            d += now[TRIANGLE(i, j)] * (anchor[1 + i] - record[OF_CENTRE + i]);
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

// Whether the lists still hold for a kernel that has moved by `moved` (see drift).
FUNCTION bool still_holds(const double *anchor, const double *moved) {
    bool holds = true;
    UNROLL for (int r = 0; r < 3; r++) holds = holds && moved[r] <= anchor[ALLOWANCE + r];
    return holds;
}
