// A thread pool. Results of tasks do not depend on the thread that runs them.
#pragma once

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>

class Pool {
  public:
    using Task = std::function<void(int64_t task, int worker)>;

    // Runs tasks 0 ... count - 1 on up to `threads` threads, including the caller. Workers are numbered from 0.
    void run(int64_t count, int threads, const Task& task) {
        if (threads <= 1 || count <= 1) return take(0, count, task);
        {
            std::lock_guard lock(mutex);
            grow(threads - 1);
            job = &task, next = 0, end = count, joined = 1, limit = threads, round++;
        }
        wake.notify_all();
        take_shared(task, 0);
        std::unique_lock lock(mutex);
        job = nullptr;  // a thread that wakes up after this goes back to sleep
        done.wait(lock, [this] { return active == 0; });
    }

  private:
    std::mutex mutex;
    std::condition_variable wake, done;
    const Task* job = nullptr;
    std::atomic<int64_t> next{0};
    int64_t end = 0, round = 0;
    int joined = 0, limit = 0, active = 0, size = 0;

    static void take(int worker, int64_t count, const Task& task) {
        for (int64_t i = 0; i < count; i++) task(i, worker);
    }

    void take_shared(const Task& task, int worker) {
        for (int64_t i = next++; i < end; i = next++) task(i, worker);
    }

    void grow(int wanted) {
        for (; size < wanted; size++) try {
                std::thread([this] { serve(); }).detach();
            } catch (const std::system_error&) {
                return;  // no more threads available: continue with fewer
            }
    }

    void serve() {
        std::unique_lock lock(mutex);
        for (int64_t seen = 0;;) {
            wake.wait(lock, [&] { return job && round != seen; });
            seen = round;
            if (joined >= limit) continue;
            const int worker = joined++;
            const Task& task = *job;
            active++;
            lock.unlock();
            take_shared(task, worker);
            lock.lock();
            if (--active == 0) done.notify_all();
        }
    }
};

// The pool of this process. After a fork the child, which has none of its parent's threads, creates its own.
inline Pool* process_pool = nullptr;
inline std::mutex* pool_mutex = nullptr;

inline void create_pool() { process_pool = new Pool, pool_mutex = new std::mutex; }  // never freed: threads wait in it

__attribute__((constructor)) inline void prepare_pool() {
    create_pool();
    pthread_atfork(nullptr, nullptr, create_pool);
}

// Runs tasks on the pool, or on the calling thread alone if another thread is using the pool.
inline void run_shared(int64_t count, int threads, const Pool::Task& task) {
    std::unique_lock lock(*pool_mutex, std::try_to_lock);
    process_pool->run(count, lock.owns_lock() ? threads : 1, task);
}
