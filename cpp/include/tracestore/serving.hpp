// A model as a PPX program: it waits at an endpoint for a controller and runs when told to.
#pragma once

#include <cxxabi.h>

#include <exception>
#include <mutex>
#include <optional>
#include <string>
#include <type_traits>
#include <typeinfo>

#include <tracestore/address.hpp>
#include <tracestore/connection.hpp>
#include <tracestore/names.hpp>
#include <tracestore/session.hpp>
#include <tracestore/version.hpp>

namespace tracestore {

struct ServeOptions {
  std::string endpoint = "tcp://127.0.0.1:5555";
  std::string name = "model";
  bool handles_signals = true;  // SIGINT and SIGTERM end serving
};

namespace detail {

// Address of the tag that tells tracestore why a run failed; the reason is the name.
inline constexpr const char* failure_mark = "[failure]";

class SessionScope {
 public:
  explicit SessionScope(Session& mine) {
    const std::lock_guard<std::mutex> lock(session_mutex);
    if (session != nullptr) {
      throw Error("A process serves one model at a time, and one is served already.");
    }
    session = &mine;
  }
  ~SessionScope() {
    const std::lock_guard<std::mutex> lock(session_mutex);
    session = nullptr;
  }
  SessionScope(const SessionScope&) = delete;
  SessionScope& operator=(const SessionScope&) = delete;
};

template <class Model>
class Server {
 public:
  Server(Model& model, const ServeOptions& options)
      : model_(model), name_(options.name), connection_(options.endpoint), session_(connection_) {}

  void serve() {
    const SessionScope scope(session_);
    while (connection_.receive()) {
      const ppx::Message* request = connection_.message();
      if (request != nullptr && request->body_type() == ppx::MessageBody::Run) {
        run();
      } else {
        answer();
      }
    }
  }

 private:
  // Answers what is no Run.
  void answer() {
    const ppx::Message* request = connection_.message();
    if (request != nullptr && request->body_type() == ppx::MessageBody::Handshake) {
      const auto* peer = request->body_as_Handshake()->system_name();
      session_.set_tracestore(peer != nullptr && starts(peer->string_view(), 0, "tracestore"));
      write_handshake_result(connection_.builder(), std::string("tracestore_cpp ") + version, name_);
    } else {
      write_reset(connection_.builder());
    }
    connection_.send();
  }

  void run() {
    session_.start_run();
    std::optional<Tensor> result;
    std::string failure;
    try {
      result = call();
      failure = session_.failure();
    } catch (const RunIsOver&) {
      failure = "the run is over";  // as session_ knows
    } catch (const std::exception& error) {
      failure = demangled(typeid(error).name()) + ": " + error.what();
    } catch (abi::__forced_unwind&) {
      throw;  // the thread is cancelled
    } catch (...) {
      failure = "an exception that is no std::exception";
    }
    if (!session_.run_is_over()) {
      finish_run(failure, result.has_value() ? &*result : nullptr);
    }
    if (connection_.owes_answer()) {
      answer();
    }
  }

  std::optional<Tensor> call() {
    if constexpr (std::is_void_v<decltype(model_())>) {
      call_model(model_);
      return std::nullopt;
    } else {
      using Result = std::decay_t<decltype(model_())>;
      if constexpr (std::is_arithmetic_v<Result>) {
        return Tensor(static_cast<double>(call_model(model_)));
      } else {
        return Tensor(call_model(model_));
      }
    }
  }

  void finish_run(const std::string& failure, const Tensor* result) {
    if (failure.empty() || !session_.is_tracestore()) {
      write_run_result(connection_.builder(), failure.empty() ? result : nullptr);
      connection_.send();
      return;
    }
    write_tag(connection_.builder(), Tensor(), failure_mark, readable(failure));
    connection_.send();
    connection_.receive();  // whatever it is, the run is over: the answer is Reset, or that to a handshake
  }

  Model& model_;
  std::string name_;
  Connection connection_;
  Session session_;
};

}  // namespace detail

// Serves a model until SIGINT or SIGTERM.
//
// The model is called without arguments for each run; what it returns (nothing, a number, a Tensor, numbers) is the
// result. An exception fails the run, not the program. A controller may abort a run: then the model is unwound by an
// exception that is no std::exception, so it should let unknown exceptions pass. Throws Error when the endpoint cannot
// be bound.
template <class Model>
void serve(Model&& model, const ServeOptions& options = {}) {
  const detail::SignalScope signals(options.handles_signals);
  detail::Server<std::remove_reference_t<Model>>(model, options).serve();
}

}  // namespace tracestore
