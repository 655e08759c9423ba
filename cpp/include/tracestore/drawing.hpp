// Draws from distributions in this process, for programs that run without a controller.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <type_traits>

#include <tracestore/distributions.hpp>

namespace tracestore::detail {

using Engine = std::mt19937_64;

// Densities on the open half line never give zero.
inline double positive(double number) {
  return number < std::numeric_limits<double>::min() ? std::numeric_limits<double>::min() : number;
}

inline double draw_gamma(double concentration, double rate, Engine& engine) {
  return std::gamma_distribution<double>(concentration, 1.0 / rate)(engine);
}

inline double draw_beta(double concentration1, double concentration0, Engine& engine) {
  const double one = draw_gamma(concentration1, 1.0, engine);
  const double other = draw_gamma(concentration0, 1.0, engine);
  if (one + other > 0.0) {
    return one / (one + other);
  }
  // both concentrations are tiny: the mass is at the ends
  return std::bernoulli_distribution(concentration1 / (concentration1 + concentration0))(engine) ? 1.0 : 0.0;
}

// One number; `second` is unused where there is one parameter.
inline double draw_number(Family family, double first, double second, Engine& engine) {
  switch (family) {
    case Family::normal:
      return std::normal_distribution<double>(first, second)(engine);
    case Family::uniform:
      return std::uniform_real_distribution<double>(first, second)(engine);
    case Family::poisson:
      return first == 0.0 ? 0.0 : static_cast<double>(std::poisson_distribution<std::int64_t>(first)(engine));
    case Family::bernoulli:
      return std::bernoulli_distribution(first)(engine) ? 1.0 : 0.0;
    case Family::beta:
      return draw_beta(first, second, engine);
    case Family::exponential:
      return positive(std::exponential_distribution<double>(first)(engine));
    case Family::gamma:
      return positive(draw_gamma(first, second, engine));
    case Family::log_normal:
      return positive(std::exp(std::normal_distribution<double>(first, second)(engine)));
    case Family::binomial:
      return static_cast<double>(
          std::binomial_distribution<std::int64_t>(static_cast<std::int64_t>(first), second)(engine));
    case Family::weibull:
      return positive(std::weibull_distribution<double>(second, first)(engine));
    case Family::categorical:
      break;  // has a row of parameters, see below
  }
  return std::numeric_limits<double>::quiet_NaN();
}

inline std::int64_t draw(const Categorical& prior, Engine& engine) {
  const Tensor& probs = prior.parameters()[0];
  return std::discrete_distribution<std::int64_t>(probs.begin(), probs.end())(engine);
}

template <class Prior>
typename Prior::Value draw(const Prior& prior, Engine& engine) {
  const auto& parameters = prior.parameters();
  const auto& last = parameters[Prior::num_parameters - 1];
  if constexpr (std::is_same_v<typename Prior::Value, Tensor>) {
    Tensor values = parameters[0];
    for (std::size_t index = 0; index < values.size(); ++index) {
      values[index] = draw_number(Prior::family, parameters[0][index], last[index], engine);
    }
    return values;
  } else {
    return static_cast<typename Prior::Value>(draw_number(Prior::family, parameters[0], last, engine));
  }
}

}  // namespace tracestore::detail
