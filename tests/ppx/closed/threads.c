/* Two threads draw, one after the other. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static void *draw(void *into) {
  *(double *)into = drand48();
  return NULL;
}

int main(void) {
  double found[2];
  for (int i = 0; i < 2; i++) {
    pthread_t thread;
    pthread_create(&thread, NULL, draw, found + i);
    pthread_join(thread, NULL);
  }
  printf("%.12g %.12g\n", found[0], found[1]);
  return 0;
}
