// The CPU runtime: a pool of threads that share the blocks of a launch, and sequences of launches.
#pragma once
#include <pthread.h>  // not <thread> and <mutex>, which take a twentieth of the compilation
#include <sched.h>
#include <time.h>
#include <unistd.h>

#include <atomic>

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

struct Launch {  // the layout of _Launch in launch_native.py
    void (*kernel)(void **arguments, int first, int last, int threads);
    void **arguments;
    int blocks, threads;
    double *seconds;  // the time it takes is added here; may be null
};

static const int MOST_THREADS = 256;
static const int SHARES = 16;        // pieces into which each thread's part of a launch is divided
static const int SPINS = 4000;       // polls of a flag before the thread yields its processor
static const double LINGER = 1e-4;   // seconds that an idle thread polls for work before it sleeps

static inline void wait_a_moment(int &spins) {
    if (++spins > SPINS)
        sched_yield();
#if defined(__x86_64__) || defined(__i386__)
    else
        __builtin_ia32_pause();
#endif
}

// Denormals count as 0, as they do on a GPU in float, because they are slow.
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

// Threads that share the blocks of a launch. The leader opens a launch, takes part, and goes on
// when all blocks are done. The others help while a launch is open. The leader waits only for
// blocks that have been taken, so a thread that gets no processor holds nobody up. There is one
// pool per process; it is never destroyed.
struct Pool {
    pthread_mutex_t leading = PTHREAD_MUTEX_INITIALIZER, mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
    std::atomic<bool> active{false};
    std::atomic<int> size{1};  // number of threads that may take part
    // For each member of the team: the number of the open launch (upper half) and the next of the
    // member's shares (lower half). While the launch is being changed, the next share is CLOSED; a
    // thread that takes a share by compare-and-swap on both has the launch of that number.
    struct alignas(64) Counter {  // aligned to its own cache line
        std::atomic<unsigned long long> next{CLOSED};
    } open[MOST_THREADS];
    std::atomic<const Launch *> launch{nullptr};
    std::atomic<unsigned> blocks{0};  // of the open launch
    std::atomic<int> done{0};  // blocks of it that are done
    unsigned long long number = 0;  // number of launches so far
    int threads = 1;
    const pid_t process = getpid();
    static const unsigned CLOSED = 0xffffffffu;

    // Take and run blocks of the open launch until none are left. Each member owns a run of
    // consecutive blocks, the same in every launch of as many blocks, so that it finds its own data
    // in its cache, and works through it in order. A member that has finished helps the next one.
    void take_part(int rank) {
        const int members = size.load(std::memory_order_relaxed);
        for (int helped = 0; helped < members; helped++)
            if (!take_from((rank + helped) % members)) return;
    }

    // Run the remaining blocks of a member; false if no launch is open.
    bool take_from(unsigned owner) {
        for (;;) {
            unsigned long long ticket = open[owner].next.load(std::memory_order_acquire);
            const unsigned next = (unsigned)ticket;
            if (next == CLOSED) return false;
            const unsigned all = blocks.load(std::memory_order_acquire);
            // the same for that launch
            const unsigned members = size.load(std::memory_order_relaxed);
            const unsigned share = all / (members * SHARES) + 1;
            const unsigned in_a_row = (all + share * members - 1) / (share * members);
            const unsigned first = (owner * in_a_row + next) * share;
            if (next >= in_a_row || first >= all) return true;
            if (!open[owner].next.compare_exchange_weak(ticket, ticket + 1,
                                                        std::memory_order_acq_rel))
                continue;
            // only after a share was taken: a launch whose blocks are all taken may be gone
            const Launch *current = launch.load(std::memory_order_acquire);
            const unsigned last = all - first < share ? all : first + share;
            current->kernel(current->arguments, (int)first, (int)last, current->threads);
            done.fetch_add((int)(last - first), std::memory_order_acq_rel);
        }
    }

    void set_all(unsigned long long ticket) {
        const int members = size.load(std::memory_order_relaxed);
        for (int member = 0; member < members; member++)
            open[member].next.store(ticket, std::memory_order_release);
    }

    void worker(int rank) {
        const FlushToZero flush;
        for (double idle = now(); ;) {
            int spins = 0;
            while (active.load(std::memory_order_relaxed) &&
                   rank < size.load(std::memory_order_relaxed)) {
                take_part(rank);
                wait_a_moment(spins);
                idle = now();
            }
            while (!active.load(std::memory_order_relaxed) && now() - idle < LINGER)
                wait_a_moment(spins), spins = 0;
            pthread_mutex_lock(&mutex);
            while (!active.load() || rank >= size.load()) pthread_cond_wait(&wake, &mutex);
            pthread_mutex_unlock(&mutex);
        }
    }

    struct Member {
        Pool *pool;
        int rank;
    };
    static void *work(void *member) {
        const Member self = *(Member *)member;
        delete (Member *)member;
        self.pool->worker(self.rank);
        return nullptr;
    }

    // Start another worker; false if the system has no thread left.
    bool grow() {
        pthread_t handle;
        Member *const member = new Member{this, threads};
        if (pthread_create(&handle, nullptr, work, member) != 0) {
            delete member;
            return false;
        }
        pthread_detach(handle);
        threads++;
        return true;
    }

    // Run a launch with all threads that help.
    void run(const Launch &wanted) {
        if (wanted.blocks <= 1 || size.load(std::memory_order_relaxed) == 1) {
            wanted.kernel(wanted.arguments, 0, wanted.blocks, wanted.threads);
            return;
        }
        number++;
        done.store(0, std::memory_order_relaxed);
        launch.store(&wanted, std::memory_order_release);
        blocks.store(wanted.blocks, std::memory_order_release);
        set_all(number << 32);
        take_part(0);
        for (int spins = 0; done.load(std::memory_order_acquire) < wanted.blocks;)
            wait_a_moment(spins);
        set_all((number << 32) | CLOSED);
    }

    void begin(int threads_wanted) {
        pthread_mutex_lock(&mutex);
        while (threads < threads_wanted && grow());
        size.store(threads < threads_wanted ? threads : threads_wanted);
        active.store(true);
        pthread_mutex_unlock(&mutex);
        pthread_cond_broadcast(&wake);
    }

    void end() { active.store(false); }
};

static Pool *pool() {
    static std::atomic<Pool *> current{nullptr};
    Pool *found = current.load();
    if (found && found->process == getpid()) return found;
    // a forked child has none of its parent's threads, and must not touch their locks
    Pool *made = new Pool;
    return current.compare_exchange_strong(found, made) ? made : found;
}

// Leads the pool during its lifetime; if another thread already leads it, works alone, with the
// same results.
struct Lead {
    Pool *team = nullptr;
    const FlushToZero flush;

    explicit Lead(int threads) {
        if (threads > 1 && pthread_mutex_trylock(&pool()->leading) == 0) {
            team = pool();
            team->begin(threads < MOST_THREADS ? threads : MOST_THREADS);
        }
    }
    ~Lead() {
        if (!team) return;
        team->end();
        pthread_mutex_unlock(&team->leading);
    }
    void run(const Launch *launches, int count) {
        for (const Launch *launch = launches; launch < launches + count; launch++) {
            const double begun = launch->seconds ? now() : 0;
            if (team)
                team->run(*launch);
            else
                launch->kernel(launch->arguments, 0, launch->blocks, launch->threads);
            if (launch->seconds) *launch->seconds += now() - begun;
        }
    }
};

}  // namespace native

// Run `count` launches in sequence, on up to `threads` threads.
extern "C" void smoe_run(const native::Launch *launches, int count, int threads) {
    native::Lead(threads).run(launches, count);
}

// Build lists when they are stale, else take steps, until `control` says that enough are taken or
// halts, or until `seconds` have passed and at least one step was taken. Returns the seconds spent
// on lists.
extern "C" double smoe_train(const native::Launch *build, int builds, const native::Launch *step,
                             int steps, const int *control, int threads, double seconds) {
    native::Lead lead(threads);
    const double until = native::now() + seconds;
    double building = 0;
    while (control[HALT] == 0 && control[STEP] < control[TARGET] &&
           (control[STEP] == 0 || native::now() <= until)) {
        const double begun = native::now();
        if (control[STALE]) {
            lead.run(build, builds);
            building += native::now() - begun;
        } else {
            lead.run(step, steps);
        }
    }
    return building;
}
