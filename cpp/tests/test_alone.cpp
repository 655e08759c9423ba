// Models without a controller.
#include <tracestore/tracestore.hpp>

#include "check.hpp"

// cases run in this order: this one before any seed
CASE(draws_need_a_seed) { CHECK_THROWS(ts::Error, "tracestore::seed", ts::sample(ts::Normal(0, 1))); }

CASE(a_seed_fixes_the_draws) {
  ts::seed(5);
  const double first = ts::sample(ts::Normal(0, 1), "x");
  const double second = ts::sample(ts::Normal(0, 1), {"x", false});
  ts::seed(5);
  CHECK(ts::sample(ts::Normal(0, 1), ts::Address("place")) == first);
  CHECK(second != first);
}

CASE(a_given_observation_is_returned) {
  CHECK(ts::observe(ts::Normal(0, 1), 3.0, "y") == 3.0);
  CHECK(ts::observe(ts::Poisson(2.0), 4, "n") == 4);
}

CASE(an_absent_observation_is_drawn) {
  ts::seed(5);
  CHECK(ts::observe(ts::Uniform(2.0, 3.0), "y").value() >= 2.0);
}

CASE(an_observation_must_have_the_shape_of_its_distribution) {
  CHECK_THROWS(ts::InvalidInputError, "the shape [2] of its distribution; got [3]",
               ts::observe(ts::Normal(ts::Tensor{0.0, 0.0}, 1.0), ts::Tensor{1.0, 2.0, 3.0}, "y"));
}

CASE(a_tag_is_nothing) {
  ts::tag(3, "channel");
  CHECK_THROWS(ts::InvalidInputError, "channel has none", ts::tag(std::vector<double>{}, "channel"));
}

CASE(a_loop_ends_with_the_accepted_pass) {
  int num_passes = 0;
  for (auto& attempt : ts::rejection()) {
    if (++num_passes == 3) {
      attempt.accept();
    }
  }
  CHECK(num_passes == 3);
}

CASE(a_loop_can_be_broken) {
  int num_passes = 0;
  const ts::RejectionScope scope;
  for (auto& attempt : ts::rejection()) {
    CHECK(!attempt.is_accepted());
    ++num_passes;
    break;
  }
  CHECK(num_passes == 1);
}
