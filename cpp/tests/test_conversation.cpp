// A served model in a thread of this process, and a controller beside it.
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <stdexcept>
#include <string>
#include <thread>

#include <tracestore/tracestore.hpp>

#include "check.hpp"
#include "peer.hpp"

using peer::Peer;
using tracestore::ppx::MessageBody;

namespace {

std::atomic<int> num_destroyed{0};

struct Resource {
  ~Resource() { ++num_destroyed; }
};

// Serves a model while a conversation goes on, and ends it then.
template <class Model, class Conversation>
void with_served(Model model, Conversation conversation) {
  const std::string endpoint = "ipc://@tracestore-test-" + std::to_string(getpid());
  std::string problem;
  std::thread server([&] {
    try {
      ts::serve(model, {endpoint, "model", false});
    } catch (const std::exception& error) {
      problem = error.what();
    }
  });
  try {
    Peer controller(endpoint);
    conversation(controller);
  } catch (const std::exception& error) {
    problem = error.what();
  }
  tracestore::detail::end_requested = 1;  // as a signal does
  server.join();
  tracestore::detail::end_requested = 0;
  CHECK(problem.empty());
  if (!problem.empty()) {
    std::printf("%s\n", problem.c_str());
  }
}

double model() {
  const Resource resource;
  const double x = ts::sample(ts::Normal(0, 1), "x");
  if (x > 100.0) {
    throw std::runtime_error("too far");
  }
  return 2.0 * x;
}

}  // namespace

CASE(a_run_has_a_result) {
  with_served(model, [](Peer& controller) {
    CHECK(controller.handshake("tracestore 1").body_type() == MessageBody::HandshakeResult);
    CHECK(controller.run().body_type() == MessageBody::Sample);
    const auto& last = controller.value(1.5);
    CHECK(last.body_type() == MessageBody::RunResult);
    CHECK(last.body_as_RunResult()->result()->data()->Get(0) == 3.0);
  });
}

CASE(reset_unwinds_the_model) {
  with_served(model, [](Peer& controller) {
    controller.handshake("tracestore 1");
    controller.run();
    const int before = num_destroyed;
    CHECK(controller.reset().body_type() == MessageBody::Reset);
    CHECK(num_destroyed == before + 1);
    CHECK(controller.run().body_type() == MessageBody::Sample);
  });
}

CASE(a_swallowed_abort_comes_again) {
  const auto stubborn = [] {
    for (int turn = 0; turn < 3; ++turn) {
      try {
        ts::sample(ts::Normal(0, 1));
      } catch (...) {
      }
    }
  };
  with_served(stubborn, [](Peer& controller) {
    controller.run();
    CHECK(controller.reset().body_type() == MessageBody::Reset);
    CHECK(controller.run().body_type() == MessageBody::Sample);
  });
}

CASE(an_exception_is_told_to_tracestore) {
  with_served(model, [](Peer& controller) {
    controller.handshake("tracestore 1");
    controller.run();
    const auto& failure = controller.value(1000.0);
    CHECK(failure.body_type() == MessageBody::Tag);
    CHECK(failure.body_as_Tag()->address()->str() == "[failure]");
    CHECK(failure.body_as_Tag()->name()->str() == "std::runtime_error: too far");
    CHECK(controller.tagged().body_type() == MessageBody::Reset);
  });
}

CASE(others_get_a_run_without_result) {
  with_served(model, [](Peer& controller) {
    controller.handshake("pyprob 1.5.0");
    controller.run();
    const auto& last = controller.value(1000.0);
    CHECK(last.body_type() == MessageBody::RunResult && last.body_as_RunResult()->result() == nullptr);
  });
}

CASE(draws_of_a_worker_thread_belong_to_the_run) {
  const auto threaded = [] {
    double x = 0.0;
    std::thread([&] { x = ts::sample(ts::Normal(0, 1)); }).join();
    return x;
  };
  with_served(threaded, [](Peer& controller) {
    CHECK(controller.run().body_type() == MessageBody::Sample);
    CHECK(controller.value(4.0).body_as_RunResult()->result()->data()->Get(0) == 4.0);
  });
}

CASE(an_endpoint_that_cannot_be_bound_is_an_error) {
  CHECK_THROWS(ts::Error, "cannot be bound", ts::serve(model, {"ipc:///no/such/folder/at/all", "model", false}));
}
