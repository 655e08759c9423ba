/* What a batched kernel includes: the version of its interface, a declaration of its sizes, and, for C++, a loop over
 * blocks of points that runs on several threads and leaves sums that do not depend on how many there were.
 *
 * A kernel NAME is one function, or two:
 *
 *   int32_t NAME(int64_t num_rows, int64_t num_points, const double *parameters, const double *points,
 *                double *out, int32_t num_threads);
 *   int32_t NAME_gradient(int64_t num_rows, int64_t num_points, const double *parameters, const double *points,
 *                         const double *weights, double *out, double *gradient, int32_t num_threads);
 *
 * parameters  [num_rows][P], one row for each evaluation (a Markov chain, a simulated trace)
 * points      [num_points][D], the same for all rows; a null pointer when D is 0
 * out         [num_rows][num_points] for TRACESTORE_PER_POINT, [num_rows] for TRACESTORE_PER_ROW
 * weights     of the shape of out
 * gradient    [num_rows][P]: the sum over what a row puts out of weights * d out / d parameter
 *
 * NAME_gradient also writes out, unless it is a null pointer. Everything is contiguous, row by row. Return 0, or
 * another number for a failure. TRACESTORE_KERNEL(NAME, P, D, TRACESTORE_PER_ROW or TRACESTORE_PER_POINT) declares
 * the sizes. One file of a library includes this header.
 */
#ifndef TRACESTORE_KERNEL_H
#define TRACESTORE_KERNEL_H

#include <stdint.h>

#define TRACESTORE_KERNEL_ABI 1
#define TRACESTORE_PER_ROW 0
#define TRACESTORE_PER_POINT 1

#ifdef __cplusplus
#define TRACESTORE_EXPORT extern "C" __attribute__((visibility("default")))
#else
#define TRACESTORE_EXPORT __attribute__((visibility("default")))
#endif

TRACESTORE_EXPORT int32_t tracestore_kernel_abi(void);
TRACESTORE_EXPORT int32_t tracestore_kernel_abi(void) { return TRACESTORE_KERNEL_ABI; }

#define TRACESTORE_KERNEL(name, num_parameters, num_columns, output)                                                   \
    TRACESTORE_EXPORT int64_t name##_shape(int32_t which);                                                             \
    TRACESTORE_EXPORT int64_t name##_shape(int32_t which) {                                                            \
        return which == 0 ? (num_parameters) : which == 1 ? (num_columns) : (output);                                  \
    }

#ifdef __cplusplus

#include <algorithm>
#include <atomic>
#include <system_error>
#include <thread>
#include <vector>

namespace tracestore {

/* Call work(block, begin, end) for each block of `block_size` items, on at most `num_threads` threads. Threads are
 * started for the call and end with it, so that a process may fork between calls. `work` must not throw. */
template <class Work>
void for_blocks(int64_t num_items, int64_t block_size, int32_t num_threads, Work work) {
    const int64_t num_blocks = (num_items + block_size - 1) / block_size;
    std::atomic<int64_t> next(0);
    auto run = [&]() {
        for (int64_t block = next++; block < num_blocks; block = next++)
            work(block, block * block_size, std::min(num_items, (block + 1) * block_size));
    };
    std::vector<std::thread> others;
    try {
        const int64_t wanted = std::min<int64_t>(num_threads, num_blocks) - 1;
        for (int64_t number = 0; number < wanted; ++number) others.emplace_back(run);
    } catch (const std::system_error &) { /* no more threads: those that run, and this one, do all of the work */
    } catch (const std::bad_alloc &) {
    }
    run();
    for (auto &thread : others) thread.join();
}

/* Threads that are worth starting for this many evaluations of a formula: one below 2 * `least`. */
inline int32_t worthwhile_threads(int64_t num_evaluations, int32_t num_threads, int64_t least = 8192) {
    return static_cast<int32_t>(std::max<int64_t>(1, std::min<int64_t>(num_threads, num_evaluations / least)));
}

}  // namespace tracestore

#endif
#endif
