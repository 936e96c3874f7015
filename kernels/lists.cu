// Pair lists: for each tile the kernels that matter there, and for each kernel the rows of its
// sums.
//
// A kernel is listed for a tile unless its log-gate is everywhere at least tau below a lower bound
// of the winner's, the largest log-gate (see tiling.py). The lists are found by descending a tree
// of boxes, which halve along each axis at every level. Everything here does nothing unless lists
// are to be built.
#include "bounds.cuh"
#include "control.cuh"

#define LIST_THREADS 256
#define PACE_SUMS 6       // sums of `pace`
#define FAST 0.25         // relative change of ‖z‖ per step, beyond which a kernel is fast ...
#define MOST_FAST 8       // ... and the most fast kernels that may be listed everywhere
#define FADING 0.7        // fraction of an earlier, faster motion that is kept at each build
#define REACH 5.0         // ‖z‖ beyond which a kernel usually no longer matters
#define LONGEST 20        // most steps that lists are planned to last
#define NOTHING -1e37f    // below every log-gate; finite in float
#define SAMPLE 256        // least size of the sample that gives a large box its winner: see bound
#define FEW_ROWS 512      // up to so many rows of a kernel are sorted by counting: see arrange
// extra allowance of a weak kernel, as a fraction of its distance below the mean log weight
#define WEAK 0.5
// Allowances: relative change of ‖z‖, shift of ‖z‖, change of log weight (see drift).
CONSTANT double LEAST[3] = {0.03, 0.15, 0.15};  // what every kernel gets besides its motion
// largest mean over all kernels, beyond which bounds say little
CONSTANT double MOST[3] = {0.5, 10, 10};
// largest of any kernel that is not to be listed everywhere
CONSTANT double FURTHEST[3] = {0.9, 10, 10};

// The motion of each kernel per step, into `rates`; and for each LIST_THREADS kernels the sums of
// that motion (limited to MOST), of log weights, and the number of living kernels.
KERNEL(pace, LIST_THREADS, const int *control, const double *records, const double *moved,
       double *rates, double *sums, int K)
{
    if (!BUILDS_LISTS(control)) return;
    SHARED(double, part, PACE_SUMS * LIST_THREADS);
    const double age = control[AGE] > 0 ? control[AGE] : 1;
    const int first = BLOCK * LIST_THREADS;
    const int last = first + LIST_THREADS < K ? first + LIST_THREADS : K;
    FOR_THREADS(t) {
        double sum[PACE_SUMS] = {};
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
            sum[5] += rates[3 * (long long)k] > FAST;
        }
        UNROLL for (int s = 0; s < PACE_SUMS; s++) part[s * THREADS + t] = sum[s];
    }
    BARRIER;
    FOR_EACH_PLAIN(s, PACE_SUMS) {
        double sum = 0;
        for (int t = 0; t < THREADS; t++) sum += part[s * THREADS + t];
        sums[PACE_SUMS * BLOCK + s] = sum;
    }
}

// How many steps the lists are to last, into state[HORIZON]; 0: one step, without allowances. If
// kernels move by m a step (in ‖z‖, at the edge of their reach), lists that last h steps are longer
// by a factor of about (1 + 2 h m/REACH)^D. Each pair more costs settings[LISTED] of a pair at every
// step, and building costs settings[BUILD]/h steps per step. Lists for one step need no allowance,
// unless they may be used when they no longer hold.
KERNEL(plan, LIST_THREADS, const int *control, const double *sums, int blocks,
       const double *settings, double *state)
{
    if (!BUILDS_LISTS(control)) return;
    SHARED(double, part, PACE_SUMS * LIST_THREADS);
    FOR_THREADS(t) {
        UNROLL for (int s = 0; s < PACE_SUMS; s++) {
            double sum = 0;
            STRIDED(b, t, blocks) sum += sums[PACE_SUMS * b + s];
            part[s * THREADS + t] = sum;
        }
    }
    BARRIER;
    ONE_THREAD {
        double mean[PACE_SUMS];
        UNROLL for (int s = 0; s < PACE_SUMS; s++) {
            mean[s] = 0;
            for (int t = 0; t < THREADS && t < blocks; t++) mean[s] += part[s * THREADS + t];
        }
        const double alive = larger(mean[4], 1);
        const double motion = (mean[1] + REACH * mean[0]) / alive;
        const bool for_each_step = settings[LEAST_LIFE] < 2;
        const double build = settings[BUILD], listed = settings[LISTED];
        double steps = 0, least_cost = for_each_step ? 1 + build : 1e300;
        for (int h = for_each_step ? 2 : 1; h <= LONGEST; h++) {
            double longer = 1;
            UNROLL for (int d = 0; d < NDIM; d++) longer *= 1 + 2 * h * motion / REACH;
            const double cost = 1 + listed * (longer - 1) + build / h;
            bool allowed = true;
            UNROLL for (int r = 0; r < 3; r++)
                allowed = allowed && h * mean[r] / alive + LEAST[r] <= MOST[r];
            if (allowed && cost < least_cost) least_cost = cost, steps = h;
        }
        state[HORIZON] = steps;
        state[USUAL_WEIGHT] = mean[3] / alive;
        state[FEW_ARE_FAST] = for_each_step && steps > 0 && mean[5] <= MOST_FAST;
    }
}

// The current kernels become the anchors from which lists are built. Each gets its expected motion
// over the planned steps as allowance. Weak kernels may also gain more weight, as they come and go
// quickly and reach too little to cost much. Fast kernels, such as one whose A_dd is nearly 0, would
// outrun any allowance within a step, and with it all lists: while they are few, each is BOUNDLESS,
// listed everywhere, so that lists hold whatever it does. Not where lists are used for some steps
// even if they no longer hold: that is cheaper still.
KERNEL(anchor, LIST_THREADS, const int *control, const double *records, const double *rates,
       const double *state, double *anchors, double *moved, int *wins, int K)
{
    if (!BUILDS_LISTS(control)) return;
    const double steps = state[HORIZON];
    FOR_EACH_PLAIN(j, LIST_THREADS) {
        const long long k = (long long)BLOCK * LIST_THREADS + j;
        if (k < K) {
            const double *record = records + k * RECORD;
            double *to = anchors + k * ANCHOR;
            to[0] = record[0];
            UNROLL for (int d = 0; d < NDIM; d++) to[1 + d] = record[OF_CENTRE + d];
            UNROLL for (int e = 0; e < LOWER; e++) to[1 + NDIM + e] = record[OF_STEERING + e];
            UNROLL for (int r = 0; r < 3; r++) {
                const double expected = smaller(steps * rates[3 * k + r] + LEAST[r], FURTHEST[r]);
                to[ALLOWANCE + r] = steps > 0 ? expected : ROUNDING;
            }
            if (steps > 0) to[ALLOWANCE + 2] += WEAK * larger(state[USUAL_WEIGHT] - record[0], 0);
            if (state[FEW_ARE_FAST] && rates[3 * k] > FAST) {
                UNROLL for (int r = 0; r < 3; r++) to[ALLOWANCE + r] = BOUNDLESS;
            }
            if (record[0] == DEAD)
                to[ALLOWANCE + 2] = 0;
            else {
                // 0 except for rounding, which is much where A is nearly singular
                drift(to, record, moved + 3 * k);
                UNROLL for (int r = 0; r < 3; r++)
                    to[ALLOWANCE + r] = larger(to[ALLOWANCE + r], moved[3 * k + r]);
            }
            wins[k] = 0;
        }
    }
}

// The box of pixel centres of a box of tiles: its middle, and half its extent along each axis, in
// pixels.
FUNCTION void extent_of_box(const int *grid, int level, const int *corner, double *middle,
                            double *half) {
    UNROLL for (int d = 0; d < NDIM; d++) {
        const double side = (double)side_of(d) * (1 << level);
        const double low = corner[d] * side + 0.5;
        const double high = smaller((corner[d] + 1.0) * side, grid[d]) - 0.5;
        middle[d] = 0.5 * (low + high);
        half[d] = 0.5 * (high - low);
    }
}

FUNCTION int boxes_of_level(const int *grid, int level) {
    int boxes = 1;
    UNROLL for (int d = 0; d < NDIM; d++) boxes *= boxes_along(grid, level, d);
    return boxes;
}

// The distance of the middles of a box's halves from its own middle, along each axis, and half the
// extent of a half, in pixels: the halves together contain all its pixel centres.
FUNCTION void halves_of_box(const double *half, double *off, double *half_of_half) {
    UNROLL for (int d = 0; d < NDIM; d++) {
        // the middle lies between two pixel centres
        const double spare = (int)(2 * half[d] + 1.5) % 2 ? 0 : 0.25;
        off[d] = 0.5 * half[d] + spare;
        half_of_half[d] = 0.5 * half[d] - spare;
    }
}

// Child number `child` of a box: sets its index along each axis, and returns its number, or −1 if
// there is none. `level` is the child's.
FUNCTION int child_of_box(const int *grid, int level, const int *parent, int child, int *corner) {
    UNROLL for (int d = 0; d < NDIM; d++)
        corner[d] = 2 * parent[d] + (child >> (NDIM - 1 - d) & 1);
    return number_of_box(grid, level, corner);
}

// Lower bounds from the previous lists: each tile remembers its winner when lists were last built,
// or −1. However that kernel has changed, its log-gate over the tile bounds that of the current
// winner from below. `lower` gets for each box of level 1 the least of these bounds over its tiles;
// each tile uses its own remembered winner or its neighbour's in the box, whichever bounds better.
KERNEL(recall, LIST_THREADS, const int *control, const int *grid, int boxes, const double *anchors,
       const int *winners, int *remembered, double *lower, int *wins)
{
    if (!BUILDS_LISTS(control)) return;
    FOR_EACH_PLAIN(j, LIST_THREADS) {
        const int box = BLOCK * LIST_THREADS + j;
        int corner[NDIM], tile_at[NDIM], tiles[CHILDREN], number = 0;
        double least = 1e300;
        if (box < boxes) place_of_box(grid, 1, box, corner);
        for (int child = 0; box < boxes && child < CHILDREN; child++) {
            const int tile = child_of_box(grid, 0, corner, child, tile_at);
            if (tile >= 0) tiles[number++] = tile;
        }
        for (int n = 0; n < number; n++) {
            double middle[NDIM], half[NDIM], here = NOTHING;
            int best = -1;
            remembered[tiles[n]] = winners[tiles[n]];
            place_of_box(grid, 0, tiles[n], tile_at);
            extent_of_box(grid, 0, tile_at, middle, half);
            for (int next = n; next < n + 2; next++) {
                const int winner = winners[tiles[next % number]];
                if (winner < 0) continue;
                const double bound =
                    lower_bound(anchors + (long long)winner * ANCHOR, middle, half);
                if (bound > here) best = winner, here = bound;  // written so that NaN loses
            }
            if (best >= 0) wins[best] = 1;
            least = smaller(least, here);
        }
        if (box < boxes) lower[box] = least;
    }
}

// The same for the boxes of all higher levels, level by level: the least bound of their children.
KERNEL(lift, LIST_THREADS, const int *control, const int *grid, int levels, double *lower)
{
    if (!BUILDS_LISTS(control)) return;
    WATCHED(double, all, lower);
    int below = 0, here = boxes_of_level(grid, 1);
    for (int level = 2; level < levels; level++) {
        const int boxes = boxes_of_level(grid, level);
        FOR_EACH_PLAIN(box, boxes) {
            int corner[NDIM], at[NDIM];
            double least = 1e300;
            place_of_box(grid, level, box, corner);
            for (int child = 0; child < CHILDREN; child++) {
                const int number = child_of_box(grid, level - 1, corner, child, at);
                if (number >= 0) least = smaller(least, (double)all[below + number]);
            }
            all[here + box] = least;
        }
        BARRIER;
        below = here;
        here += boxes;
    }
}

// Index of the first of `things` that belongs to a share, where they are divided evenly among
// `shares`.
FUNCTION int first_of_share(int things, int share, int shares) {
    return (int)((long long)things * share / shares);
}

// The list of a box: `all` entries from `begin` on; and one of its `shares`: n entries from `first`
// on. Where the boxes of a level were processed in shares, each box has `entries` consecutive runs.
struct Part {
    int begin, all, first, n;
};

FUNCTION Part part_of_list(const int *starts, int entries, int box, int share, int shares) {
    const int begin = starts[box * entries], all = starts[(box + 1) * entries] - begin;
    const int first = first_of_share(all, share, shares);
    return {begin, all, begin + first, first_of_share(all, share + 1, shares) - first};
}

// A child of a box, in coordinates relative to the middle `origin` of its parent, as candidates
// are.
struct Child {
    int number;  // −1: there is none
    float middle[NDIM], half[NDIM], off[NDIM];  // off: see halves_of_box
};

FUNCTION Child child_from(const int *grid, int level, const int *parent, const double *origin,
                          int child) {
    Child seen = {};
    int corner[NDIM];
    double middle[NDIM], half[NDIM], off[NDIM], half_of_part[NDIM];
    seen.number = child_of_box(grid, level, parent, child, corner);
    if (seen.number < 0) return seen;
    extent_of_box(grid, level, corner, middle, half);
    halves_of_box(half, off, half_of_part);
    UNROLL for (int d = 0; d < NDIM; d++) {
        seen.middle[d] = (float)(middle[d] - origin[d]);
        seen.half[d] = (float)half[d];
        seen.off[d] = (float)off[d];
    }
    return seen;
}

// Load `count` candidates, every stride-th entry of a list. No BARRIER: each thread reads only its
// own.
template <class Candidates>
FUNCTION void take_candidates(const double *anchors, const int *list, int stride, int count,
                              const double *origin, Candidates &candidates) {
    FOR_EACH_PLAIN(j, count)
        take_candidate(anchors + (long long)list[j * stride] * ANCHOR, origin, j, candidates);
    FOR_THREADS(t) STRIDED(j, count + t, PADDED(count)) no_candidate(j, candidates);
    FOR_EACH_PADDED(j, count) complete_candidate(j, candidates);
}

// For each part of a child, the candidate with the largest log-gate at its middle, if that is
// larger than the best so far, into best_gate and best_of, from the child's `first_part` on. Of
// equal ones the first, which is the kernel of the smallest number, as lists ascend.
template <int PARTS_, class Candidates, class Gates, class Bests, class Found, class BestGate,
          class BestOf>
FUNCTION void find_winners(Candidates &candidates, int count, const Child &seen, const int *list,
                           int stride, int first_part, Gates &gates, Bests &bests, Found &found,
                           BestGate &best_gate, BestOf &best_of) {
    FOR_EACH_PADDED(j, count)
        log_gates_in_parts<PARTS_>(candidates, j, seen.middle, seen.off, gates);
    FOR_THREADS(t) {
        for (int part = 0; part < PARTS_ && t < count; part++) {
            float best = NOTHING;
            int at = count - 1;
            STRIDED_MAX(j, t, count, best)
                best = larger_float(best, (float)gates[part * COLUMN + j]);
            STRIDED_MIN(j, t, count, at)
                at = (float)gates[part * COLUMN + j] == best && j < at ? j : at;
            bests[part * CANDIDATES + t] = best;
            found[part * CANDIDATES + t] = at;
        }
    }
    BARRIER;
    FOR_EACH_PLAIN(part, PARTS_) {
        float best = NOTHING;
        int at = count - 1;
        for (int t = 0; t < THREADS && t < count; t++) {  // without a branch, for one thread does it
            const float here = bests[part * CANDIDATES + t];
            const int there = found[part * CANDIDATES + t];
            const bool wins = (here > best) | ((here == best) & (there < at));
            best = wins ? here : best;
            at = wins ? there : at;
        }
        const int e = first_part + part, k = list[at * stride];
        const float so_far = best_gate[e];
        if (best > so_far || (best == so_far && k < best_of[e])) {
            best_gate[e] = best;
            best_of[e] = k;
        }
    }
    BARRIER;
}

// Lower bounds of the log-gates of the winners: over their whole child, and over their part of it.
template <class BestOf, class Lower>
FUNCTION void bound_winners(const int *grid, int level, int parts, const int *parent,
                            const double *anchors, BestOf &best_of, Lower &lower,
                            Lower &lower_in_part) {
    FOR_EACH_PLAIN(e, CHILDREN * parts) {
        const int part = e % parts;
        int corner[NDIM];
        double middle[NDIM], half[NDIM], off[NDIM], half_of_part[NDIM], of_part[NDIM];
        child_of_box(grid, level, parent, e / parts, corner);
        extent_of_box(grid, level, corner, middle, half);
        halves_of_box(half, off, half_of_part);
        UNROLL for (int d = 0; d < NDIM; d++)
            of_part[d] = middle[d] + (part >> (NDIM - 1 - d) & 1 ? off[d] : -off[d]);
        const double *winner = anchors + (long long)best_of[e] * ANCHOR;
        lower[e] = lower_bound(winner, middle, half);
        const double in_part =
            parts > 1 ? lower_bound(winner, of_part, half_of_part) : (double)lower[e];
        lower_in_part[e] = in_part == in_part ? in_part : NOTHING;  // NaN: no bound
    }
    BARRIER;
}

// Which candidates may reach `enough` somewhere in a child, as flags into `kept_here`; their number
// is added to kept[child].
template <class Candidates, class Keeps, class Found, class Kept>
FUNCTION void keep_candidates(Candidates &candidates, int count, const Child &seen, float enough,
                              unsigned char *kept_here, Keeps &keeps, Found &found, int child,
                              Kept &kept) {
    FOR_EACH_PADDED(j, count)
        keeps[j] = may_reach(candidates, j, seen.middle, seen.half, enough);
    FOR_THREADS(t) {
        int sum = 0;
        STRIDED_SUM(j, t, count, sum) {
            kept_here[j] = (unsigned char)keeps[j];
            sum += keeps[j];
        }
        if (t < count) found[t] = sum;
    }
    BARRIER;
    ONE_THREAD {
        int sum = kept[child];
        for (int t = 0; t < THREADS && t < count; t++) sum += found[t];
        kept[child] = sum;
    }
    BARRIER;
}

// One block per share of a box of level + 1, the parent: which kernels of the share of its list
// each child keeps. A child's threshold is a lower bound of the log-gate of its winner, the kernel
// with the largest log-gate at its middle, less tau; above level 0, the bound `recalled` from the
// previous lists is used where that is higher. Tiles (level 0), whose parents are not shared, have
// a winner in each of their parts, and the weakest of these sets the threshold.
KERNEL(bound, LIST_THREADS, const int *control, const double *settings, const int *grid, int level,
       int shares, const double *anchors, const int *parent_start, int parent_entries,
       const int *parent_list, const double *recalled, unsigned char *keep, int *counts,
       int *winners, int *wins)
{
    if (!BUILDS_LISTS(control)) return;
    SHARED(float, candidates, CANDIDATE_NUMBERS * COLUMN);
    SHARED(float, gates, CHILDREN * COLUMN);
    SHARED(float, bests, CHILDREN * CANDIDATES);
    SHARED(int, found, CHILDREN * CANDIDATES);
    SHARED(float, best_gate, CHILDREN * CHILDREN);
    SHARED(int, best_of, CHILDREN * CHILDREN);
    SHARED(double, lower_in_part, CHILDREN * CHILDREN);
    SHARED(double, lower, CHILDREN * CHILDREN);
    SHARED(int, kept, CHILDREN);
    SHARED(int, keeps, CANDIDATES);
    int parent[NDIM];
    double origin[NDIM], parent_half[NDIM];
    const int share = BLOCK % shares;
    place_of_box(grid, level + 1, BLOCK / shares, parent);
    extent_of_box(grid, level + 1, parent, origin, parent_half);
    const Part own = part_of_list(parent_start, parent_entries, BLOCK / shares, share, shares);
    const int first = own.first, n = own.n, all = own.all;
    const int *list = parent_list + first, *whole = parent_list + own.begin;
    const int parts = level == 0 ? CHILDREN : 1;
    FOR_EACH_PLAIN(child, CHILDREN) kept[child] = 0;
    FOR_EACH_PLAIN(e, CHILDREN * parts) {
        best_gate[e] = NOTHING;
        best_of[e] = all > 0 ? whole[0] : 0;  // kernels may be too narrow for any finite log-gate
    }
    // among many kernels of a large box, the winner of a sample is good enough
    const int stride = level > 0 && all > SAMPLE ? all / SAMPLE : 1;
    const int looked_at = (all + stride - 1) / stride, most = CANDIDATES;
    for (int from = 0; from < looked_at; from += most) {
        const int count = least_int(most, looked_at - from);
        const int *some = whole + from * stride;
        take_candidates(anchors, some, stride, count, origin, candidates);
        for (int child = 0; child < CHILDREN; child++) {
            const Child seen = child_from(grid, level, parent, origin, child);
            if (seen.number < 0) continue;
            if (parts > 1)
                find_winners<CHILDREN>(candidates, count, seen, some, stride, child * parts, gates,
                                       bests, found, best_gate, best_of);
            else
                find_winners<1>(candidates, count, seen, some, stride, child, gates, bests, found,
                                best_gate, best_of);
        }
    }
    bound_winners(grid, level, parts, parent, anchors, best_of, lower, lower_in_part);
    for (int from = 0; from < n; from += most) {
        const int count = least_int(most, n - from);
        if (n > most || shares > 1)
            take_candidates(anchors, list + from, 1, count, origin, candidates);
        for (int child = 0; child < CHILDREN; child++) {
            const Child seen = child_from(grid, level, parent, origin, child);
            if (seen.number < 0) continue;
            double least = 1e300;
            for (int part = 0; part < parts; part++)
                least = smaller(least, (double)lower_in_part[child * parts + part]);
            if (level > 0) least = larger(least, recalled[seen.number]);
            least -= settings[TAU];
            const bool bounded = !control[SIGNED] && least > NOTHING;
            unsigned char *kept_here =
                keep + ((long long)first * CHILDREN + (long long)child * n + from);
            keep_candidates(candidates, count, seen, bounded ? (float)least : NOTHING, kept_here,
                            keeps, found, child, kept);
        }
    }
    FOR_EACH_PLAIN(child, CHILDREN) {
        int corner[NDIM];
        const int number = child_of_box(grid, level, parent, child, corner);
        if (number < 0) continue;
        counts[number * shares + share] = kept[child];
        for (int part = 0; part < parts; part++) wins[best_of[child * parts + part]] = 1;
        if (level > 0) continue;
        double best = 0;
        for (int part = 0; part < parts; part++) {
            const double here = lower[child * parts + part];
            if (part == 0 || here > best) {  // the first one counts even if it is NaN
                best = here;
                winners[number] = best_of[child * parts + part];
            }
        }
    }
}

// Exclusive prefix sums: where each of n runs of `counts` entries starts; starts[n] is where the
// last one ends. If that is beyond `capacity`, HALT is set, and control[NEEDED + which] to the
// entries needed.
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

// Copy those of entries `first` to `last` − 1 of a list that are `kept`.
FUNCTION void keep_entries(const int *list, const unsigned char *kept, int first, int last, int *to)
{
#if !defined(SCALAR_PACKS) && defined(__AVX512F__) && defined(__AVX512VL__) && defined(__AVX512BW__)
    for (; first + 16 <= last; first += 16) {
        const __m128i bytes = _mm_loadu_si128((const __m128i *)(kept + first));
        const __mmask16 chosen = _mm_test_epi8_mask(bytes, bytes);
        const __m512i all = _mm512_loadu_si512(list + first);
        const __m512i entries = _mm512_maskz_compress_epi32(chosen, all);
        const int count = __builtin_popcount(chosen);
        _mm512_mask_storeu_epi32(to, (__mmask16)((1u << count) - 1), entries);
        to += count;
    }
#endif
    for (; first < last; first++) {
        // branch-free: the outcome is hard to predict
        int nobody, *place = kept[first] ? to : &nobody;
        *place = list[first];
        to += kept[first];
    }
}

// The list of each box: the kept entries of its parent's list, share by share, in the same order.
KERNEL(fill, LIST_THREADS, const int *control, const int *grid, int level, int shares,
       const int *parent_start, int parent_entries, const int *parent_list,
       const unsigned char *keep, const int *starts, int *list)
{
    if (!BUILDS_LISTS(control)) return;
    SHARED(int, counts, LIST_THREADS);
    int corner[NDIM], above[NDIM], child = 0;
    place_of_box(grid, level, BLOCK / shares, corner);
    UNROLL for (int d = 0; d < NDIM; d++) {
        above[d] = corner[d] >> 1;
        child = 2 * child + (corner[d] & 1);
    }
    const int parent = number_of_box(grid, level + 1, above);
    const Part part = part_of_list(parent_start, parent_entries, parent, BLOCK % shares, shares);
    const int first = part.first, n = part.n;
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
        keep_entries(parent_list + first, kept_here, t * each, least_int(n, (t + 1) * each),
                     list + at);
    }
}

// Where patches are boxes of a level: the distinct kernels of each patch, in the order in which its
// tiles list them, into `found` from first_between[patch] on; their number, into `counts`; and for
// each pair its kernel's place among them, which is its row in the patch. A block processes a share
// of the patches, with its own set of K counters.
KERNEL(collect, LIST_THREADS, const int *control, const int *grid, int level, int patches,
       const int *start, const int *list, const int *first_between, int sets, int *counters,
       int *found, int *counts, int *row_of_pair, int K)
{
    if (!BUILDS_LISTS(control)) return;
    ONE_THREAD {
        int *counter = counters + (long long)BLOCK * K;
        const int last = first_of_share(patches, BLOCK + 1, sets);
        for (int patch = first_of_share(patches, BLOCK, sets); patch < last; patch++) {
            int *kernels = found + first_between[patch], rows = 0;
            FOR_TILES(tile, grid, level, patch) {
                for (int p = start[tile]; p < start[tile + 1]; p++) {
                    int &row = counter[list[p]];  // counted from 1
                    if (row == 0) {
                        kernels[rows] = list[p];
                        row = ++rows;
                    }
                    row_of_pair[p] = row - 1;
                }
            }
            for (int row = 0; row < rows; row++) counter[kernels[row]] = 0;
            counts[patch] = rows;
        }
    }
}

// Copy the kernels of a patch from `found` to the place of its rows.
KERNEL(join, LIST_THREADS, const int *control, const int *found, const int *first_between,
       const int *first_row, int *kernel_of_row)
{
    if (!BUILDS_LISTS(control)) return;
    const int first = first_row[BLOCK];
    FOR_EACH(j, first_row[BLOCK + 1] - first)
        kernel_of_row[first + j] = found[first_between[BLOCK] + j];
}

// How many rows each kernel has in each share of the rows; one block per share. Where COUNT is not
// atomic, each share has a set of K counters of its own; else there is one set for all.
KERNEL(tally, LIST_THREADS, const int *control, const int *kernel_of_row, int patches,
       const int *first_row, int shares, int sets, int *counters, int K)
{
    if (!BUILDS_LISTS(control)) return;
    const int first = first_of_share(first_row[patches], BLOCK, shares);
    const int last = first_of_share(first_row[patches], BLOCK + 1, shares);
    int *counter = counters + (sets > 1 ? (long long)BLOCK * K : 0);
    FOR_EACH_PLAIN(j, last - first) (void)COUNT(counter + kernel_of_row[first + j]);
}

// The number of rows of each kernel, into `counts`; each set of counters is replaced by the number
// of rows in the sets before it.
KERNEL(add_up, LIST_THREADS, const int *control, int sets, int *counters, int *counts, int K)
{
    if (!BUILDS_LISTS(control)) return;
    FOR_EACH(j, LIST_THREADS) {
        const int k = BLOCK * LIST_THREADS + j;
        if (k < K) {
            int sum = 0;
            for (int set = 0; set < sets; set++) {
                int &counter = counters[(long long)set * K + k];
                const int here = counter;
                counter = sum;
                sum += here;
            }
            counts[k] = sum;
        }
    }
}

// The rows of each kernel, into `rows_of_kernels`; they are in ascending order where each share has
// a set of counters of its own.
KERNEL(place, LIST_THREADS, const int *control, const int *kernel_of_row, int patches,
       const int *first_row, int shares, int sets, int *counters, const int *first_of_kernel,
       int *rows_of_kernels, int K)
{
    if (!BUILDS_LISTS(control)) return;
    const int first = first_of_share(first_row[patches], BLOCK, shares);
    const int last = first_of_share(first_row[patches], BLOCK + 1, shares);
    int *counter = counters + (sets > 1 ? (long long)BLOCK * K : 0);
    FOR_EACH_PLAIN(j, last - first) {
        const int k = kernel_of_row[first + j];
        rows_of_kernels[first_of_kernel[k] + COUNT(counter + k)] = first + j;
    }
}

// Sort the rows of each kernel in ascending order, so that sums do not depend on the order of
// atomic counting: few rows by counting those before each; many by a bitonic sort in which the
// smaller one always goes first, so that elements beyond the end count as largest and need not
// exist.
KERNEL(arrange, 32, const int *control, const int *first_of_kernel, int *rows_of_kernels, int sets,
       int *counters, int K)
{
    if (!BUILDS_LISTS(control)) return;
    SHARED(int, unsorted, 1);
    WATCHED(int, run, rows_of_kernels + first_of_kernel[BLOCK]);
    const int n = first_of_kernel[BLOCK + 1] - first_of_kernel[BLOCK];
    // cleared for the next build
    FOR_EACH_PLAIN(set, sets) counters[(long long)set * K + BLOCK] = 0;
    ONE_THREAD { unsorted[0] = 0; }
    BARRIER;
    FOR_THREADS(t) {
        int falls = 0;
        STRIDED(j, t, n - 1) falls += run[j] > run[j + 1];
        if (falls) MARK(unsorted[0]);
    }
    BARRIER;
    if (!unsorted[0]) return;
    SHARED(int, sorted, FEW_ROWS);
    if (n <= FEW_ROWS) {
        FOR_EACH_PLAIN(j, n) {
            const int row = run[j];
            int before = 0;
            for (int i = 0; i < n; i++) before += run[i] < row;
            sorted[before] = row;
        }
        BARRIER;
        FOR_EACH(j, n) run[j] = sorted[j];
        return;
    }
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

// Mark the lists as valid.
KERNEL(settle, 32, int *control)
{
    if (!BUILDS_LISTS(control)) return;
    ONE_THREAD {
        control[STALE] = 0;
        control[AGE] = 0;
        control[BUILDS] += 1;
    }
}
