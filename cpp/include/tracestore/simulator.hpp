// What a model calls: `sample`, `observe` and `tag`.
//
// While a model is served, values come from the controller. Otherwise they are drawn in this process, from a generator
// that `seed` starts. Calls derive their address from the calling code, so the wrappers below merge with their caller.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include <tracestore/address.hpp>
#include <tracestore/drawing.hpp>
#include <tracestore/session.hpp>

// Merged with the caller, and not left by a jump: a tail call would take the caller out of the chain.
#define TRACESTORE_MERGED [[gnu::always_inline]] inline
#define TRACESTORE_STAYS_ON_STACK() __asm__ volatile("" ::: "memory")

namespace tracestore {

// Starts the generator of programs that run without a controller.
inline void seed(std::uint64_t number) {
  const std::lock_guard<std::mutex> lock(detail::session_mutex);
  detail::local_engine.emplace(number);
}

// A name, and an address instead of the derived one.
class Label {
 public:
  Label() = default;
  Label(const char* name, Address address = {}) : name_(name), address_(std::move(address)) {}
  Label(std::string name, Address address = {}) : name_(std::move(name)), address_(std::move(address)) {}
  Label(Address address) : address_(std::move(address)) {}

  const std::string& name() const { return name_; }
  const Address& address() const { return address_; }

 private:
  std::string name_;
  Address address_;
};

// A label, and whether inference may choose the value: `{"noise", false}` always draws from the prior.
class SampleOptions : public Label {
 public:
  SampleOptions() = default;
  SampleOptions(const char* name, bool control = true, Address address = {})
      : Label(name, std::move(address)), control_(control) {}
  SampleOptions(std::string name, bool control = true, Address address = {})
      : Label(std::move(name), std::move(address)), control_(control) {}
  SampleOptions(Address address, bool control = true) : Label(std::move(address)), control_(control) {}

  bool control() const { return control_; }

 private:
  bool control_ = true;
};

namespace detail {

template <class Prior>
[[gnu::noinline]] typename Prior::Value sample(const Prior& prior, const SampleOptions& options) {
  const void* caller = __builtin_extract_return_addr(__builtin_return_address(0));
  const std::lock_guard<std::mutex> lock(session_mutex);
  if (session == nullptr) {
    return draw(prior, engine_alone());
  }
  return session->sample(prior, options.name(), options.control(), options.address(), caller);
}

template <class Likelihood>
[[gnu::noinline]] std::optional<typename Likelihood::Value> observe(const Likelihood& likelihood,
                                                                    std::optional<typename Likelihood::Value> value,
                                                                    const Label& label) {
  const void* caller = __builtin_extract_return_addr(__builtin_return_address(0));
  const std::lock_guard<std::mutex> lock(session_mutex);
  if constexpr (std::is_same_v<typename Likelihood::Value, Tensor>) {
    if (value.has_value() && value->shape() != likelihood.parameters()[0].shape()) {
      throw InvalidInputError("The observed value must have the shape " +
                              Tensor::text(likelihood.parameters()[0].shape()) + " of its distribution; got " +
                              Tensor::text(value->shape()) + ".");
    }
  }
  if (session == nullptr) {
    return value.has_value() ? value : draw(likelihood, engine_alone());
  }
  return session->observe(likelihood, std::move(value), label.name(), label.address(), caller);
}

[[gnu::noinline]] inline void tag(const Tensor& value, const Label& label) {
  const void* caller = __builtin_extract_return_addr(__builtin_return_address(0));
  const std::lock_guard<std::mutex> lock(session_mutex);
  if (value.size() == 0) {
    throw InvalidInputError("A tag must have at least one number; " + label.name() + " has none.");
  }
  if (session != nullptr) {
    session->tag(value, label.name(), label.address(), caller);
  }
}

}  // namespace detail

// Draws from a prior: a double, a whole number (std::int64_t), or a Tensor where the parameters are tensors.
template <class Prior>
TRACESTORE_MERGED typename Prior::Value sample(const Prior& prior, const SampleOptions& options = {}) {
  typename Prior::Value value = detail::sample(prior, options);
  TRACESTORE_STAYS_ON_STACK();
  return value;
}

// Conditions on a value that the program knows. Returns the value that was scored: another one if the controller has an
// observation of this name and says so, as tracestore does.
template <class Likelihood>
TRACESTORE_MERGED typename Likelihood::Value observe(const Likelihood& likelihood,
                                                     const typename Likelihood::Value& value, const Label& label = {}) {
  typename Likelihood::Value scored = *detail::observe(likelihood, std::optional(value), label);
  TRACESTORE_STAYS_ON_STACK();
  return scored;
}

// Conditions on a value that the controller knows. Returns it; nothing if the controller does not tell, as others than
// tracestore. Without a controller it is drawn.
template <class Likelihood>
TRACESTORE_MERGED std::optional<typename Likelihood::Value> observe(const Likelihood& likelihood,
                                                                    const Label& label = {}) {
  std::optional<typename Likelihood::Value> scored = detail::observe(likelihood, std::nullopt, label);
  TRACESTORE_STAYS_ON_STACK();
  return scored;
}

// Records numbers that are never scored.
TRACESTORE_MERGED void tag(const Tensor& value, const Label& label = {}) {
  detail::tag(value, label);
  TRACESTORE_STAYS_ON_STACK();
}

}  // namespace tracestore

#undef TRACESTORE_MERGED
#undef TRACESTORE_STAYS_ON_STACK
