// A charged particle crosses eight layers of silicon: it scatters a little in each, some layers miss it, and each hit
// is measured with noise. From the measured positions one asks for the momentum.
//
// An ordinary simulator with classes of its own; only its random numbers come from tracestore.
#include <cmath>
#include <string>
#include <vector>

#include <tracestore/tracestore.hpp>

constexpr int num_layers = 8;
constexpr double pitch_mm = 30.0;           // between layers
constexpr double resolution_mm = 0.05;      // of a measured position
constexpr double radiation_lengths = 0.02;  // thickness of a layer
constexpr double curvature_per_gev = 3e-4;  // bending of a track of 1 GeV, in rad/mm

struct Track {
  double momentum_gev;
  double position_mm = 0.0;
  double angle = 0.0;

  void propagate(double distance_mm) {
    const double bend = curvature_per_gev / momentum_gev * distance_mm;
    position_mm += distance_mm * (angle + bend / 2.0);
    angle += bend;
  }

  // Multiple scattering, after Highland.
  void scatter() {
    const double width = 0.0136 / momentum_gev * std::sqrt(radiation_lengths);
    angle += ts::sample(ts::Normal(0.0, width));
  }
};

class Layer {
 public:
  explicit Layer(int number) : number_(number) {}

  // The measured position; the far layers are old and miss a tenth of the tracks.
  double measure(const Track& track) const {
    const double efficiency = number_ < 4 ? 0.99 : 0.90;
    const bool is_hit = ts::sample(ts::Bernoulli(efficiency), "hit" + std::to_string(number_)) == 1;
    const double width = is_hit ? resolution_mm : 10.0;  // a layer that was not hit shows noise
    const ts::Normal response(is_hit ? track.position_mm : 0.0, width);
    return ts::observe(response, "y" + std::to_string(number_)).value_or(0.0);
  }

 private:
  int number_;
};

double detector() {
  Track track{ts::sample(ts::Uniform(0.2, 5.0), "momentum")};
  track.angle = ts::sample(ts::Normal(0.0, 0.01), "angle");
  double farthest_mm = 0.0;
  for (int number = 0; number < num_layers; ++number) {
    track.propagate(pitch_mm);
    farthest_mm = std::fmax(farthest_mm, std::fabs(Layer(number).measure(track)));
    track.scatter();
  }
  ts::tag(farthest_mm, "farthest");
  return track.momentum_gev;
}

int main(int argc, char** argv) { return ts::program(argc, argv, "detector", detector); }
