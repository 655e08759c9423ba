/* More kinds of drawing functions, which scale or place what the kinds of wrappers.h draw; for any backend.
 *
 * Functions of the C library, of Fortran's run-time library, of the GNU Scientific Library and of libstdc++ have these
 * forms.
 */
#ifndef TRACESTORE_MORE_WRAPPERS_H
#define TRACESTORE_MORE_WRAPPERS_H

#include "wrappers.h"

/* void f(real *number), such as _gfortran_random_r8: a number in (0, 1) is put where the pointer says. */
#define TRACESTORE_FILL(hook, symbol, real, drawn, otherwise) \
    TRACESTORE_HOOK(hook, symbol, void, (real *number)) \
    { \
        int64_t place = TRACESTORE_ENTER(hook); \
        if (place >= 0) { \
            *number = drawn; \
            return; \
        } \
        void (*original)(real *) = (void (*)(real *))tracestore_original(hook); \
        if (original) \
            original(number); \
        else \
            *number = otherwise; \
    }
#define TRACESTORE_HOOK_fill_double(hook, symbol) \
    TRACESTORE_FILL(hook, symbol, double, tracestore_uniform(place), tracestore_spare())
#define TRACESTORE_HOOK_fill_float(hook, symbol) \
    TRACESTORE_FILL(hook, symbol, float, tracestore_uniform_single(place), tracestore_spare_single())

/* long f(...), such as random and lrand48: a whole number from 0 to 2**31 - 1. */
#define TRACESTORE_HOOK_random_long(hook, symbol) \
    TRACESTORE_DRAW_WITHOUT_ARGUMENTS(hook, symbol, long, \
        (long)tracestore_whole(place, TRACESTORE_RANDOM_INT, (const double[]){0x1p31 - 1.0}, 1, 0x1p31), \
        (long)(tracestore_spare() * 0x1p31))

/* unsigned f(...), such as std::random_device: any 32 bits. */
#define TRACESTORE_HOOK_random_word(hook, symbol) \
    TRACESTORE_DRAW_WITHOUT_ARGUMENTS(hook, symbol, unsigned, \
        (unsigned)tracestore_whole(place, TRACESTORE_RANDOM_INT, (const double[]){0x1p32 - 1.0}, 1, 0x1p32), \
        (unsigned)(tracestore_spare() * 0x1p32))

/* double f(..., double scale), such as gsl_ran_gaussian and gsl_ran_exponential: the standard distribution, scaled. */
#define TRACESTORE_SCALED(hook, symbol, drawn) \
    TRACESTORE_HOOK(hook, symbol, double, (TRACESTORE_ANY, double scale)) \
    { \
        int64_t place = TRACESTORE_ENTER(hook); \
        if (place >= 0) \
            return scale * drawn; \
        double (*original)(TRACESTORE_ANY, double) = (double (*)(TRACESTORE_ANY, double))tracestore_original(hook); \
        return original ? original(a, b, c, d, e, f, scale) : scale * tracestore_spare(); \
    }
#define TRACESTORE_HOOK_normal_scaled(hook, symbol) \
    TRACESTORE_SCALED(hook, symbol, tracestore_finite(place, TRACESTORE_NORMAL_DOUBLE))
#define TRACESTORE_HOOK_exponential_scaled(hook, symbol) \
    TRACESTORE_SCALED(hook, symbol, tracestore_positive(place, TRACESTORE_EXPONENTIAL_DOUBLE, 0, 0))

/* double f(..., double first, double second) */
#define TRACESTORE_OF_TWO(hook, symbol, drawn) \
    TRACESTORE_HOOK(hook, symbol, double, (TRACESTORE_ANY, double first, double second)) \
    { \
        int64_t place = TRACESTORE_ENTER(hook); \
        if (place >= 0) \
            return drawn; \
        double (*original)(TRACESTORE_ANY, double, double) \
            = (double (*)(TRACESTORE_ANY, double, double))tracestore_original(hook); \
        return original ? original(a, b, c, d, e, f, first, second) : first + (second - first) * tracestore_spare(); \
    }
/* A number between two, such as gsl_ran_flat. */
#define TRACESTORE_HOOK_uniform_between(hook, symbol) \
    TRACESTORE_OF_TWO(hook, symbol, first + (second - first) * tracestore_uniform(place))
/* Gamma with shape and scale, such as gsl_ran_gamma. */
#define TRACESTORE_HOOK_gamma_scaled(hook, symbol) \
    TRACESTORE_OF_TWO(hook, symbol, \
        second * tracestore_positive(place, TRACESTORE_GAMMA_DOUBLE, (const double[]){first, 1.0}, 2))

#endif
