// A whole program around a model: what `main` returns.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <type_traits>

#include <tracestore/errors.hpp>
#include <tracestore/serving.hpp>
#include <tracestore/simulator.hpp>

namespace tracestore {

namespace detail {

inline void print(const Tensor& numbers) {
  for (const double number : numbers) {
    std::printf("%.17g ", number);
  }
}

template <class Model>
void run_alone(Model& model, std::uint64_t num_runs, std::uint64_t number) {
  seed(number);
  for (std::uint64_t run = 0; run < num_runs; ++run) {
    using Result = decltype(model());
    if constexpr (std::is_void_v<Result>) {
      model();
    } else if constexpr (std::is_arithmetic_v<Result>) {
      print(static_cast<double>(model()));
    } else {
      print(model());
    }
    std::printf("\n");
  }
}

inline unsigned long long whole(const char* text) {
  char* end = nullptr;
  const unsigned long long number = std::strtoull(text, &end, 10);
  if (end == text || *end != '\0' || *text == '-') {
    throw InvalidInputError("RUNS and SEED must be whole numbers from 0; got '" + std::string(text) + "'.");
  }
  return number;
}

}  // namespace detail

// `PROGRAM [ENDPOINT]` serves the model, by default at tcp://127.0.0.1:5555, and `PROGRAM --alone RUNS SEED` runs it
// without a controller and prints one result a line.
template <class Model>
int program(int num_arguments, char** arguments, const std::string& name, Model&& model) {
  try {
    const std::string first = num_arguments > 1 ? arguments[1] : "";
    if (first == "--alone" && num_arguments == 4) {
      detail::run_alone(model, detail::whole(arguments[2]), detail::whole(arguments[3]));
    } else if (num_arguments <= 2 && first.rfind("--", 0) != 0) {
      ServeOptions options;
      options.name = name;
      options.endpoint = first.empty() ? options.endpoint : first;
      serve(model, options);
    } else {
      std::fprintf(stderr, "usage: %s [ENDPOINT]\n       %s --alone RUNS SEED\n", name.c_str(), name.c_str());
      return 2;
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", name.c_str(), error.what());
    return 1;
  }
  return 0;
}

}  // namespace tracestore
