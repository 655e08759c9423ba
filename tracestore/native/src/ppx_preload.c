/* A program in a PPX session without being rebuilt: preloaded into it, this answers its random number functions.

   The wrappers that `tracestore.native.hooks` writes have the names of those functions and call tracestore_place() and
   tracestore_draw() here. A draw is sent to the controller as a PPX Sample; its answer is returned to the program. The
   address of a draw is the chain of return addresses from main to the call, outermost first, as
   `module@offset | module@offset` with paths of ELF files and hexadecimal distances from where they are loaded: the
   controller's side knows the names.

   One process makes one run. The program binds REP, as in every PPX session, and waits for the controller before main
   is entered, or before the first draw if that comes earlier. Children that it forks are not a part of the session:
   one that draws ends, and so does the program. Children that it starts are not interposed.

   Environment, taken out again before main so that children of the program start without it:
     TRACESTORE_PPX_ENDPOINT  ipc://path, ipc://@abstract or tcp://address:port, where to listen
     TRACESTORE_PPX_CONNECTION  instead of it, the number of an inherited socket that is connected already
     TRACESTORE_PPX_PARENT    process with which the program ends
     TRACESTORE_PPX_SYSTEM    what the handshake answers
     TRACESTORE_PPX_PRELOAD   what LD_PRELOAD was before */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "ppx_wire.h"

#include <dlfcn.h>
#include <execinfo.h>
#include <limits.h>
#include <link.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>

enum { MAX_FRAMES = 1024 };

/* ------------------------------------------------------------------------------------------------ the state */

enum { OFF, WAITING, RUNNING, FINISHED };
static volatile int state = OFF;
static pid_t owner;                       /* the process that speaks; forked children do not */
static int exit_status = -1;
static char endpoint[256], system_name[128];
static volatile int *child_has_drawn;     /* shared with forked children */
static pthread_mutex_t turn = PTHREAD_ERRORCHECK_MUTEX_INITIALIZER_NP;

static void take_turn(void) {
  if (pthread_mutex_lock(&turn) != 0) fail("a draw was made inside of another draw, for example by a signal handler");
}

static void end_turn(void) { pthread_mutex_unlock(&turn); }

/* ------------------------------------------------------------------------------------------------ places */

/* A chain of calls is known by the hash of its return addresses. Its text is made once, and its number is a position in
   `texts`; `slots` is a hash table with open addresses. */
typedef struct {
  uint64_t hash;
  int64_t number;
} Slot;

static Slot *slots;
static char **texts;
static int64_t num_places;
static size_t num_slots;
static uintptr_t own_begin, own_end;

static int find_own(struct dl_phdr_info *info, size_t size, void *given) {
  (void)size, (void)given;
  uintptr_t me = (uintptr_t)&find_own, begin = UINTPTR_MAX, end = 0;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    if (info->dlpi_phdr[i].p_type != PT_LOAD) continue;
    uintptr_t from = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr, to = from + info->dlpi_phdr[i].p_memsz;
    begin = from < begin ? from : begin, end = to > end ? to : end;
  }
  if (me < begin || me >= end) return 0;
  own_begin = begin, own_end = end;
  return 1;
}

static int is_own(const void *at) { return (uintptr_t)at >= own_begin && (uintptr_t)at < own_end; }

/* Path of the module of a return address, and the distance from its lowest loaded address; the path is in `buffer` or
   lasting. */
static const char *module_of(const void *at, char *buffer, uintptr_t *offset) {
  Dl_info info;
  struct link_map *map = NULL;
  if (dladdr1(at, &info, (void **)&map, RTLD_DL_LINKMAP) == 0 || map == NULL) {
    *offset = 0; /* code made at run time: where it lies means nothing */
    return "?";
  }
  *offset = (uintptr_t)at - (uintptr_t)info.dli_fbase;
  const char *path = map->l_name[0] == 0 ? "/proc/self/exe" : map->l_name;
  return realpath(path, buffer) != NULL ? buffer : path;
}

static int is_start_up(const char *path) {
  const char *name = strrchr(path, '/');
  name = name == NULL ? path : name + 1;
  return strncmp(name, "libc.so", 7) == 0 || strncmp(name, "libc-", 5) == 0 || strncmp(name, "ld-linux", 8) == 0 ||
         strncmp(name, "ld-2.", 5) == 0 || strncmp(name, "libpthread", 10) == 0;
}

/* Text of a chain given innermost first: outermost first, without the start-up code of the C library. */
static char *describe(void *const *frames, int count) {
  char *text = NULL, path[PATH_MAX];
  size_t size = 0;
  FILE *stream = open_memstream(&text, &size);
  if (stream == NULL) fail("out of memory for an address");
  int has_begun = 0;
  for (int i = count - 1; i >= 0; i--) {
    uintptr_t offset;
    const char *module = module_of(frames[i], path, &offset);
    if (!has_begun && is_start_up(module)) continue;
    fprintf(stream, "%s%s@%lx", has_begun ? " | " : "", module, (unsigned long)offset);
    has_begun = 1;
  }
  fclose(stream);
  if (text == NULL) fail("out of memory for an address");
  return text;
}

static Slot *find_slot(uint64_t hash) {
  size_t at = hash % num_slots;
  while (slots[at].hash != 0 && slots[at].hash != hash) at = (at + 1) % num_slots;
  return slots + at;
}

static void grow_slots(void) {
  Slot *before = slots;
  size_t num_before = num_slots;
  num_slots = num_before == 0 ? 256 : 2 * num_before;
  slots = calloc(num_slots, sizeof *slots);
  texts = realloc(texts, num_slots * sizeof *texts);
  if (slots == NULL || texts == NULL) fail("out of memory for addresses");
  for (size_t i = 0; i < num_before; i++)
    if (before[i].hash != 0) *find_slot(before[i].hash) = before[i];
  free(before);
}

static int64_t number_of(void *const *frames, int count) {
  uint64_t hash = 14695981039346656037u;
  for (int i = 0; i < count; i++) hash = (hash ^ (uintptr_t)frames[i]) * 1099511628211u, hash ^= hash >> 29;
  hash += hash == 0;
  if (2 * ((size_t)num_places + 1) > num_slots) grow_slots();
  Slot *slot = find_slot(hash);
  if (slot->hash == 0) {
    *slot = (Slot){hash, num_places};
    texts[num_places++] = describe(frames, count);
  }
  return slot->number;
}

/* ------------------------------------------------------------------------------------------------ the session */

static void wait_for_run(void) {
  size_t body;
  for (;;) {
    int type = receive_reply(&body);
    is_met = 1;
    if (type == HANDSHAKE) send_handshake_result(system_name, program_invocation_short_name);
    else if (type == RUN) return;
    else fail("the controller sent message %d where a run should begin", type);
  }
}

static void begin_run(void) {
  static int listener = -1;
  take_turn();
  if (state == WAITING) {
    if (connection < 0) {
      listener = listen_at(endpoint);
      (void)setjmp(next_connection);
      accept_peer(listener);
    }
    greet();
    wait_for_run();
    if (listener >= 0) close(listener);
    if (strncmp(endpoint, "ipc:///", 7) == 0) unlink(endpoint + 6);
    state = RUNNING;
  }
  end_turn();
}

static void finish_run(int status) {
  if (getpid() != owner || state == OFF || state == FINISHED) return;
  if (state == WAITING) begin_run();
  take_turn();
  if (*child_has_drawn) fail("a forked child of the program drew random numbers");
  send_run_result(status);
  state = FINISHED;
  end_turn();
}

static void note_status(int status, void *unused) {
  (void)unused;
  exit_status = status;
}

static void forget_connection(void) {
  if (connection >= 0) close(connection);
  connection = -1;
}

static void take_variable(const char *name, char *into, size_t size) {
  const char *value = getenv(name);
  if (value != NULL && strlen(value) >= size) fail("the variable %s is too long", name);
  strcpy(into, value == NULL ? "" : value);
  unsetenv(name);
}

/* Runs before main; libraries of the program start, and may draw, before that. */
__attribute__((constructor)) static void load(void) {
  static int is_loaded;
  char text[PATH_MAX];
  if (is_loaded++) return;
  if (getenv("TRACESTORE_PPX_ENDPOINT") == NULL && getenv("TRACESTORE_PPX_CONNECTION") == NULL) return;
  take_variable("TRACESTORE_PPX_PARENT", text, sizeof text);
  if (text[0] != 0 && (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != (pid_t)atol(text)))
    fail("the process that started the program is gone");
  take_variable("TRACESTORE_PPX_ENDPOINT", endpoint, sizeof endpoint);
  take_variable("TRACESTORE_PPX_CONNECTION", text, sizeof text);
  if (text[0] != 0) use_connection(atoi(text)), is_met = 1;
  take_variable("TRACESTORE_PPX_SYSTEM", system_name, sizeof system_name);
  take_variable("TRACESTORE_PPX_PRELOAD", text, sizeof text);
  if (text[0] == 0) unsetenv("LD_PRELOAD");
  else setenv("LD_PRELOAD", text, 1);
  dl_iterate_phdr(find_own, NULL);
  void *frame;
  backtrace(&frame, 1); /* loads what it needs now, not in the middle of the program */
  child_has_drawn = mmap(NULL, sizeof(int), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (child_has_drawn == MAP_FAILED) fail("no memory to share with children");
  owner = getpid();
  pthread_atfork(NULL, NULL, forget_connection);
  state = WAITING;
}

/* ------------------------------------------------------------------------------------------------ the draws */

/* Number of the chain of calls that ends in one of the wrappers; numbers are those of this run only. */
int64_t tracestore_place(void) {
  void *frames[MAX_FRAMES];
  load();
  if (state == OFF) fail("neither TRACESTORE_PPX_ENDPOINT nor TRACESTORE_PPX_CONNECTION is set, so nobody can be asked for random numbers");
  if (getpid() != owner) {
    *child_has_drawn = 1;
    fail("a forked child of the program draws random numbers; only the first process can be a part of a trace");
  }
  if (state == FINISHED) fail("the program draws random numbers after its end");
  if (state == WAITING) begin_run();
  int count = backtrace(frames, MAX_FRAMES), first = 0;
  while (first < count && is_own(frames[first])) first++;
  int end = first;
  while (end < count && !is_own(frames[end])) end++;
  take_turn();
  int64_t number = number_of(frames + first, end - first);
  end_turn();
  return number;
}

/* The answer of the controller to a draw from a family of the PPX schema. */
double tracestore_draw(int64_t place, int32_t family, const double *parameters, int64_t count) {
  size_t body;
  for (int64_t i = 0; i < count; i++)
    if (!isfinite(parameters[i])) fail("the program draws with a parameter that is not finite");
  take_turn();
  send_sample(texts[place], family, parameters, count);
  int type = receive_reply(&body);
  if (type == RESET) fail("the controller ended the run");
  if (type != SAMPLE_RESULT) fail("the controller answered a draw with message %d", type);
  double value = sample_result(body);
  end_turn();
  return value;
}

/* ------------------------------------------------------------------------------------------------ the end */

/* After the program's own handlers; its files are flushed and closed between this and the end of the process. */
__attribute__((destructor)) static void unload(void) { finish_run(exit_status); }

static void finish_quickly(void) { finish_run(exit_status); }

static int (*program_main)(int, char **, char **);

__attribute__((noinline)) static int main_of_program(int argc, char **argv, char **envp) {
  if (state == WAITING) begin_run();
  on_exit(note_status, NULL); /* not earlier: it has to be known before the libraries are closed */
  at_quick_exit(finish_quickly);
  int status = program_main(argc, argv, envp);
  __asm__ volatile("" : "+r"(status)); /* no tail call: this frame marks the end of the chain */
  return status;
}

typedef int (*Start)(int (*)(int, char **, char **), int, char **, void (*)(void), void (*)(void), void (*)(void), void *);

int __libc_start_main(int (*entry)(int, char **, char **), int argc, char **argv, void (*initialize)(void),
                      void (*finalize)(void), void (*loader)(void), void *stack) {
  Start start = (Start)dlsym(RTLD_NEXT, "__libc_start_main");
  program_main = entry;
  return start(state == OFF ? entry : main_of_program, argc, argv, initialize, finalize, loader, stack);
}

/* Programs that skip their exit handlers have ended well, too; children that were forked go on in silence. */
void _exit(int status) {
  finish_run(status);
  leave(status);
  __builtin_unreachable();
}

void _Exit(int status) { _exit(status); }
