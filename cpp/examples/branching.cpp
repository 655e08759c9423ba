// Poisson with data-dependent control flow: which draws are made depends on the first.
#include <cstdint>
#include <utility>

#include <tracestore/tracestore.hpp>

// 1, 1, 1, 2, 3, 5, ...
double fibonacci(std::int64_t n) {
  double a = 1.0;
  double b = 1.0;
  for (std::int64_t step = 1; step < n; ++step) {
    a = std::exchange(b, a + b);
  }
  return a;
}

std::int64_t branching() {
  const std::int64_t r = ts::sample(ts::Poisson(4.0), "r");
  double rate = 6.0;
  if (r <= 4) {
    rate = 1.0 + fibonacci(3 * r) + static_cast<double>(ts::sample(ts::Poisson(4.0), "extra"));
  }
  ts::observe(ts::Poisson(rate), "obs");
  return r;
}

int main(int argc, char** argv) { return ts::program(argc, argv, "branching", branching); }
