// The run in progress: what it asks the controller, and what it is told.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#include <tracestore/address.hpp>
#include <tracestore/connection.hpp>
#include <tracestore/distributions.hpp>
#include <tracestore/drawing.hpp>
#include <tracestore/errors.hpp>
#include <tracestore/tensor.hpp>
#include <tracestore/wire.hpp>

namespace tracestore::detail {

template <class Prior>
typename Prior::Value blank_value(const Prior& prior) {
  if constexpr (std::is_same_v<typename Prior::Value, Tensor>) {
    return prior.parameters()[0];  // of the right shape
  } else {
    return typename Prior::Value{};
  }
}

// A served model's conversation with its controller.
class Session {
 public:
  explicit Session(Connection& connection) : connection_(connection) {}

  template <class Prior>
  typename Prior::Value sample(const Prior& prior, const std::string& name, bool control, const Address& given,
                               const void* caller) {
    const std::string& place = place_of(given, caller);
    write_sample(asking(), prior, num_open_loops_ == 0 ? place : rejection_mark + place, name, control);
    const ppx::Message& answer = ask(ppx::MessageBody::SampleResult);
    typename Prior::Value value = blank_value(prior);
    read(answer.body_as_SampleResult()->result(), Prior::name(), value);
    return value;
  }

  // The value that was scored, if the controller tells; else the one given.
  template <class Likelihood>
  std::optional<typename Likelihood::Value> observe(const Likelihood& likelihood,
                                                    std::optional<typename Likelihood::Value> value,
                                                    const std::string& name, const Address& given,
                                                    const void* caller) {
    write_observe(asking(), likelihood, value, place_of(given, caller), name);
    const auto* scored = ask(ppx::MessageBody::ObserveResult).body_as_ObserveResult()->value();
    if (size_of(scored) != 0) {
      value = blank_value(likelihood);
      read(scored, Likelihood::name(), *value);
    }
    return value;
  }

  void tag(const Tensor& value, const std::string& name, const Address& given, const void* caller) {
    write_tag(asking(), value, place_of(given, caller), name);
    ask(ppx::MessageBody::TagResult);
  }

  // ---- rejection loops

  void open_loop() { ++num_open_loops_; }
  void close_loop() { num_open_loops_ -= num_open_loops_ > 0 ? 1 : 0; }

  // Tells of a pass through a loop; whether the loop may end, where that is the question.
  bool tell_of_pass(const std::string& event) {
    if (!is_tracestore_) {
      return true;
    }
    write_tag(asking(), Tensor(), rejection_mark, event);
    const auto* answer = ask(ppx::MessageBody::TagResult).body_as_TagResult()->value();
    return size_of(answer) == 0 || answer->data()->Get(0) != 0.0;
  }

  // ---- what the server needs

  bool is_tracestore() const { return is_tracestore_; }
  void set_tracestore(bool is_tracestore) { is_tracestore_ = is_tracestore; }
  bool run_is_over() const { return run_is_over_; }
  const std::string& failure() const { return failure_; }

  void start_run() {
    run_is_over_ = false;
    num_open_loops_ = 0;
    failure_.clear();
  }

 private:
  const std::string& place_of(const Address& given, const void* caller) {
    return given.is_given() ? given.text() : book_.place(caller);
  }

  // The builder for the next question. A model that holds on after the end of its run is unwound again.
  FlatBufferBuilder& asking() {
    if (run_is_over_ || end_requested != 0) {
      end_run();
    }
    return connection_.builder();
  }

  const ppx::Message& ask(ppx::MessageBody expected) {
    connection_.send();
    if (!connection_.receive()) {
      end_run();
    }
    const ppx::Message* answer = connection_.message();
    if (answer == nullptr || answer->body_type() != expected) {
      end_run();  // what came is answered when the model is unwound
    }
    return *answer;
  }

  [[noreturn]] void end_run() {
    run_is_over_ = true;
    throw RunIsOver();
  }

  template <class Value>
  void read(const ppx::Tensor* tensor, const char* family, Value& value) {
    try {
      read_value(tensor, family, value);
    } catch (const ProtocolError& error) {
      failure_ = error.what();  // also when the model swallows it
      throw;
    }
  }

  Connection& connection_;
  AddressBook book_;
  bool is_tracestore_ = false;
  bool run_is_over_ = false;
  std::size_t num_open_loops_ = 0;
  std::string failure_;
};

// A model may draw from several threads, so everything below is used under the lock.
inline std::mutex session_mutex;
inline Session* session = nullptr;
inline std::optional<Engine> local_engine;

inline Engine& engine_alone() {
  if (!local_engine.has_value()) {
    throw Error("Without a controller draws come from a local generator; call tracestore::seed(number) first.");
  }
  return *local_engine;
}

}  // namespace tracestore::detail
