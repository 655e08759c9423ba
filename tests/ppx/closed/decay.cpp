// A particle decays in one of two ways, one of which draws its angle by rejection; nested functions.
#include "rng.hpp"

#include <cstdio>

namespace Decay {
__attribute__((noinline)) double angle(Rng &rng) {
  for (;;) {
    double cosine = 2.0 * rng.flat() - 1.0;
    if (rng.flat() < 0.5 * (1.0 + cosine * cosine)) return cosine;
  }
}

__attribute__((noinline)) double lifetime(Rng &rng) { return rng.expovariate(2.0); }

__attribute__((noinline)) void run(Rng &rng) {
  double time = lifetime(rng);
  if (rng.flat() < 0.5) std::printf("time %.6f cosine %.6f\n", time, angle(rng));
  else std::printf("time %.6f\n", time);
}
}

int main() {
  Rng rng(20240607);
  Decay::run(rng);
}
