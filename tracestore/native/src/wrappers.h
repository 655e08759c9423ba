/* What wrappers of drawing functions need from a backend, and how they turn a draw into a value.
 *
 * A backend defines the three functions declared here, in the same translation unit. Python's KINDS lists the kinds in
 * the order of this enumeration.
 */
#ifndef TRACESTORE_WRAPPERS_H
#define TRACESTORE_WRAPPERS_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

enum tracestore_kind {
    TRACESTORE_UNIFORM_DOUBLE,
    TRACESTORE_UNIFORM_FLOAT,
    TRACESTORE_EXPONENTIAL_DOUBLE,
    TRACESTORE_NORMAL_DOUBLE,
    TRACESTORE_GAMMA_DOUBLE,
    TRACESTORE_PICK_VECTOR,
    TRACESTORE_RANDOM_INT,
    TRACESTORE_INTEGER_BELOW,
};

/* The place of a draw: `frame` is the wrapper's frame, `caller` its return address. Negative: the draw is not ours, and
 * the library's own function is to be called. */
static int64_t tracestore_enter(int32_t hook, void **frame, void *caller);
/* The value for a draw. */
static double tracestore_value(int64_t place, int32_t kind, const double *args, int64_t n);
/* The library's own function behind a hook; null when there is none. */
static void *tracestore_original(int32_t hook);

/* Values that the other side should not have given are counted; a random number stands in for each, so that no loop of
 * the library spins for ever. */
static volatile int64_t tracestore_unusable;
static uint64_t tracestore_spare_state = 0x9e3779b97f4a7c15u;

static double tracestore_spare(void)
{
    uint64_t word = __atomic_add_fetch(&tracestore_spare_state, 0x9e3779b97f4a7c15u, __ATOMIC_RELAXED);
    word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9u;
    word = (word ^ (word >> 27)) * 0x94d049bb133111ebu;
    word ^= word >> 31;
    return ((double)(word >> 12) + 0.5) * 0x1p-52;
}

static inline float tracestore_spare_single(void)
{
    float value = (float)tracestore_spare();
    return value > 0.0f && value < 1.0f ? value : 0.5f;
}

static double tracestore_unusable_value(void)
{
    __atomic_add_fetch(&tracestore_unusable, 1, __ATOMIC_RELAXED);
#ifdef TRACESTORE_ON_UNUSABLE
    TRACESTORE_ON_UNUSABLE;
#endif
    return tracestore_spare();
}

static inline double tracestore_uniform(int64_t place)
{
    double value = tracestore_value(place, TRACESTORE_UNIFORM_DOUBLE, 0, 0);
    return value > 0.0 && value < 1.0 ? value : tracestore_unusable_value();
}

static inline float tracestore_uniform_single(int64_t place)
{
    double value = tracestore_value(place, TRACESTORE_UNIFORM_FLOAT, 0, 0);
    if (!(value > 0.0 && value < 1.0)) {
        (void)tracestore_unusable_value();
        return tracestore_spare_single();
    }
    float single = (float)value; /* rounding may reach an end */
    return single <= 0.0f ? 0x1p-126f : single >= 1.0f ? 0x1.fffffep-1f : single;
}

static inline double tracestore_positive(int64_t place, int32_t kind, const double *args, int64_t n)
{
    double value = tracestore_value(place, kind, args, n);
    return value >= 0.0 && isfinite(value) ? value : -log(tracestore_unusable_value());
}

static inline double tracestore_finite(int64_t place, int32_t kind)
{
    double value = tracestore_value(place, kind, 0, 0);
    return isfinite(value) ? value : 2.0 * tracestore_unusable_value() - 1.0;
}

/* A whole number in [0, limit). */
static inline uint64_t tracestore_whole(int64_t place, int32_t kind, const double *args, int64_t n, double limit)
{
    double value = tracestore_value(place, kind, args, n);
    if (!(value >= 0.0 && value < limit && value == floor(value)))
        value = floor(tracestore_unusable_value() * limit);
    return (uint64_t)value;
}

#define TRACESTORE_HOOK(hook, symbol, result, parameters) \
    result tracestore_wrapper_##hook parameters __asm__(symbol); \
    __attribute__((visibility("default"), noinline)) result tracestore_wrapper_##hook parameters
#define TRACESTORE_ENTER(hook) tracestore_enter(hook, (void **)__builtin_frame_address(0), __builtin_return_address(0))
/* Unknown arguments are passed on in the registers for integers and pointers. */
#define TRACESTORE_ANY void *a, void *b, void *c, void *d, void *e, void *f

#define TRACESTORE_DRAW_WITHOUT_ARGUMENTS(hook, symbol, result, drawn, otherwise) \
    TRACESTORE_HOOK(hook, symbol, result, (TRACESTORE_ANY)) \
    { \
        int64_t place = TRACESTORE_ENTER(hook); \
        if (place >= 0) \
            return drawn; \
        result (*original)(TRACESTORE_ANY) = (result(*)(TRACESTORE_ANY))tracestore_original(hook); \
        return original ? original(a, b, c, d, e, f) : (otherwise); \
    }

#define TRACESTORE_HOOK_uniform_double(hook, symbol) \
    TRACESTORE_DRAW_WITHOUT_ARGUMENTS(hook, symbol, double, tracestore_uniform(place), tracestore_spare())
#define TRACESTORE_HOOK_uniform_float(hook, symbol) \
    TRACESTORE_DRAW_WITHOUT_ARGUMENTS(hook, symbol, float, tracestore_uniform_single(place), tracestore_spare_single())
#define TRACESTORE_HOOK_exponential_double(hook, symbol) \
    TRACESTORE_DRAW_WITHOUT_ARGUMENTS(hook, symbol, double, \
        tracestore_positive(place, TRACESTORE_EXPONENTIAL_DOUBLE, 0, 0), -log(tracestore_spare()))
#define TRACESTORE_HOOK_normal_double(hook, symbol) \
    TRACESTORE_DRAW_WITHOUT_ARGUMENTS(hook, symbol, double, \
        tracestore_finite(place, TRACESTORE_NORMAL_DOUBLE), 2.0 * tracestore_spare() - 1.0)
#define TRACESTORE_HOOK_random_int(hook, symbol) \
    TRACESTORE_DRAW_WITHOUT_ARGUMENTS(hook, symbol, int, \
        (int)tracestore_whole(place, TRACESTORE_RANDOM_INT, (const double[]){(double)RAND_MAX}, 1, RAND_MAX + 1.0), \
        (int)(tracestore_spare() * RAND_MAX))

/* double f(this, double shape, double rate) */
#define TRACESTORE_HOOK_gamma_double(hook, symbol) \
    TRACESTORE_HOOK(hook, symbol, double, (TRACESTORE_ANY, double shape, double rate)) \
    { \
        int64_t place = TRACESTORE_ENTER(hook); \
        if (place >= 0) \
            return tracestore_positive(place, TRACESTORE_GAMMA_DOUBLE, (const double[]){shape, rate}, 2); \
        double (*original)(TRACESTORE_ANY, double, double) \
            = (double (*)(TRACESTORE_ANY, double, double))tracestore_original(hook); \
        return original ? original(a, b, c, d, e, f, shape, rate) : -log(tracestore_spare()); \
    }

/* int f(this, const std::vector<double> &weights): the vector begins with pointers to its first and past its last. */
#define TRACESTORE_HOOK_pick_vector(hook, symbol) \
    TRACESTORE_HOOK(hook, symbol, int, (void *self, const double **weights)) \
    { \
        int64_t n = weights[1] - weights[0]; \
        int64_t place = n > 0 ? TRACESTORE_ENTER(hook) : -1; \
        if (place >= 0) \
            return (int)tracestore_whole(place, TRACESTORE_PICK_VECTOR, weights[0], n, (double)n); \
        int (*original)(void *, const double **) = (int (*)(void *, const double **))tracestore_original(hook); \
        return original ? original(self, weights) : (int)(tracestore_spare() * (double)n); \
    }

/* unsigned long f(state, unsigned long n): a whole number below n. */
#define TRACESTORE_HOOK_integer_below(hook, symbol) \
    TRACESTORE_HOOK(hook, symbol, unsigned long, (void *self, unsigned long n)) \
    { \
        int64_t place = n > 0 ? TRACESTORE_ENTER(hook) : -1; \
        if (place >= 0) { \
            double limit = (double)n; \
            return tracestore_whole(place, TRACESTORE_INTEGER_BELOW, &limit, 1, limit); \
        } \
        unsigned long (*original)(void *, unsigned long) \
            = (unsigned long (*)(void *, unsigned long))tracestore_original(hook); \
        return original ? original(self, n) : (unsigned long)(tracestore_spare() * (double)n); \
    }

#endif
