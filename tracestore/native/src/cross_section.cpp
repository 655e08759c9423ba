/* A deep-inelastic cross-section d2(sigma) / dx dQ2 of electrons on protons at leading order, with toy parton
 * densities of six parameters; its sum of logs over many events, its integral, and their gradients.
 *
 * The formulas are those of tracestore/simulators/cross_section_formulas.py, in the same order.
 */
#include <cmath>
#include <new>

#include "tracestore_kernel.h"

/* Where glibc has vectorized versions of exp and log, loops marked `omp simd` call those. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && defined(TRACESTORE_SIMD)
#pragma omp declare simd notinbranch
extern "C" double exp(double) noexcept;
#pragma omp declare simd notinbranch
extern "C" double log(double) noexcept;
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

namespace {

constexpr int P = 6; /* intercept, up_power, down_power, sea, slope, evolution */
constexpr int64_t BLOCK = 512;
constexpr int NODES_X = 40, NODES_Q2 = 20, NODES = NODES_X * NODES_Q2;

constexpr double COUPLING = 1.3028e5; /* 2 pi alpha^2 (hbar c)^2 in pb GeV^2 */
constexpr double S = 101124.0;        /* square of the energy, 318 GeV */
constexpr double LOG_LAMBDA2 = -3.2188758248682006; /* log(0.04 GeV^2) */
constexpr double LOG_START = 1.5271796258079011;    /* log(log(4 / 0.04)) */
constexpr double LOWEST_X = 0.01, HIGHEST_X = 0.75, LOWEST_Q2 = 4.0, HIGHEST_Q2 = 1000.0;
constexpr double SEA_POWER = 7.0;

double digamma(double x) {
    double sum = 0.0;
    for (; x < 8.0; x += 1.0) sum -= 1.0 / x;
    const double inverse = 1.0 / (x * x);
    double series = 691.0 / 32760.0;
    for (double term : {1.0 / 132.0, 1.0 / 240.0, 1.0 / 252.0, 1.0 / 120.0, 1.0 / 12.0}) series = term - series * inverse;
    return sum + std::log(x) - 0.5 / x - series * inverse;
}

/* One row of parameters, and what follows from it for all points. */
struct Row {
    double intercept, up_power, down_power, sea, slope, evolution;
    double log_up, log_down, log_sea;
    double up_by_intercept, up_by_power, down_by_intercept, down_by_power;

    explicit Row(const double *p)
        : intercept(p[0]), up_power(p[1]), down_power(p[2]), sea(p[3]), slope(p[4]), evolution(p[5]) {
        log_up = std::log(2.0 * 4.0 / 9.0) - log_beta(intercept, up_power + 1.0);
        log_down = std::log(1.0 / 9.0) - log_beta(intercept, down_power + 1.0);
        log_sea = std::log(sea);
        up_by_power = digamma(intercept + up_power + 1.0);
        down_by_power = digamma(intercept + down_power + 1.0);
        up_by_intercept = up_by_power - digamma(intercept);
        down_by_intercept = down_by_power - digamma(intercept);
        up_by_power -= digamma(up_power + 1.0);
        down_by_power -= digamma(down_power + 1.0);
    }

    static double log_beta(double a, double b) { return std::lgamma(a) + std::lgamma(b) - std::lgamma(a + b); }
};

/* What the formula needs of each point of a block; outside of the region of the measurement nothing is seen. */
struct Features {
    double log_x[BLOCK], log_rest[BLOCK], scale[BLOCK], factor[BLOCK];
};

FOR_EACH_PROCESSOR void fill(Features &f, const double *points, int64_t count) {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
        const double given_x = points[2 * i], given_q2 = points[2 * i + 1];
        /* no short circuits, which would keep the loop from being vectorized */
        const bool is_inside = (given_x >= LOWEST_X) & (given_x <= HIGHEST_X) & (given_q2 >= LOWEST_Q2) &
                               (given_q2 <= HIGHEST_Q2);
        const double x = is_inside ? given_x : 0.1, q2 = is_inside ? given_q2 : 10.0;
        f.log_x[i] = log(x);
        f.log_rest[i] = log(1.0 - x);
        f.scale[i] = log(log(q2) - LOG_LAMBDA2) - LOG_START;
        const double rest = 1.0 - q2 / (S * x);
        const double factor = COUPLING * (1.0 + rest * rest) / (x * q2 * q2);
        f.factor[i] = is_inside ? factor : 0.0;
    }
}

/* The three parts of the structure function F2 of each point: up, down and sea quarks, each with its charges. */
FOR_EACH_PROCESSOR void parts(const Row &r, const Features &f, int64_t count, double *up, double *down, double *sea) {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
        const double softer = r.evolution * f.scale[i];
        const double common = r.intercept * f.log_x[i];
        up[i] = exp(r.log_up + common + (r.up_power + softer) * f.log_rest[i]);
        down[i] = exp(r.log_down + common + (r.down_power + softer) * f.log_rest[i]);
        sea[i] = exp(r.log_sea - r.slope * (1.0 + f.scale[i]) * f.log_x[i] + SEA_POWER * f.log_rest[i]);
    }
}

FOR_EACH_PROCESSOR double log_sum(const Features &f, int64_t count, const double *up, const double *down,
                                  const double *sea) {
    double total = 0.0;
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < count; ++i) total += log(f.factor[i] * (up[i] + down[i] + sea[i]));
    return total;
}

/* Add the sums over points of what the gradient is made of, where point i counts weight[i] / (what `out` is of). */
struct Moments {
    double up = 0.0, down = 0.0, sea = 0.0, up_x = 0.0, up_rest = 0.0, down_rest = 0.0, sea_x = 0.0, softer = 0.0;

    FOR_EACH_PROCESSOR void add(const Features &f, int64_t count, const double *weight, const double *ups,
                                const double *downs, const double *seas) {
        double s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0, s5 = 0, s6 = 0, s7 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3, s4, s5, s6, s7)
        for (int64_t i = 0; i < count; ++i) {
            const double u = weight[i] * ups[i], d = weight[i] * downs[i], s = weight[i] * seas[i];
            s0 += u;
            s1 += d;
            s2 += s;
            s3 += (u + d) * f.log_x[i];
            s4 += u * f.log_rest[i];
            s5 += d * f.log_rest[i];
            s6 += s * (1.0 + f.scale[i]) * f.log_x[i];
            s7 += (u + d) * f.scale[i] * f.log_rest[i];
        }
        up += s0, down += s1, sea += s2, up_x += s3, up_rest += s4, down_rest += s5, sea_x += s6, softer += s7;
    }

    void add(const Moments &o) {
        up += o.up, down += o.down, sea += o.sea, up_x += o.up_x, up_rest += o.up_rest, down_rest += o.down_rest;
        sea_x += o.sea_x, softer += o.softer;
    }

    void gradient(const Row &r, double weight, double *out) const {
        out[0] = weight * (up * r.up_by_intercept + down * r.down_by_intercept + up_x);
        out[1] = weight * (up * r.up_by_power + up_rest);
        out[2] = weight * (down * r.down_by_power + down_rest);
        out[3] = weight * sea / r.sea;
        out[4] = -weight * sea_x;
        out[5] = weight * softer;
    }
};

std::vector<Row> read_rows(int64_t num_rows, const double *parameters) {
    std::vector<Row> rows;
    rows.reserve(num_rows);
    for (int64_t row = 0; row < num_rows; ++row) rows.emplace_back(parameters + row * P);
    return rows;
}

struct Scratch {
    Features features;
    double up[BLOCK], down[BLOCK], sea[BLOCK], weight[BLOCK];
};

/* Sum of logs over events; one pass gives the gradient, too. Sums of blocks are added in their order. */
int32_t sum_of_logs(int64_t num_rows, int64_t num_points, const double *parameters, const double *points,
                    const double *weights, double *out, double *gradient, int32_t num_threads) {
    const auto rows = read_rows(num_rows, parameters);
    const int64_t num_blocks = (num_points + BLOCK - 1) / BLOCK;
    std::vector<double> sums(num_blocks * num_rows);
    std::vector<Moments> moments(gradient ? num_blocks * num_rows : 0);
    const int32_t threads = tracestore::worthwhile_threads(num_points * num_rows, num_threads);
    tracestore::for_blocks(num_points, BLOCK, threads, [&](int64_t block, int64_t begin, int64_t end) {
        Scratch t;
        const int64_t count = end - begin;
        fill(t.features, points + 2 * begin, count);
        for (int64_t row = 0; row < num_rows; ++row) {
            parts(rows[row], t.features, count, t.up, t.down, t.sea);
            sums[block * num_rows + row] = log_sum(t.features, count, t.up, t.down, t.sea);
            if (!gradient) continue;
            for (int64_t i = 0; i < count; ++i) t.weight[i] = 1.0 / (t.up[i] + t.down[i] + t.sea[i]);
            moments[block * num_rows + row].add(t.features, count, t.weight, t.up, t.down, t.sea);
        }
    });
    for (int64_t row = 0; row < num_rows; ++row) {
        double total = 0.0;
        Moments all;
        for (int64_t block = 0; block < num_blocks; ++block) {
            total += sums[block * num_rows + row];
            if (gradient) all.add(moments[block * num_rows + row]);
        }
        if (out) out[row] = total;
        if (gradient) all.gradient(rows[row], weights[row], gradient + row * P);
    }
    return 0;
}

/* Nodes and weights of Gauss-Legendre quadrature on [-1, 1], by Newton's method. */
void gauss_legendre(int order, double *node, double *weight) {
    for (int i = 0; i < order; ++i) {
        double z = std::cos(M_PI * (i + 0.75) / (order + 0.5)), slope = 1.0;
        for (int step = 0; step < 100; ++step) {
            double p = 1.0, before = 0.0;
            for (int k = 0; k < order; ++k) {
                const double older = before;
                before = p;
                p = ((2.0 * k + 1.0) * z * before - k * older) / (k + 1.0);
            }
            slope = order * (z * p - before) / (z * z - 1.0);
            const double change = p / slope;
            z -= change;
            if (std::fabs(change) < 1e-15) break;
        }
        node[i] = z;
        weight[i] = 2.0 / ((1.0 - z * z) * slope * slope);
    }
}

/* Points of the quadrature in log x and log Q2, with the weights that turn values there into the integral. */
struct Quadrature {
    double points[2 * NODES], weight[NODES];

    Quadrature() {
        double node_x[NODES_X], weight_x[NODES_X], node_q2[NODES_Q2], weight_q2[NODES_Q2];
        gauss_legendre(NODES_X, node_x, weight_x);
        gauss_legendre(NODES_Q2, node_q2, weight_q2);
        const double half_x = 0.5 * std::log(HIGHEST_X / LOWEST_X), half_q2 = 0.5 * std::log(HIGHEST_Q2 / LOWEST_Q2);
        for (int i = 0; i < NODES_X; ++i)
            for (int j = 0; j < NODES_Q2; ++j) {
                const int k = i * NODES_Q2 + j;
                const double x = LOWEST_X * std::exp(half_x * (1.0 + node_x[i]));
                const double q2 = LOWEST_Q2 * std::exp(half_q2 * (1.0 + node_q2[j]));
                points[2 * k] = x;
                points[2 * k + 1] = q2;
                weight[k] = weight_x[i] * half_x * x * weight_q2[j] * half_q2 * q2;
            }
    }
};

/* The integral over the region of the measurement. */
int32_t integral(int64_t num_rows, const double *parameters, const double *weights, double *out, double *gradient,
                 int32_t num_threads) {
    static const Quadrature quadrature;
    const auto rows = read_rows(num_rows, parameters);
    const int32_t threads = tracestore::worthwhile_threads(num_rows * NODES, num_threads);
    tracestore::for_blocks(num_rows, 1, threads, [&](int64_t row, int64_t, int64_t) {
        Scratch t;
        Moments all;
        double total = 0.0;
        for (int64_t begin = 0; begin < NODES; begin += BLOCK) {
            const int64_t count = std::min<int64_t>(BLOCK, NODES - begin);
            fill(t.features, quadrature.points + 2 * begin, count);
            parts(rows[row], t.features, count, t.up, t.down, t.sea);
            for (int64_t i = 0; i < count; ++i) {
                t.weight[i] = quadrature.weight[begin + i] * t.features.factor[i];
                total += t.weight[i] * (t.up[i] + t.down[i] + t.sea[i]);
            }
            if (gradient) all.add(t.features, count, t.weight, t.up, t.down, t.sea);
        }
        if (out) out[row] = total;
        if (gradient) all.gradient(rows[row], weights[row], gradient + row * P);
    });
    return 0;
}

/* The cross-section at each point. */
int32_t at_points(int64_t num_rows, int64_t num_points, const double *parameters, const double *points,
                  const double *weights, double *out, double *gradient, int32_t num_threads) {
    const auto rows = read_rows(num_rows, parameters);
    const int64_t num_blocks = (num_points + BLOCK - 1) / BLOCK;
    std::vector<Moments> moments(gradient ? num_blocks * num_rows : 0);
    const int32_t threads = tracestore::worthwhile_threads(num_points * num_rows, num_threads);
    tracestore::for_blocks(num_points, BLOCK, threads, [&](int64_t block, int64_t begin, int64_t end) {
        Scratch t;
        const int64_t count = end - begin;
        fill(t.features, points + 2 * begin, count);
        for (int64_t row = 0; row < num_rows; ++row) {
            parts(rows[row], t.features, count, t.up, t.down, t.sea);
            double *here = out ? out + row * num_points + begin : nullptr;
            for (int64_t i = 0; here && i < count; ++i) here[i] = t.features.factor[i] * (t.up[i] + t.down[i] + t.sea[i]);
            if (!gradient) continue;
            const double *given = weights + row * num_points + begin;
            for (int64_t i = 0; i < count; ++i) t.weight[i] = given[i] * t.features.factor[i];
            moments[block * num_rows + row].add(t.features, count, t.weight, t.up, t.down, t.sea);
        }
    });
    for (int64_t row = 0; gradient && row < num_rows; ++row) {
        Moments all;
        for (int64_t block = 0; block < num_blocks; ++block) all.add(moments[block * num_rows + row]);
        all.gradient(rows[row], 1.0, gradient + row * P);
    }
    return 0;
}

constexpr int32_t NO_MEMORY = 12;

}  // namespace

TRACESTORE_KERNEL(sum_of_log_cross_sections, P, 2, TRACESTORE_PER_ROW)
TRACESTORE_KERNEL(total_cross_section, P, 0, TRACESTORE_PER_ROW)
TRACESTORE_KERNEL(cross_section, P, 2, TRACESTORE_PER_POINT)

TRACESTORE_EXPORT int32_t sum_of_log_cross_sections(int64_t rows, int64_t n, const double *parameters,
                                                    const double *points, double *out, int32_t threads) try {
    return sum_of_logs(rows, n, parameters, points, nullptr, out, nullptr, threads);
} catch (const std::bad_alloc &) { return NO_MEMORY; }

TRACESTORE_EXPORT int32_t sum_of_log_cross_sections_gradient(int64_t rows, int64_t n, const double *parameters,
                                                             const double *points, const double *weights, double *out,
                                                             double *gradient, int32_t threads) try {
    return sum_of_logs(rows, n, parameters, points, weights, out, gradient, threads);
} catch (const std::bad_alloc &) { return NO_MEMORY; }

TRACESTORE_EXPORT int32_t total_cross_section(int64_t rows, int64_t, const double *parameters, const double *,
                                              double *out, int32_t threads) try {
    return integral(rows, parameters, nullptr, out, nullptr, threads);
} catch (const std::bad_alloc &) { return NO_MEMORY; }

TRACESTORE_EXPORT int32_t total_cross_section_gradient(int64_t rows, int64_t, const double *parameters, const double *,
                                                       const double *weights, double *out, double *gradient,
                                                       int32_t threads) try {
    return integral(rows, parameters, weights, out, gradient, threads);
} catch (const std::bad_alloc &) { return NO_MEMORY; }

TRACESTORE_EXPORT int32_t cross_section(int64_t rows, int64_t n, const double *parameters, const double *points,
                                        double *out, int32_t threads) try {
    return at_points(rows, n, parameters, points, nullptr, out, nullptr, threads);
} catch (const std::bad_alloc &) { return NO_MEMORY; }

TRACESTORE_EXPORT int32_t cross_section_gradient(int64_t rows, int64_t n, const double *parameters,
                                                 const double *points, const double *weights, double *out,
                                                 double *gradient, int32_t threads) try {
    return at_points(rows, n, parameters, points, weights, out, gradient, threads);
} catch (const std::bad_alloc &) { return NO_MEMORY; }
