/* Draws through a function pointer, as Fortran programs that take a source of random numbers do; and in callbacks. */
#include <stdio.h>
#include <stdlib.h>

typedef double (*Source)(void);

static double three_times(Source source) { return source() + source() + source(); }

static int compare(const void *left, const void *right) {
  (void)left, (void)right;
  return drand48() < 0.5 ? -1 : 1;
}

int main(void) {
  volatile Source source = drand48;
  int pair[2] = {1, 2};
  double sum = three_times(source);
  qsort(pair, 2, sizeof pair[0], compare);
  printf("%.12g %d\n", sum, pair[0]);
  return 0;
}
