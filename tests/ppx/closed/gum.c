/* A Normal number by the polar-free Box-Muller transform of two uniform ones; prints it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static double normal(double mean, double sd) {
  double radius = sqrt(-2.0 * log(1.0 - drand48()));
  double angle = 6.283185307179586 * drand48();
  return mean + sd * radius * cos(angle);
}

int main(void) {
  srand48(7);
  printf("mu %.17g\n", normal(1.0, sqrt(5.0)));
  return 0;
}
