// Pair lists: for each tile the kernels that matter, and for each kernel its pairs.
//
// A kernel is listed for a tile unless its log-gate is everywhere at least tau below a lower bound
// of the winner's. The lists are found by descending a tree of boxes, which halve at every level. All
// kernels here do nothing unless lists are to be built.
#include "bounds.cuh"
#include "control.cuh"

#define LIST_THREADS 256
#define PACE_KERNELS 256  // kernels of the model to a block
#define FADING 0.7        // of an earlier, faster motion is remembered at each build
#define REACH 5.0         // ‖z‖ beyond which a kernel usually matters no longer
#define BUILD 0.5         // iterations that building lists costs
#define LONGEST 20.0      // steps that lists are meant to last at most
#define WEAK 0.5          // see allowance_of
CONSTANT double LEAST[3] = {0.03, 0.15, 0.15};
CONSTANT double MOST[3] = {0.5, 10, 10};

// The motion of kernels a step, and sums over PACE_KERNELS of them: of that motion, of log weights
// and of kernels that live.
KERNEL(pace, LIST_THREADS, const int *control, const double *records, const double *moved,
       double *rates, double *sums, int K)
{
    if (!BUILDS_LISTS(control)) return;
    SHARED(double, part, 5 * LIST_THREADS);
    const double age = control[AGE] > 0 ? control[AGE] : 1;
    const int first = BLOCK * PACE_KERNELS;
    const int last = first + PACE_KERNELS < K ? first + PACE_KERNELS : K;
    FOR_THREADS(t) {
        double sum[5] = {0, 0, 0, 0, 0};
        STRIDED(k, first + t, last) {
            if (records[(long long)k * RECORD] == DEAD) continue;
            UNROLL for (int r = 0; r < 3; r++) {
                const double now = moved[3 * (long long)k + r] / age;
                double &rate = rates[3 * (long long)k + r];
                rate = larger(now, FADING * rate);
                sum[r] += smaller(rate, MOST[r]);
            }
            sum[3] += records[(long long)k * RECORD];
            sum[4] += 1;
        }
        UNROLL for (int s = 0; s < 5; s++) part[s * THREADS + t] = sum[s];
    }
    BARRIER;
    FOR_EACH_PLAIN(s, 5) {
        double sum = 0;
        for (int t = 0; t < THREADS; t++) sum += part[s * THREADS + t];
        sums[5 * BLOCK + s] = sum;
    }
}

// How long lists are to last. If kernels move by m a step (in ‖z‖, where they stop to matter), lists
// that last h steps are longer by a factor of about (1 + 2 h m/REACH)², and cost BUILD/h iterations
// a step to build: the sum is least near h = √(BUILD · REACH/4m); below 2, lists for every step are
// best.
KERNEL(plan, LIST_THREADS, const int *control, const double *sums, int blocks, double *state)
{
    if (!BUILDS_LISTS(control)) return;
    SHARED(double, part, 5 * LIST_THREADS);
    FOR_THREADS(t) {
        UNROLL for (int s = 0; s < 5; s++) {
            double sum = 0;
            STRIDED(b, t, blocks) sum += sums[5 * b + s];
            part[s * THREADS + t] = sum;
        }
    }
    BARRIER;
    ONE_THREAD {
        double mean[5];
        UNROLL for (int s = 0; s < 5; s++) {
            mean[s] = 0;
            for (int t = 0; t < THREADS; t++) mean[s] += part[s * THREADS + t];
        }
        const double alive = larger(mean[4], 1);
        const double motion = (mean[1] + REACH * mean[0]) / alive;
        double steps = smaller(sqrt(BUILD * REACH / 4 / larger(motion, 1e-9)), LONGEST);
        UNROLL for (int r = 0; r < 3; r++)
            if (steps * mean[r] / alive + LEAST[r] > MOST[r]) steps = 0;
        state[HORIZON] = steps < 2 ? 0 : steps;
        state[USUAL_WEIGHT] = mean[3] / alive;
    }
}

// The kernels as they are become what lists are built from. Each may move as far as it is expected
// to; weak ones may also gain weight, as they come and go quickly and reach too little to cost much.
KERNEL(anchor, LIST_THREADS, const int *control, const double *records, const REAL *params,
       const double *rates, const double *state, double *anchors, REAL *anchor_rows, double *moved,
       int *wins, int K)
{
    if (!BUILDS_LISTS(control)) return;
    const double steps = state[HORIZON];
    FOR_EACH_PLAIN(j, LIST_THREADS) {
        const long long k = (long long)BLOCK * LIST_THREADS + j;
        if (k < K) {
            const double *record = records + k * RECORD;
            double *to = anchors + k * ANCHOR;
            to[0] = record[0];
            UNROLL for (int e = 0; e < NDIM + LOWER; e++) to[1 + e] = record[2 + e];
            UNROLL for (int r = 0; r < 3; r++) {
                to[ALLOWANCE + r] = steps > 0 ? steps * rates[3 * k + r] + LEAST[r] : 0;
                moved[3 * k + r] = 0;
            }
            if (steps > 0) to[ALLOWANCE + 2] += WEAK * larger(state[USUAL_WEIGHT] - record[0], 0);
            if (record[0] == DEAD) to[ALLOWANCE + 2] = 0;
            UNROLL for (int e = 0; e < AT_EXPERT; e++)
                anchor_rows[k * AT_EXPERT + e] = params[k * WIDTH + e];
            wins[k] = 0;
        }
    }
}

// Box b of a level of the tree: which kernels of its parent's list it keeps.
KERNEL(bound, LIST_THREADS, const int *control, const double *settings, const int *grid, int level,
       const double *anchors, const int *parent_start, const int *parent_list, unsigned char *keep,
       int *counts, int *winners, int *wins)
{
    if (!BUILDS_LISTS(control)) return;
    SHARED(double, bests, LIST_THREADS);
    SHARED(int, firsts, LIST_THREADS);
    SHARED(int, kept, LIST_THREADS);
    Box box;
    int rest = BLOCK, parent = 0, child = 0, corner[NDIM];
    UNROLL for (int d = NDIM - 1; d >= 0; d--) {
        const int boxes = (grid[NDIM + d] + (1 << level) - 1) >> level;
        corner[d] = rest % boxes;
        rest /= boxes;
    }
    UNROLL for (int d = 0; d < NDIM; d++) {
        const int parents = (grid[NDIM + d] + (2 << level) - 1) >> (level + 1);
        parent = parent * parents + (corner[d] >> 1);
        child = 2 * child + (corner[d] & 1);
        const double low = (double)corner[d] * (SIDE << level) + 0.5;
        const double high = smaller((corner[d] + 1.0) * (SIDE << level), grid[d]) - 0.5;
        box.middle[d] = 0.5 * (low + high);
        box.half[d] = 0.5 * (high - low);
    }
    const int first = parent_start[parent], n = parent_start[parent + 1] - first;
    const int *list = parent_list + first;
    unsigned char *kept_here = keep + ((long long)first * CHILDREN + (long long)child * n);

    FOR_THREADS(t) {
        double best = -1e300;
        STRIDED_MAX(j, t, n, best) {
            const double lower = lower_bound(anchors + (long long)list[j] * ANCHOR, box);
            best = best > lower ? best : lower;
        }
        bests[t] = best;
    }
    BARRIER;
    double best = bests[0];
    for (int t = 1; t < THREADS; t++) best = larger(best, bests[t]);
    const double least = control[SIGNED] ? -1e300 : best - settings[TAU];
    FOR_THREADS(t) {
        int count = 0;
        STRIDED_SUM(j, t, n, count) {
            const bool keeps = upper_bound(anchors + (long long)list[j] * ANCHOR, box) >= least;
            kept_here[j] = keeps;
            count += keeps;
        }
        kept[t] = count;
    }
    if (level == 0) {
        const double nearly = best - 1e-9 * (1 + fabs(best));
        FOR_THREADS(t) {
            int at = n;
            STRIDED(j, t, n) {
                if (lower_bound(anchors + (long long)list[j] * ANCHOR, box) >= nearly) {
                    at = j;
                    break;
                }
            }
            firsts[t] = at;
        }
    }
    BARRIER;
    ONE_THREAD {
        int count = 0, at = n;
        for (int t = 0; t < THREADS; t++) count += kept[t];
        counts[BLOCK] = count;
        if (level == 0) {
            for (int t = 0; t < THREADS; t++) at = at < firsts[t] ? at : firsts[t];
            winners[BLOCK] = list[at];
            wins[list[at]] = 1;
        }
    }
}

// Where each of n runs starts; run n, which is none, starts where the last one ends.
KERNEL(scan, LIST_THREADS, int *control, const int *counts, int *starts, int n, int capacity,
       int which)
{
    if (!BUILDS_LISTS(control)) return;
    SHARED(long long, sums, LIST_THREADS);
    const int each = (n + THREADS - 1) / THREADS;
    FOR_THREADS(t) {
        long long sum = 0;
        for (int i = t * each; i < n && i < (t + 1) * each; i++) sum += counts[i];
        sums[t] = sum;
    }
    BARRIER;
    FOR_THREADS(t) {
        long long sum = 0;
        for (int s = 0; s < t; s++) sum += sums[s];
        for (int i = t * each; i < n && i < (t + 1) * each; i++) {
            starts[i] = (int)smaller(sum, capacity);
            sum += counts[i];
        }
        if (t == THREADS - 1) {
            starts[n] = (int)smaller(sum, capacity);
            if (sum > capacity) {
                control[HALT] = TOO_SHORT;
                control[NEEDED + which] = (int)smaller(sum, 2147483647);
            }
        }
    }
}

// The list of each box: what it keeps of its parent's, in the same order. At level 0 pairs are
// numbered, in any order, among those of their kernel.
KERNEL(fill, LIST_THREADS, const int *control, const int *grid, int level, const int *parent_start,
       const int *parent_list, const unsigned char *keep, const int *starts, int *list,
       int *pairs_of_kernel, int *number)
{
    if (!BUILDS_LISTS(control)) return;
    SHARED(int, counts, LIST_THREADS);
    int rest = BLOCK, parent = 0, child = 0, corner[NDIM];
    UNROLL for (int d = NDIM - 1; d >= 0; d--) {
        const int boxes = (grid[NDIM + d] + (1 << level) - 1) >> level;
        corner[d] = rest % boxes;
        rest /= boxes;
    }
    UNROLL for (int d = 0; d < NDIM; d++) {
        const int parents = (grid[NDIM + d] + (2 << level) - 1) >> (level + 1);
        parent = parent * parents + (corner[d] >> 1);
        child = 2 * child + (corner[d] & 1);
    }
    const int first = parent_start[parent], n = parent_start[parent + 1] - first;
    const unsigned char *kept_here = keep + ((long long)first * CHILDREN + (long long)child * n);
    const int each = (n + THREADS - 1) / THREADS;
    FOR_THREADS(t) {
        int count = 0;
        for (int j = t * each; j < n && j < (t + 1) * each; j++) count += kept_here[j];
        counts[t] = count;
    }
    BARRIER;
    FOR_THREADS(t) {
        int at = starts[BLOCK];
        for (int s = 0; s < t; s++) at += counts[s];
        for (int j = t * each; j < n && j < (t + 1) * each; j++) {
            if (!kept_here[j]) continue;
            const int k = parent_list[first + j];
            list[at] = k;
            if (level == 0) number[at] = ATOMIC_ADD(pairs_of_kernel + k, 1);
            at++;
        }
    }
}

// The pairs of each kernel, in any order.
KERNEL(place, LIST_THREADS, const int *control, const int *list, const int *number, int tiles,
       const int *start, const int *first_of_kernel, int *pairs)
{
    if (!BUILDS_LISTS(control)) return;
    FOR_EACH_PLAIN(j, LIST_THREADS) {
        const int pair = BLOCK * LIST_THREADS + j;
        if (pair < start[tiles]) pairs[first_of_kernel[list[pair]] + number[pair]] = pair;
    }
}

// The pairs of each kernel in ascending order: bitonic sorting in which the smaller one always goes
// first, so that what lies beyond the end counts as largest and need not be there.
KERNEL(arrange, 32, const int *control, const int *first_of_kernel, int *pairs,
       int *pairs_of_kernel)
{
    if (!BUILDS_LISTS(control)) return;
    SHARED(int, unsorted, 1);
    int *run = pairs + first_of_kernel[BLOCK];
    const int n = first_of_kernel[BLOCK + 1] - first_of_kernel[BLOCK];
    ONE_THREAD {
        unsorted[0] = 0;
        pairs_of_kernel[BLOCK] = 0;  // for the next time
    }
    BARRIER;
    FOR_THREADS(t) {
        int falls = 0;
        STRIDED(j, t, n - 1) falls += run[j] > run[j + 1];
        if (falls) MARK(unsorted[0]);
    }
    BARRIER;
    if (!unsorted[0]) return;
    for (int size = 2; size / 2 < n; size *= 2) {
        for (int step = size / 2; step > 0; step /= 2) {
            FOR_EACH_PLAIN(j, n) {
                const int other = step == size / 2 ? j ^ (size - 1) : j ^ step;
                if (other > j && other < n && run[j] > run[other]) {
                    const int smaller = run[other];
                    run[other] = run[j];
                    run[j] = smaller;
                }
            }
            BARRIER;
        }
    }
}

// Lists hold from now on.
KERNEL(settle, 32, int *control)
{
    if (!BUILDS_LISTS(control)) return;
    ONE_THREAD {
        control[STALE] = 0;
        control[AGE] = 0;
        control[BUILDS] += 1;
    }
}
