/* Throws of dice with rand(); as many as the argument says. */
#include <stdio.h>
#include <stdlib.h>

__attribute__((noinline)) int throw_one(void) { return 1 + (int)(6.0 * (rand() / (RAND_MAX + 1.0))); }

int main(int count, char **words) {
  int num_throws = count > 1 ? atoi(words[1]) : 2, sum = 0;
  for (int i = 0; i < num_throws; i++) sum += throw_one();
  int bonus = throw_one();
  printf("sum %d bonus %d\n", sum, bonus);
  return 0;
}
