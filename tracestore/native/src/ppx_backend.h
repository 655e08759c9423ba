/* Backend of the wrappers: a PPX session, which ppx_preload.c holds. A draw becomes a family of the PPX schema with its
 * parameters; whole numbers from large ranges become the whole part of a uniform number. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define TRACESTORE_ON_UNUSABLE \
    do { \
        fputs("tracestore: the controller gave a value that the drawing function cannot return\n", stderr); \
        abort(); \
    } while (0)
#include "wrappers.h"

#define TRACESTORE_MOST_CATEGORIES 1024

enum { TRACESTORE_PPX_NORMAL = 1, TRACESTORE_PPX_UNIFORM, TRACESTORE_PPX_CATEGORICAL, TRACESTORE_PPX_EXPONENTIAL = 7,
       TRACESTORE_PPX_GAMMA };

/* In ppx_preload.c. */
int64_t tracestore_place(void);
double tracestore_draw(int64_t place, int32_t family, const double *parameters, int64_t count);

static int64_t tracestore_enter(int32_t hook, void **frame, void *caller)
{
    (void)hook, (void)frame, (void)caller;
    return tracestore_place();
}

static __attribute__((unused)) void *tracestore_original(int32_t hook)
{
    (void)hook;
    return 0;
}

static double tracestore_between(int64_t place, double limit)
{
    return tracestore_draw(place, TRACESTORE_PPX_UNIFORM, (const double[]){0.0, limit}, 2);
}

/* A number in (0, 1); an end, which the controller may give, is moved inside. */
static double tracestore_inside(double value)
{
    return value <= 0.0 ? 0x1p-53 : value >= 1.0 ? 1.0 - 0x1p-53 : value;
}

/* Categorical; weights need not sum to one, without any all are equal. */
static double tracestore_category(int64_t place, const double *weights, int64_t n)
{
    double *probabilities = malloc((size_t)n * sizeof *probabilities), sum = 0.0;
    if (!probabilities)
        return NAN;
    for (int64_t i = 0; i < n; i++)
        sum += probabilities[i] = weights ? weights[i] : 1.0;
    for (int64_t i = 0; i < n; i++)
        probabilities[i] /= sum;
    double value = tracestore_draw(place, TRACESTORE_PPX_CATEGORICAL, probabilities, n);
    free(probabilities);
    return value;
}

static double tracestore_value(int64_t place, int32_t kind, const double *args, int64_t n)
{
    switch (kind) {
    case TRACESTORE_EXPONENTIAL_DOUBLE:
        return tracestore_draw(place, TRACESTORE_PPX_EXPONENTIAL, (const double[]){1.0}, 1);
    case TRACESTORE_NORMAL_DOUBLE:
        return tracestore_draw(place, TRACESTORE_PPX_NORMAL, (const double[]){0.0, 1.0}, 2);
    case TRACESTORE_GAMMA_DOUBLE:
        return tracestore_draw(place, TRACESTORE_PPX_GAMMA, args, 2);
    case TRACESTORE_PICK_VECTOR:
        return tracestore_category(place, args, n);
    case TRACESTORE_RANDOM_INT:
        return floor(tracestore_inside(tracestore_between(place, args[0] + 1.0) / (args[0] + 1.0)) * (args[0] + 1.0));
    case TRACESTORE_INTEGER_BELOW:
        if (args[0] <= TRACESTORE_MOST_CATEGORIES)
            return tracestore_category(place, 0, (int64_t)args[0]);
        return floor(tracestore_inside(tracestore_between(place, args[0]) / args[0]) * args[0]);
    default:
        return tracestore_inside(tracestore_between(place, 1.0));
    }
}
