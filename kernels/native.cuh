// What kernels on a CPU need of the machine: threads that share blocks, and sequences of kernels.
#pragma once
#include <sched.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "control.cuh"

template <int...>
struct Indices {};
template <int N, int... I>
struct Count : Count<N - 1, N - 1, I...> {};
template <int... I>
struct Count<0, I...> {
    typedef Indices<I...> indices;
};

namespace native {

struct Launch {  // as launch_native.py lays it out
    void (*kernel)(void **arguments, int first, int last, int threads);
    void **arguments;
    int blocks, threads;
};

static const int MOST_THREADS = 256;
static const int SHARES = 16;        // parts of a launch that a thread takes, one after the other
static const int SPINS = 4000;       // looks at a flag before the processor is given to others
static const double LINGER = 1e-4;   // seconds that an idle thread looks out for work

static inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

// Numbers too small for full precision count as 0, as they do on a GPU: they would cost time.
struct FlushToZero {
#ifdef __x86_64__
    const unsigned before = __builtin_ia32_stmxcsr();
    FlushToZero() { __builtin_ia32_ldmxcsr(before | 0x8040); }
    ~FlushToZero() { __builtin_ia32_ldmxcsr(before); }
#endif
};

static inline double now() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

// Threads that go through the launches of a sequence in step.
struct Team {
    int size;
    std::atomic<int> arrived{0}, turn{0};
    std::atomic<int> next[3] = {{0}, {0}, {0}};  // block of the last, this, and the next launch
    const int *control;
    double until, build_seconds = 0;
    enum { BUILD, STEP_ON, END } decision = END;

    void decide() {
        const bool late = control[STEP] > 0 && now() > until;
        if (control[HALT] != 0 || control[STEP] >= control[TARGET] || late)
            decision = END;
        else
            decision = control[STALE] ? BUILD : STEP_ON;
    }

    void meet() {
        if (size == 1) return;
        const int before = turn.load(std::memory_order_acquire);
        if (arrived.fetch_add(1, std::memory_order_acq_rel) == size - 1) {
            arrived.store(0, std::memory_order_relaxed);
            turn.store(before + 1, std::memory_order_release);
            return;
        }
        for (int spins = 0; turn.load(std::memory_order_acquire) == before; spins++)
            spins < SPINS ? relax() : (void)sched_yield();
    }

    void run(const Launch *launches, int count, int rank, int &number) {
        for (int l = 0; l < count; l++, number++) {
            const Launch &launch = launches[l];
            const int share = launch.blocks / (size * SHARES) + 1;
            std::atomic<int> &at = next[number % 3];
            if (rank == 0) next[(number + 1) % 3].store(0, std::memory_order_relaxed);
            for (int first; (first = at.fetch_add(share, std::memory_order_relaxed)) < launch.blocks;) {
                const int last = first + share < launch.blocks ? first + share : launch.blocks;
                launch.kernel(launch.arguments, first, last, launch.threads);
            }
            meet();
        }
    }
};

struct Work {  // a sequence to run once, or two between which `control` decides
    const Launch *build, *step;
    int builds, steps;
    Team *team;

    void operator()(int rank) const {
        const FlushToZero flush;
        int number = 0;
        if (!build) {
            team->run(step, steps, rank, number);
            return;
        }
        for (;;) {
            if (rank == 0) team->decide();  // for all: what it looks at changes under way
            team->meet();
            if (team->decision == Team::END) return;
            const double begun = now();
            if (team->decision == Team::BUILD) {
                team->run(build, builds, rank, number);
                if (rank == 0) team->build_seconds += now() - begun;
            } else {
                team->run(step, steps, rank, number);
            }
        }
    }
};

// Threads that wait for work. There is one pool for a process, and it is never taken down.
struct Pool {
    std::mutex in_use, mutex;
    std::condition_variable wake;
    std::atomic<long> jobs{0};
    std::atomic<int> busy{0};
    const Work *work = nullptr;
    int threads = 1, wanted = 0;
    pid_t process = getpid();

    void worker(int rank) {
        for (long done = 0;;) {
            const double idle = now();
            while (jobs.load(std::memory_order_acquire) == done && now() - idle < LINGER) relax();
            {
                std::unique_lock<std::mutex> lock(mutex);
                wake.wait(lock, [&] { return jobs.load() != done; });
                done = jobs.load();
                if (rank >= wanted) continue;
            }
            (*work)(rank);
            busy.fetch_sub(1, std::memory_order_release);
        }
    }

    void run(const Work &job, int size) {
        {
            std::lock_guard<std::mutex> lock(mutex);
            while (threads < size) {
                std::thread(&Pool::worker, this, threads).detach();
                threads++;
            }
            work = &job;
            wanted = size;
            busy.store(size - 1);
            jobs.fetch_add(1);
        }
        wake.notify_all();
        job(0);
        for (int spins = 0; busy.load(std::memory_order_acquire) > 0; spins++)
            spins < SPINS ? relax() : (void)sched_yield();
    }
};

static Pool *pool() {
    static std::atomic<Pool *> current{nullptr};
    Pool *found = current.load();
    if (found && found->process == getpid()) return found;
    // a child that was forked has none of its parent's threads, and must not touch their locks
    Pool *made = new Pool;
    current.store(made);
    return made;
}

static double run(Work work, const int *control, int threads, double seconds) {
    Team team;
    Pool *shared = pool();
    const bool free = threads > 1 && shared->in_use.try_lock();  // else alone, with the same result
    team.size = !free ? 1 : threads < MOST_THREADS ? threads : MOST_THREADS;
    team.control = control;
    team.until = now() + seconds;
    work.team = &team;
    if (free) {
        shared->run(work, team.size);
        shared->in_use.unlock();
    } else {
        work(0);
    }
    return team.build_seconds;
}

}  // namespace native

// Run launches one after the other.
extern "C" void smoe_run(const native::Launch *launches, int count, int threads) {
    native::run({nullptr, launches, 0, count, nullptr}, nullptr, threads, 0);
}

// Build lists where they are stale and take steps otherwise, until control says that there are
// enough, or for some seconds, but one step at least. Returns the seconds spent on lists.
extern "C" double smoe_train(const native::Launch *build, int builds, const native::Launch *step,
                             int steps, const int *control, int threads, double seconds) {
    return native::run({build, step, builds, steps, nullptr}, control, threads, seconds);
}
