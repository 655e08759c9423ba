#include <limits>
#include <type_traits>
#include <vector>

#include <tracestore/tracestore.hpp>

#include "check.hpp"

using ts::Tensor;

CASE(numbers_of_any_kind_make_one_draw) {
  static_assert(std::is_same_v<decltype(ts::Normal(0, 1)), ts::Normal<double>>);
  static_assert(std::is_same_v<decltype(ts::Normal(0.0F, 1.0))::Value, double>);
  static_assert(std::is_same_v<decltype(ts::Poisson(3))::Value, std::int64_t>);
  static_assert(std::is_same_v<ts::Categorical::Value, std::int64_t>);
  CHECK(ts::Normal(1, 2).parameters()[1] == 2.0);
}

CASE(a_tensor_makes_a_draw_of_its_shape) {
  static_assert(std::is_same_v<decltype(ts::Normal(Tensor{0.0}, 1))::Value, Tensor>);
  static_assert(std::is_same_v<decltype(ts::Poisson(std::vector<double>{1.0}))::Value, Tensor>);
  const ts::Normal prior(Tensor({1.0, 2.0, 3.0, 4.0}, {2, 2}), 0.5);
  CHECK(prior.parameters()[1] == Tensor({0.5, 0.5, 0.5, 0.5}, {2, 2}));
}

CASE(copies_are_equal) {
  const ts::Gamma prior(2.0, 3.0);
  ts::Gamma copy(prior);
  const ts::Gamma again = copy;
  CHECK(again.parameters() == prior.parameters());
}

CASE(families_are_numbered_as_on_the_wire) {
  CHECK(static_cast<int>(decltype(ts::Normal(0, 1))::family) == 1);
  CHECK(static_cast<int>(ts::Categorical::family) == 3);
  CHECK(static_cast<int>(decltype(ts::LogNormal(0, 1))::family) == 9);
  CHECK(static_cast<int>(decltype(ts::Weibull(1, 1))::family) == 11);
}

CASE(shapes_must_agree) {
  CHECK_THROWS(ts::InvalidInputError, "tensors of one shape; got the shapes [2] and [3]",
               ts::Normal(Tensor{0.0, 0.0}, Tensor{1.0, 1.0, 1.0}));
  CHECK_THROWS(ts::InvalidInputError, "must have elements", ts::Poisson(Tensor(std::vector<double>{})));
  CHECK_THROWS(ts::InvalidInputError, "must fit its numbers", Tensor({1.0, 2.0}, {3}));
  CHECK_THROWS(ts::InvalidInputError, "must not be negative", Tensor({1.0}, {-1, -1}));
}

CASE(invalid_parameters_are_refused) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  CHECK_THROWS(ts::InvalidInputError, "stddev of Normal must be a positive finite number; got 0", ts::Normal(0, 0));
  CHECK_THROWS(ts::InvalidInputError, "mean of Normal", ts::Normal(nan, 1));
  CHECK_THROWS(ts::InvalidInputError, "low of Uniform must be below high", ts::Uniform(1, 1));
  CHECK_THROWS(ts::InvalidInputError, "high of Uniform", ts::Uniform(0, infinity));
  CHECK_THROWS(ts::InvalidInputError, "rate of Poisson", ts::Poisson(-1));
  CHECK_THROWS(ts::InvalidInputError, "probs of Bernoulli", ts::Bernoulli(Tensor{0.5, 1.5}));
  CHECK_THROWS(ts::InvalidInputError, "total_count of Binomial must be a whole number", ts::Binomial(2.5, 0.5));
  CHECK_THROWS(ts::InvalidInputError, "one of them positive", ts::Categorical({0.0, 0.0}));
  CHECK_THROWS(ts::InvalidInputError, "not negative; got -1", ts::Categorical({2.0, -1.0}));
  CHECK_THROWS(ts::InvalidInputError, "one row of weights", ts::Categorical(Tensor({0.5, 0.5}, {1, 2})));
}
