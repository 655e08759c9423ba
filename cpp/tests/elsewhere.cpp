#include "elsewhere.hpp"

void call_from_elsewhere(void (*function)()) {
  function();
  __asm__ volatile("" ::: "memory");
}
