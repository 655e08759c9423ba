// Rejection loops, marked as such: where a program draws again and again until something holds.
//
// Inside, the prior proposes unless an engine is told otherwise, and rejected passes can be left out of the trace.
#pragma once

#include <mutex>

#include <tracestore/session.hpp>

namespace tracestore {

// One pass through a rejection loop.
class Attempt {
 public:
  // Ends the loop after this pass.
  void accept() { is_accepted_ = true; }
  bool is_accepted() const { return is_accepted_; }

 private:
  bool is_accepted_ = false;
};

// The loop itself: `for (auto& attempt : rejection()) { ... attempt.accept(); }`.
class Rejection {
 public:
  Rejection() = default;
  Rejection(const Rejection&) = delete;
  Rejection& operator=(const Rejection&) = delete;

  ~Rejection() {
    if (!is_open_) {
      return;
    }
    try {
      tell("leave");
    } catch (const detail::RunIsOver&) {  // the next draw, or the end of the model, finds out as well
    } catch (const Error&) {
    }
    const std::lock_guard<std::mutex> lock(detail::session_mutex);
    if (detail::session != nullptr) {
      detail::session->close_loop();
    }
  }

  struct End {};

  class Iterator {
   public:
    explicit Iterator(Rejection* loop) : loop_(loop) {}
    Attempt& operator*() const { return loop_->attempt_; }
    bool operator!=(End /*end*/) const { return !loop_->has_ended_; }
    Iterator& operator++() {
      loop_->end_attempt();
      return *this;
    }

   private:
    Rejection* loop_;
  };

  Iterator begin() {
    {
      const std::lock_guard<std::mutex> lock(detail::session_mutex);
      if (detail::session != nullptr) {
        detail::session->open_loop();
      }
    }
    is_open_ = true;
    tell("open");
    tell("start");
    return Iterator(this);
  }

  End end() const { return {}; }

 private:
  static bool tell(const char* event) {
    const std::lock_guard<std::mutex> lock(detail::session_mutex);
    return detail::session == nullptr || detail::session->tell_of_pass(event);
  }

  void end_attempt() {
    const bool is_accepted = attempt_.is_accepted();
    has_ended_ = tell(is_accepted ? "accepted" : "rejected") && is_accepted;
    if (!has_ended_) {
      attempt_ = Attempt();
      tell("start");
    }
  }

  Attempt attempt_;
  bool is_open_ = false;
  bool has_ended_ = false;
};

inline Rejection rejection() { return {}; }

// Marks a loop that the program conducts by itself, for as long as this object lives. Passes cannot be told apart, so
// they are all kept.
class RejectionScope {
 public:
  RejectionScope() { change(&detail::Session::open_loop); }
  ~RejectionScope() { change(&detail::Session::close_loop); }
  RejectionScope(const RejectionScope&) = delete;
  RejectionScope& operator=(const RejectionScope&) = delete;

 private:
  static void change(void (detail::Session::*how)()) {
    const std::lock_guard<std::mutex> lock(detail::session_mutex);
    if (detail::session != nullptr) {
      (detail::session->*how)();
    }
  }
};

}  // namespace tracestore
