// Gaussian with unknown mean, drawn by Marsaglia's polar method: a rejection loop without a bound.
//
// `gum_marsaglia ENDPOINT` tells the controller where the loop is and how each pass ends. `gum_marsaglia ENDPOINT plain`
// has the loop as one would write it anyway: a controller sees draws only.
#include <cmath>
#include <cstring>

#include <tracestore/tracestore.hpp>

struct Point {
  double x;
  double norm;
};

Point draw_point() {
  const double x = ts::sample(ts::Uniform(-1.0, 1.0));
  const double y = ts::sample(ts::Uniform(-1.0, 1.0));
  return {x, x * x + y * y};
}

bool is_inside(const Point& point) { return point.norm < 1.0 && point.norm > 0.0; }

double deviate(const Point& point) { return point.x * std::sqrt(-2.0 * std::log(point.norm) / point.norm); }

double marked_loop() {
  Point point{};
  for (auto& attempt : ts::rejection()) {
    point = draw_point();
    if (is_inside(point)) {
      attempt.accept();
    }
  }
  return deviate(point);
}

double plain_loop() {
  Point point{};
  do {
    point = draw_point();
  } while (!is_inside(point));
  return deviate(point);
}

double observe_twice(double mu) {
  const ts::Normal likelihood(mu, std::sqrt(2.0));
  ts::observe(likelihood, "obs0");
  ts::observe(likelihood, "obs1");
  return mu;
}

double marked() { return observe_twice(1.0 + std::sqrt(5.0) * marked_loop()); }

double plain() { return observe_twice(1.0 + std::sqrt(5.0) * plain_loop()); }

int main(int argc, char** argv) {
  if (argc == 3 && std::strcmp(argv[2], "plain") == 0) {
    return ts::program(2, argv, "gum_marsaglia plain", plain);
  }
  return ts::program(argc, argv, "gum_marsaglia", marked);
}
