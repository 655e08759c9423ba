// Draws without a controller against the means of their families.
#include <cmath>
#include <cstddef>
#include <cstdint>

#include <tracestore/tracestore.hpp>

#include "check.hpp"

namespace {

constexpr int num_draws = 20000;

// The mean of many draws, in standard errors from what it should be.
template <class Prior>
double deviation(const Prior& prior, double mean, double stddev) {
  ts::seed(7);
  double sum = 0.0;
  for (int draw = 0; draw < num_draws; ++draw) {
    sum += static_cast<double>(ts::sample(prior));
  }
  return std::fabs(sum / num_draws - mean) / (stddev / std::sqrt(static_cast<double>(num_draws)));
}

}  // namespace

CASE(means_are_right) {
  CHECK(deviation(ts::Normal(1.5, 2.0), 1.5, 2.0) < 4.0);
  CHECK(deviation(ts::Uniform(-1.0, 3.0), 1.0, 4.0 / std::sqrt(12.0)) < 4.0);
  CHECK(deviation(ts::Categorical{1.0, 1.0, 2.0}, 1.25, std::sqrt(0.6875)) < 4.0);
  CHECK(deviation(ts::Poisson(4.0), 4.0, 2.0) < 4.0);
  CHECK(deviation(ts::Bernoulli(0.3), 0.3, std::sqrt(0.21)) < 4.0);
  CHECK(deviation(ts::Beta(2.0, 3.0), 0.4, 0.2) < 4.0);
  CHECK(deviation(ts::Exponential(4.0), 0.25, 0.25) < 4.0);
  CHECK(deviation(ts::Gamma(2.0, 4.0), 0.5, std::sqrt(2.0) / 4.0) < 4.0);
  CHECK(deviation(ts::LogNormal(0.0, 0.5), std::exp(0.125), std::sqrt(std::expm1(0.25) * std::exp(0.25))) < 4.0);
  CHECK(deviation(ts::Binomial(10, 0.3), 3.0, std::sqrt(2.1)) < 4.0);
  CHECK(deviation(ts::Weibull(2.0, 1.5), 2.0 * std::tgamma(1.0 + 1.0 / 1.5),
                  2.0 * std::sqrt(std::tgamma(1.0 + 2.0 / 1.5) - std::pow(std::tgamma(1.0 + 1.0 / 1.5), 2.0))) < 4.0);
}

CASE(the_ends_of_parameters_work) {
  ts::seed(1);
  CHECK(ts::sample(ts::Poisson(0.0)) == 0);
  CHECK(ts::sample(ts::Binomial(0, 0.5)) == 0);
  CHECK(ts::sample(ts::Bernoulli(1.0)) == 1);
  const double end = ts::sample(ts::Beta(1e-300, 1e-300));
  CHECK(end == 0.0 || end == 1.0);
  CHECK(ts::sample(ts::Gamma(1e-9, 1.0)) > 0.0);
}

CASE(elements_have_their_own_parameters) {
  ts::seed(2);
  const ts::Tensor low({0.0, 10.0, 20.0, 30.0}, {2, 2});
  const ts::Tensor high({1.0, 11.0, 21.0, 31.0}, {2, 2});
  const ts::Tensor drawn = ts::sample(ts::Uniform(low, high));
  CHECK(drawn.shape() == (std::vector<std::int32_t>{2, 2}));
  for (std::size_t index = 0; index < 4; ++index) {
    CHECK(std::floor(drawn[index]) == 10.0 * static_cast<double>(index));
  }
}
