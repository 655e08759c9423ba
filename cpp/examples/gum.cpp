// Gaussian with unknown mean: one draw, two observations.
#include <cmath>

#include <tracestore/tracestore.hpp>

double gum() {
  const double mu = ts::sample(ts::Normal(1.0, std::sqrt(5.0)), "mu");
  const ts::Normal likelihood(mu, std::sqrt(2.0));
  ts::observe(likelihood, "obs0");
  ts::observe(likelihood, "obs1");
  return mu;
}

int main(int argc, char** argv) { return ts::program(argc, argv, "gum", gum); }
