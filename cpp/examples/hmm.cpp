// Hidden Markov model of three states and sixteen observed steps.
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <tracestore/tracestore.hpp>

const std::array<double, 16> observations = {0.9, 0.8,  0.7,  0.0, -0.025, -5.0, -2.0, -0.1,
                                             0.0, 0.13, 0.45, 6.0, 0.2,    0.3,  -1.0, -1.0};
const std::array<double, 3> means = {-1.0, 1.0, 0.0};

std::vector<double> hmm() {
  const ts::Categorical initial{1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0};
  const std::array<ts::Categorical, 3> transition = {
      ts::Categorical{0.1, 0.5, 0.4}, ts::Categorical{0.2, 0.2, 0.6}, ts::Categorical{0.15, 0.15, 0.7}};
  std::int64_t state = ts::sample(initial, "state0");
  std::vector<double> states = {static_cast<double>(state)};
  for (std::size_t step = 0; step < observations.size(); ++step) {
    const std::string number = std::to_string(step);
    state = ts::sample(transition.at(static_cast<std::size_t>(state)), "state" + std::to_string(step + 1));
    ts::observe(ts::Normal(means.at(static_cast<std::size_t>(state)), 1.0), observations[step], "obs" + number);
    states.push_back(static_cast<double>(state));
  }
  return states;
}

int main(int argc, char** argv) { return ts::program(argc, argv, "hmm", hmm); }
