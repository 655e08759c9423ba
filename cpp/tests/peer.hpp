// A controller for tests.
#pragma once

#include <zmq.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include <tracestore/wire.hpp>

namespace peer {

namespace ppx = tracestore::ppx;
using tracestore::detail::FlatBufferBuilder;

class Peer {
 public:
  explicit Peer(const std::string& endpoint) : context_(zmq_ctx_new()), socket_(zmq_socket(context_, ZMQ_REQ)) {
    const int patience = 20000;
    const int linger = 0;
    zmq_setsockopt(socket_, ZMQ_RCVTIMEO, &patience, sizeof patience);
    zmq_setsockopt(socket_, ZMQ_LINGER, &linger, sizeof linger);
    zmq_connect(socket_, endpoint.c_str());
  }
  ~Peer() {
    zmq_close(socket_);
    zmq_ctx_term(context_);
  }
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;

  const ppx::Message& handshake(const char* name) {
    return ask(ppx::MessageBody::Handshake, ppx::CreateHandshake(builder, builder.CreateString(name)));
  }
  const ppx::Message& run() { return ask(ppx::MessageBody::Run, ppx::CreateRun(builder)); }
  const ppx::Message& reset() { return ask(ppx::MessageBody::Reset, ppx::CreateReset(builder)); }
  const ppx::Message& value(double number) {
    const auto tensor = tracestore::detail::write_tensor(builder, number);
    return ask(ppx::MessageBody::SampleResult, ppx::CreateSampleResult(builder, tensor));
  }
  const ppx::Message& tagged() { return ask(ppx::MessageBody::TagResult, ppx::CreateTagResult(builder)); }

  template <class Body>
  const ppx::Message& ask(ppx::MessageBody type, flatbuffers::Offset<Body> body) {
    tracestore::detail::finish(builder, type, body);
    zmq_send(socket_, builder.GetBufferPointer(), builder.GetSize(), 0);
    builder.Clear();
    frame_.resize(8192);
    const int size = zmq_recv(socket_, frame_.data(), frame_.size() * 8, 0);
    const auto* message = size < 0 ? nullptr
                                   : tracestore::detail::read_message(reinterpret_cast<std::uint8_t*>(frame_.data()),
                                                                      static_cast<std::size_t>(size));
    if (message == nullptr) {
      throw std::runtime_error("the program gave no answer that can be read");
    }
    return *message;
  }

  FlatBufferBuilder builder;

 private:
  void* context_;
  void* socket_;
  std::vector<std::uint64_t> frame_;
};

}  // namespace peer
