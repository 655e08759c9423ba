/* Calls functions of the forms that libraries of random numbers have; they are never executed here. */
#include <stdio.h>
#include <stdlib.h>

extern void fill_double(double *), fill_float(float *);
extern unsigned random_word(void *);
extern double normal_scaled(void *, double), exponential_scaled(void *, double);
extern double uniform_between(void *, double, double), gamma_scaled(void *, double, double);

int main(void) {
  double number;
  float single;
  fill_double(&number);
  fill_float(&single);
  printf("%.9g %.9g %ld %u\n", number, single, random(), random_word(NULL));
  printf("%.9g ", normal_scaled(NULL, 8.0));
  printf("%.9g ", exponential_scaled(NULL, 8.0));
  printf("%.9g ", uniform_between(NULL, 10.0, 20.0));
  printf("%.9g\n", gamma_scaled(NULL, 3.0, 8.0));
  return 0;
}
