// A random number generator in a library of its own, as many closed programs have one.
#include "rng.hpp"

#include <cmath>

Rng::Rng(unsigned long seed) : state(seed) {}

double Rng::flat() {
  state = state * 6364136223846793005ul + 1442695040888963407ul;
  return ((state >> 11) + 0.5) / 9007199254740992.0;
}

double Rng::expovariate(double rate) { return -std::log(flat()) / rate; }

int Rng::pick(int count) { return static_cast<int>(count * flat()); }
