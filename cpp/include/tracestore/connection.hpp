// The socket at which a program answers its controller. Must not know what a model is.
#pragma once

#include <zmq.h>

#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <tracestore/errors.hpp>
#include <tracestore/wire.hpp>

namespace tracestore::detail {

// Set by SIGINT and SIGTERM while a program serves.
inline volatile std::sig_atomic_t end_requested = 0;

extern "C" inline void tracestore_request_end(int /*signal*/) { end_requested = 1; }

// While it lives, the first SIGINT or SIGTERM is a request; a second one ends the process, as without it.
class SignalScope {
 public:
  explicit SignalScope(bool is_wanted) : is_wanted_(is_wanted) {
    if (is_wanted_) {
      end_requested = 0;
      struct sigaction action {};
      action.sa_handler = tracestore_request_end;
      action.sa_flags = static_cast<int>(SA_RESETHAND);  // and no SA_RESTART: waiting is interrupted
      sigemptyset(&action.sa_mask);
      sigaction(SIGINT, &action, &interrupt_);
      sigaction(SIGTERM, &action, &terminate_);
    }
  }
  ~SignalScope() {
    if (is_wanted_) {
      sigaction(SIGINT, &interrupt_, nullptr);
      sigaction(SIGTERM, &terminate_, nullptr);
    }
  }
  SignalScope(const SignalScope&) = delete;
  SignalScope& operator=(const SignalScope&) = delete;

 private:
  bool is_wanted_;
  struct sigaction interrupt_ {};
  struct sigaction terminate_ {};
};

// A bound REP socket: requests are received, and each is answered once.
class Connection {
 public:
  explicit Connection(const std::string& endpoint) : context_(zmq_ctx_new()) {
    socket_.reset(context_ == nullptr ? nullptr : zmq_socket(context_.get(), ZMQ_REP));
    const int patience = 500;  // a signal that comes just before waiting is noticed after it
    const int linger = 500;
    const auto max_bytes = static_cast<std::int64_t>(max_frame_bytes);
    if (socket_ == nullptr || zmq_setsockopt(socket_.get(), ZMQ_RCVTIMEO, &patience, sizeof patience) != 0 ||
        zmq_setsockopt(socket_.get(), ZMQ_LINGER, &linger, sizeof linger) != 0 ||
        zmq_setsockopt(socket_.get(), ZMQ_MAXMSGSIZE, &max_bytes, sizeof max_bytes) != 0) {
      fail("A ZeroMQ socket cannot be made");
    }
    if (zmq_bind(socket_.get(), endpoint.c_str()) != 0) {
      fail("The endpoint " + endpoint + " cannot be bound");
    }
  }

  // Waits for the next request. False when the process was asked to end.
  bool receive() {
    while (end_requested == 0) {
      zmq_msg_t part;
      zmq_msg_init(&part);
      const int size = zmq_msg_recv(&part, socket_.get(), 0);
      if (size >= 0) {
        keep(part);
        return true;
      }
      const int error = zmq_errno();
      zmq_msg_close(&part);
      if (error != EAGAIN && error != EINTR) {
        fail("The controller cannot be heard", error);
      }
    }
    return false;
  }

  // The request; none when it is not one message of PPX.
  const ppx::Message* message() const { return message_; }

  // Whether a request waits for its answer.
  bool owes_answer() const { return owes_answer_; }

  // The answer is written into it.
  FlatBufferBuilder& builder() {
    builder_.Clear();
    return builder_;
  }

  void send() {
    while (zmq_send(socket_.get(), builder_.GetBufferPointer(), builder_.GetSize(), 0) < 0) {
      if (zmq_errno() != EINTR) {
        fail("The controller cannot be answered");
      }
    }
    owes_answer_ = false;
  }

 private:
  struct End {
    void operator()(void* context) const {
      while (zmq_ctx_term(context) != 0 && zmq_errno() == EINTR) {
      }
    }
  };

  struct Close {
    void operator()(void* socket) const { zmq_close(socket); }
  };

  void keep(zmq_msg_t& part) {
    const auto* bytes = static_cast<const std::uint8_t*>(zmq_msg_data(&part));
    const std::size_t size = zmq_msg_size(&part);
    frame_.resize(size / sizeof(std::uint64_t) + 1);  // aligned, which the bytes need not be
    std::memcpy(frame_.data(), bytes, size);
    const bool is_alone = zmq_msg_more(&part) == 0;
    bool has_more = !is_alone;
    zmq_msg_close(&part);
    while (has_more) {
      zmq_msg_init(&part);
      has_more = zmq_msg_recv(&part, socket_.get(), 0) >= 0 && zmq_msg_more(&part) != 0;
      zmq_msg_close(&part);
    }
    message_ = is_alone ? read_message(reinterpret_cast<const std::uint8_t*>(frame_.data()), size) : nullptr;
    owes_answer_ = true;
  }

  [[noreturn]] static void fail(const std::string& what, int error = zmq_errno()) {
    throw Error(what + ": " + zmq_strerror(error) + ".");
  }

  std::unique_ptr<void, End> context_;
  std::unique_ptr<void, Close> socket_;
  FlatBufferBuilder builder_;
  std::vector<std::uint64_t> frame_;
  const ppx::Message* message_ = nullptr;
  bool owes_answer_ = false;
};

}  // namespace tracestore::detail
