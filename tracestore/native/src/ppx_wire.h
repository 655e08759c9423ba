/* The program's end of a PPX session, for ppx_backend.h: one ZeroMQ peer at one socket, and the messages.

   There is no ZeroMQ library in the program: one peer needs a greeting and a length before each message (ZMTP 3.0), and
   no threads, which a program that forks or counts its threads would notice. Messages are flatbuffers of the few
   layouts that are needed. Nothing that the other side sends is trusted.

   Whatever goes wrong ends the process at once with status 70 and one line on standard error; no handler of the
   program runs. */
#ifndef TRACESTORE_PPX_WIRE_H
#define TRACESTORE_PPX_WIRE_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "PPX messages are little-endian, and so must be this machine"
#endif

enum { FAILURE_STATUS = 70, MAX_REPLY = 1 << 16, LOWEST_DESCRIPTOR = 200 };

static int connection = -1;
static int is_met;             /* whether the controller has said anything */
static jmp_buf next_connection; /* where to go on when a connection ends before that */

static void leave(int status) {
  for (;;) syscall(SYS_exit_group, status);
}

static void fail(const char *format, ...) {
  char text[512] = "tracestore: ";
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(text + 12, sizeof text - 14, format, arguments) + 12;
  va_end(arguments);
  if (length > (int)sizeof text - 2) length = (int)sizeof text - 2;
  text[length++] = '\n';
  if (write(2, text, (size_t)length) < 0) { /* nobody to tell */ }
  leave(FAILURE_STATUS);
}

/* ------------------------------------------------------------------------------------------------ the socket */

static unsigned char input[MAX_REPLY];
static size_t input_begin, input_end;

static size_t receive_some(void *into, size_t size) {
  for (;;) {
    ssize_t found = recv(connection, into, size, 0);
    if (found > 0) return (size_t)found;
    if (!is_met && (found == 0 || errno != EINTR)) longjmp(next_connection, 1);
    if (found == 0) fail("the controller closed the connection");
    if (errno != EINTR) fail("the connection to the controller broke: %s", strerror(errno));
  }
}

static void receive(void *into, size_t size) {
  unsigned char *to = into;
  while (size > 0) {
    if (input_begin == input_end) {
      input_begin = 0;
      input_end = receive_some(input, sizeof input);
    }
    size_t part = input_end - input_begin < size ? input_end - input_begin : size;
    memcpy(to, input + input_begin, part);
    input_begin += part, to += part, size -= part;
  }
}

static void transmit(const unsigned char *bytes, size_t size) {
  while (size > 0) {
    ssize_t sent = send(connection, bytes, size, MSG_NOSIGNAL);
    if (sent > 0) bytes += sent, size -= (size_t)sent;
    else if (!is_met && errno != EINTR) longjmp(next_connection, 1);
    else if (sent < 0 && errno != EINTR) fail("the controller does not listen any more: %s", strerror(errno));
  }
}

/* Where the socket file appears, connections are accepted: it is bound beside and renamed. */
static int listen_at_path(const char *where) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  const char *path = where + 6;
  size_t length = strlen(path), is_file = path[0] != '@';
  char *to = address.sun_path;
  if (length == 0 || length + 2 * is_file >= sizeof address.sun_path) fail("the endpoint %s is too long", where);
  memcpy(to, path, length);
  if (is_file) to[length] = '~', unlink(to);
  else to[0] = 0;
  socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + 2 * is_file);
  int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (listener < 0 || bind(listener, (struct sockaddr *)&address, size) != 0 || listen(listener, 4) != 0 ||
      (is_file && rename(to, path) != 0))
    fail("cannot bind %s: %s", where, strerror(errno));
  return listener;
}

static int listen_at_port(const char *where) {
  struct sockaddr_in address = {.sin_family = AF_INET};
  char host[64] = "";
  int yes = 1;
  const char *colon = strrchr(where, ':');
  size_t length = (size_t)(colon - (where + 6));
  if (colon < where + 6 || length >= sizeof host) fail("cannot read the endpoint %s", where);
  memcpy(host, where + 6, length);
  address.sin_port = htons((uint16_t)atoi(colon + 1));
  if (strcmp(host, "*") == 0) address.sin_addr.s_addr = htonl(INADDR_ANY);
  else if (inet_pton(AF_INET, host, &address.sin_addr) != 1) fail("the endpoint %s needs a numeric address", where);
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (listener >= 0) setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 4) != 0)
    fail("cannot bind %s: %s", where, strerror(errno));
  return listener;
}

static int listen_at(const char *where) {
  if (strncmp(where, "ipc://", 6) == 0) return listen_at_path(where);
  if (strncmp(where, "tcp://", 6) == 0) return listen_at_port(where);
  fail("the endpoint %s is neither ipc:// nor tcp://", where);
  return -1;
}

/* Read one frame; returns its flags. Frames of commands are answered or passed over by the caller. */
enum { MORE = 1, LONG = 2, COMMAND = 4 };

static int receive_frame(unsigned char *into, size_t *size) {
  unsigned char head[9];
  uint64_t length = 0;
  receive(head, 2);
  if (head[0] & ~(MORE | LONG | COMMAND)) fail("the controller does not speak ZMTP 3");
  if (head[0] & LONG) {
    receive(head + 2, 7);
    for (int i = 1; i < 9; i++) length = length << 8 | head[i];
  } else length = head[1];
  if (length > MAX_REPLY) fail("the controller sent %llu bytes at once", (unsigned long long)length);
  receive(into, (size_t)length);
  *size = (size_t)length;
  return head[0];
}

static void answer_ping(const unsigned char *command, size_t size) {
  unsigned char pong[2 + 5 + 16] = {COMMAND, 5, 4, 'P', 'O', 'N', 'G'};
  if (size < 7 || memcmp(command, "\4PING", 5) != 0) return;
  size_t context = size - 7 < 16 ? size - 7 : 16; /* after the time to live */
  memcpy(pong + 7, command + 7, context);
  pong[1] = (unsigned char)(5 + context);
  transmit(pong, 7 + context);
}

static void receive_message(unsigned char *into, size_t *size) {
  int num_parts = 0, flags;
  do {
    flags = receive_frame(into, size);
    if (flags & COMMAND) answer_ping(into, *size), flags = MORE;
    else if (num_parts++ == 0 && (*size != 0 || !(flags & MORE))) fail("the controller is no ZeroMQ REQ socket");
  } while (flags & MORE);
  if (num_parts != 2) fail("the controller sent a message of %d parts", num_parts - 1);
}

static void greet(void) {
  static const unsigned char ready[] = "\4\31\5READY\13Socket-Type\0\0\0\3REP";
  unsigned char mine[64] = {255, 0, 0, 0, 0, 0, 0, 0, 0, 127, 3, 0, 'N', 'U', 'L', 'L'}, theirs[64];
  static unsigned char command[MAX_REPLY];
  size_t size;
  transmit(mine, sizeof mine);
  receive(theirs, sizeof theirs);
  if (theirs[0] != 255 || theirs[9] != 127 || theirs[10] < 3) fail("the controller does not speak ZMTP 3");
  if (memcmp(theirs + 12, mine + 12, 20) != 0) fail("the controller wants another ZeroMQ security mechanism than NULL");
  transmit(ready, sizeof ready - 1);
  if (!(receive_frame(command, &size) & COMMAND) || size < 6 || memcmp(command, "\5READY", 6) != 0)
    fail("the ZeroMQ handshake failed");
}

static void use_connection(int descriptor) {
  int yes = 1, high = fcntl(descriptor, F_DUPFD_CLOEXEC, LOWEST_DESCRIPTOR); /* the program finds its numbers as always */
  if (high >= 0) close(descriptor);
  connection = high >= 0 ? high : descriptor;
  fcntl(connection, F_SETFD, FD_CLOEXEC);
  setsockopt(connection, SOL_SOCKET, SO_KEEPALIVE, &yes, sizeof yes); /* a controller that is lost on the way */
  setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes); /* fails where it means nothing */
}

/* Wait for a peer. It may be one that has left already, or leaves before it says anything. */
static void accept_peer(int listener) {
  int accepted;
  if (connection >= 0) close(connection);
  input_begin = input_end = 0;
  while ((accepted = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) < 0)
    if (errno != EINTR && errno != ECONNABORTED) fail("no controller can connect: %s", strerror(errno));
  use_connection(accepted);
}

/* ------------------------------------------------------------------------------------------------ the messages */

enum { NOTHING, HANDSHAKE, HANDSHAKE_RESULT, RUN, RUN_RESULT, SAMPLE, SAMPLE_RESULT, OBSERVE, OBSERVE_RESULT, TAG,
       TAG_RESULT, RESET };

/* A flatbuffer is written front to back: offsets to what comes later are filled in when it is there. */
enum { ENVELOPE = 11 }; /* delimiter (2), flags and long length (9) */
static unsigned char *output;
static size_t output_size, output_capacity;

static void reserve(size_t size) {
  if (output_size + size <= output_capacity) return;
  output_capacity = 2 * (output_size + size) + 1024;
  output = realloc(output, output_capacity);
  if (output == NULL) fail("out of memory for a message");
}

static size_t here(void) { return output_size - ENVELOPE; }

static void put(const void *bytes, size_t size) {
  reserve(size);
  memcpy(output + output_size, bytes, size);
  output_size += size;
}

static void put_u32(uint32_t number) { put(&number, 4); }

static void pad(size_t alignment, size_t remainder) {
  while (here() % alignment != remainder) put("", 1);
}

static void point_here(size_t from) {
  uint32_t distance = (uint32_t)(here() - from);
  memcpy(output + ENVELOPE + from, &distance, 4);
}

static void start_message(void) {
  output_size = 0;
  reserve(ENVELOPE);
  output_size = ENVELOPE;
  put_u32(0);
}

/* Write a table whose fields all take 4 bytes, the union types among them in the low byte; returns where its fields
   begin. `reference` is the offset that leads to it. */
static size_t put_table(size_t reference, const uint32_t *values, int num_fields) {
  uint16_t head[2] = {(uint16_t)(4 + 2 * num_fields), (uint16_t)(4 + 4 * num_fields)};
  pad(4, 0);
  size_t vtable = here();
  put(head, 4);
  for (int i = 0; i < num_fields; i++) {
    uint16_t at = (uint16_t)(4 + 4 * i);
    put(&at, 2);
  }
  pad(4, 0);
  point_here(reference);
  put_u32((uint32_t)(here() - vtable));
  put(values, 4 * (size_t)num_fields);
  return here() - 4 * (size_t)num_fields;
}

static void put_string(size_t reference, const char *text) {
  size_t length = strlen(text);
  pad(4, 0);
  point_here(reference);
  put_u32((uint32_t)length);
  put(text, length + 1);
}

static void put_tensor(size_t reference, const double *numbers, int64_t count, int is_vector) {
  size_t fields = put_table(reference, (uint32_t[]){0, 0}, 2);
  pad(8, 4);
  point_here(fields);
  put_u32((uint32_t)count);
  put(numbers, 8 * (size_t)count);
  point_here(fields + 4);
  put_u32(is_vector ? 1 : 0);
  if (is_vector) put_u32((uint32_t)count);
}

static size_t put_body(uint32_t type) {
  size_t fields = put_table(0, (uint32_t[]){type, 0}, 2);
  return fields + 4;
}

static void send_message(void) {
  uint64_t length = output_size - ENVELOPE;
  output[0] = MORE, output[1] = 0, output[2] = LONG;
  for (int i = 0; i < 8; i++) output[3 + i] = (unsigned char)(length >> (56 - 8 * i));
  transmit(output, output_size);
}

static void send_handshake_result(const char *system_name, const char *model_name) {
  start_message();
  size_t fields = put_table(put_body(HANDSHAKE_RESULT), (uint32_t[]){0, 0}, 2);
  put_string(fields, system_name);
  put_string(fields + 4, model_name);
  send_message();
}

static void send_run_result(int status) {
  double number = status;
  start_message();
  put_tensor(put_table(put_body(RUN_RESULT), (uint32_t[]){0}, 1), &number, 1, 0);
  send_message();
}

/* Families of the schema that priors of hooks have. */
enum { NORMAL = 1, UNIFORM = 2, CATEGORICAL = 3, EXPONENTIAL = 7, GAMMA = 8 };

static void send_sample(const char *address, int family, const double *parameters, int64_t count) {
  int num_tensors = family == CATEGORICAL ? 1 : (int)count;
  start_message();
  size_t fields = put_table(put_body(SAMPLE), (uint32_t[]){0, 0, (uint32_t)family, 0, 1}, 5);
  put_string(fields, address);
  put_string(fields + 4, "");
  size_t tensors = put_table(fields + 12, (uint32_t[]){0, 0}, num_tensors);
  if (family == CATEGORICAL) put_tensor(tensors, parameters, count, 1);
  else for (int i = 0; i < num_tensors; i++) put_tensor(tensors + 4 * (size_t)i, parameters + i, 1, 0);
  send_message();
}

/* Reading: every position is compared with the size of the message before it is used. */
static unsigned char reply[MAX_REPLY];
static size_t reply_size;

static void need(size_t at, size_t size) {
  if (at > reply_size || size > reply_size - at) fail("the controller sent a malformed message");
}

static uint32_t u32(size_t at) {
  uint32_t number;
  need(at, 4);
  memcpy(&number, reply + at, 4);
  return number;
}

static uint16_t u16(size_t at) {
  uint16_t number;
  need(at, 2);
  memcpy(&number, reply + at, 2);
  return number;
}

static size_t follow(size_t at) {
  size_t target = at + u32(at);
  need(target, 4);
  return target;
}

/* Position of a field of a table, or 0 when it is absent. */
static size_t field(size_t table, unsigned slot) {
  int64_t vtable = (int64_t)table - (int32_t)u32(table);
  if (vtable < 0 || vtable > (int64_t)reply_size) fail("the controller sent a malformed message");
  unsigned entry = 4 + 2 * slot;
  if (u16((size_t)vtable) < entry + 2) return 0;
  uint16_t offset = u16((size_t)vtable + entry);
  if (offset != 0) need(table, (size_t)offset + 1);
  return offset == 0 ? 0 : table + offset;
}

static int receive_reply(size_t *body) {
  receive_message(reply, &reply_size);
  size_t message = follow(0), type = field(message, 0), content = field(message, 1);
  if (type == 0 || content == 0) fail("the controller sent a message without a body");
  *body = follow(content);
  return reply[type];
}

static double sample_result(size_t body) {
  double value;
  size_t tensor = field(body, 0), data = tensor ? field(follow(tensor), 0) : 0;
  size_t numbers = data ? follow(data) : 0;
  if (numbers == 0 || u32(numbers) != 1) fail("the controller answered a draw with no number, or with several");
  need(numbers + 4, 8);
  memcpy(&value, reply + numbers + 4, 8);
  if (!isfinite(value)) fail("the controller answered a draw with a number that is not finite");
  return value;
}

#endif
