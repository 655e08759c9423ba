// What is thrown.
#pragma once

#include <stdexcept>

namespace tracestore {

// An error with one clear sentence: what is wrong, what was found, what to do.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A parameter or value that a distribution cannot have.
class InvalidInputError : public Error {
 public:
  using Error::Error;
};

// The other side sent something that does not fit.
class ProtocolError : public Error {
 public:
  using Error::Error;
};

namespace detail {

// Unwinds a model whose run is over: aborted by the controller, or because the process was asked to end. No
// std::exception on purpose, so that `catch (const std::exception&)` in a model lets it pass.
struct RunIsOver {};

}  // namespace detail
}  // namespace tracestore
