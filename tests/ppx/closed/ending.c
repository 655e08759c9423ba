/* Ends in the way that the argument says, after one draw; `half` chooses by the draw. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void late(void) { printf("late %.12g\n", drand48()); }

int main(int count, char **words) {
  const char *how = count > 1 ? words[1] : "well";
  if (strcmp(how, "nothing") == 0) return puts("no draw") < 0;
  double first = drand48();
  printf("first %.12g\n", first);
  fprintf(stderr, "this program ends by %s\n", how);
  if (strcmp(how, "half") == 0) how = first < 0.5 ? "status" : "well";
  if (strcmp(how, "status") == 0) return 3;
  if (strcmp(how, "abort") == 0) abort();
  if (strcmp(how, "segfault") == 0) raise(SIGSEGV);
  if (strcmp(how, "hang") == 0) for (;;) pause();
  if (strcmp(how, "_exit") == 0) fflush(stdout), _exit(0);
  if (strcmp(how, "quick_exit") == 0) fflush(stdout), quick_exit(0);
  if (strcmp(how, "atexit") == 0) atexit(late);
  if (strcmp(how, "exec") == 0) execl("/bin/true", "true", (char *)NULL);
  if (strcmp(how, "forever") == 0) for (;;) first += drand48();
  if (strcmp(how, "child") == 0 || strcmp(how, "drawing-child") == 0) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
      if (how[0] == 'd') printf("child %.12g\n", drand48());
      exit(5);
    }
    int status = 0;
    waitpid(child, &status, 0);
    printf("child ended %d, then %.12g\n", WEXITSTATUS(status), drand48());
  }
  if (strcmp(how, "shell") == 0) {
    fflush(stdout);
    return system("echo preload=$LD_PRELOAD; env | grep -c ^TRACESTORE_PPX; true");
  }
  return 0;
}
