/* Uses randomness that no hook sees: bytes of the system. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

int main(void) {
  unsigned long bytes = 0;
  double seen = drand48();
  if (getrandom(&bytes, sizeof bytes, 0) != sizeof bytes) return 1;
  printf("%.12g %lu\n", seen, bytes);
  return 0;
}
