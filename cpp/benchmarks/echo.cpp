// The least that a program at a socket does: `echo ENDPOINT` sends back what it gets, until it is killed.
#include <zmq.h>

#include <cstdio>

int main(int argc, char** argv) {
  void* context = zmq_ctx_new();
  void* socket = zmq_socket(context, ZMQ_REP);
  if (argc != 2 || zmq_bind(socket, argv[1]) != 0) {
    std::fputs("usage: echo ENDPOINT\n", stderr);
    return 2;
  }
  while (true) {
    zmq_msg_t message;
    zmq_msg_init(&message);
    if (zmq_msg_recv(&message, socket, 0) < 0 || zmq_msg_send(&message, socket, 0) < 0) {
      return 1;
    }
  }
}
