// Models that are driven from outside, by tests: `models ENDPOINT NAME`.
#include <cstdio>
#include <cstdlib>
#include <map>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <tracestore/tracestore.hpp>

// Says on standard error that it is gone, so that a test knows that the model was unwound.
struct Resource {
  ~Resource() { std::fputs("released\n", stderr); }
};

double draws_twice() {
  const Resource resource;
  const double first = ts::sample(ts::Uniform(0, 1), "first");
  return first + ts::sample(ts::Uniform(0, 1), "second");
}

double throws_late() {
  const double x = ts::sample(ts::Uniform(0, 1), "x");
  if (x > 0.5) {
    throw std::domain_error("x is beyond one half");
  }
  return x;
}

double dies() {
  ts::sample(ts::Uniform(0, 1), "x");
  std::abort();
}

std::vector<double> every_family() {
  std::vector<double> values = {
      ts::sample(ts::Normal(0.5, 2.0), "normal"),
      ts::sample(ts::Uniform(-1.0, 3.0), "uniform"),
      static_cast<double>(ts::sample(ts::Categorical{0.2, 0.3, 0.5}, "categorical")),
      static_cast<double>(ts::sample(ts::Poisson(2.5), "poisson")),
      static_cast<double>(ts::sample(ts::Bernoulli(0.25), "bernoulli")),
      ts::sample(ts::Beta(2.0, 3.0), "beta"),
      ts::sample(ts::Exponential(4.0), "exponential"),
      ts::sample(ts::Gamma(2.0, 0.5), "gamma"),
      ts::sample(ts::LogNormal(0.25, 0.5), "log_normal"),
      static_cast<double>(ts::sample(ts::Binomial(7, 0.5), "binomial")),
      ts::sample(ts::Weibull(2.0, 1.5), "weibull"),
  };
  return values;
}

ts::Tensor tensors() {
  const ts::Tensor x = ts::sample(ts::Normal(ts::Tensor({0.0, 1.0, 2.0, 3.0}, {2, 2}), 0.5), "x");
  ts::observe(ts::Normal(x, 1.0), ts::Tensor({4.0, 5.0, 6.0, 7.0}, {2, 2}), "y");
  ts::tag(x, "x again");
  return x;
}

double options() {
  const double fixed = ts::sample(ts::Uniform(0, 1), {"noise", false});
  const double placed = ts::sample(ts::Uniform(0, 1), {"placed", true, ts::Address("my place")});
  const double known = ts::observe(ts::Normal(placed, 1.0), 0.25, {"y", ts::Address("seen")});
  const double unknown = ts::observe(ts::Normal(placed, 1.0), "z").value_or(-1.0);
  ts::tag(3, {"channel", ts::Address("tagged")});
  return fixed + known + unknown;
}

double loops() {
  double x = 0.0;
  {
    const ts::RejectionScope scope;
    while (x < 0.25) {
      x = ts::sample(ts::Uniform(0, 1), "plain");
    }
  }
  for (auto& outer : ts::rejection()) {
    for (auto& inner : ts::rejection()) {
      x = ts::sample(ts::Uniform(0, 1), "inner");
      if (x > 0.5) {
        inner.accept();
      }
    }
    outer.accept();
  }
  for (auto& attempt : ts::rejection()) {
    (void)attempt;
    break;
  }
  return x + ts::sample(ts::Uniform(0, 1), "outside");
}

double leaves_loop() {
  try {
    for (auto& attempt : ts::rejection()) {
      (void)attempt;
      ts::sample(ts::Uniform(0, 1), "inside");
      throw std::runtime_error("left");
    }
  } catch (const std::runtime_error&) {
  }
  return ts::sample(ts::Uniform(0, 1), "outside");
}

double other_threads() {
  double drawn = 0.0;
  std::thread([&drawn] { drawn = ts::sample(ts::Uniform(0, 1), "worker"); }).join();
  return drawn + ts::sample(ts::Uniform(0, 1), "own");
}

void no_result() { ts::sample(ts::Uniform(0, 1), "x"); }

double endless() {
  double sum = 0.0;
  while (sum < 1e6) {
    sum += ts::sample(ts::Bernoulli(0.5), "step") == 1 ? 0.5 : 0.25;
  }
  return sum;
}

int main(int argc, char** argv) {
  const std::string name = argc == 3 ? argv[2] : "";
  const std::map<std::string, double (*)()> models = {
      {"draws_twice", draws_twice}, {"throws_late", throws_late}, {"dies", dies},
      {"options", options},         {"loops", loops},             {"leaves_loop", leaves_loop},
      {"endless", endless},         {"other_threads", other_threads}};
  if (name == "every_family") {
    return ts::program(2, argv, name, every_family);
  }
  if (name == "tensors") {
    return ts::program(2, argv, name, tensors);
  }
  if (name == "no_result") {
    return ts::program(2, argv, name, no_result);
  }
  if (name == "lambda") {
    return ts::program(2, argv, name, [scale = 2.0] { return scale * ts::sample(ts::Uniform(0, 1), "x"); });
  }
  const auto found = models.find(name);
  return found == models.end() ? 2 : ts::program(2, argv, name, found->second);
}
