// The least that a test needs: cases that register themselves, and checks that say where they fail.
#pragma once

#include <cstdio>
#include <exception>
#include <string>
#include <vector>

namespace check {

struct Case {
  const char* name;
  void (*body)();
};

inline std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}

inline int& num_failures() {
  static int count = 0;
  return count;
}

struct Register {
  Register(const char* name, void (*body)()) { cases().push_back({name, body}); }
};

inline void that(bool holds, const char* what, const char* file, int line) {
  if (!holds) {
    std::printf("%s:%d: %s does not hold\n", file, line, what);
    ++num_failures();
  }
}

template <class Expected, class Function>
void throws(Function&& function, const std::string& part, const char* file, int line) {
  try {
    function();
  } catch (const Expected& error) {
    if (std::string(error.what()).find(part) == std::string::npos) {
      std::printf("%s:%d: the message is: %s\n", file, line, error.what());
      ++num_failures();
    }
    return;
  }
  std::printf("%s:%d: nothing was thrown\n", file, line);
  ++num_failures();
}

inline int run_all() {
  for (const Case& one : cases()) {
    const int before = num_failures();
    try {
      one.body();
    } catch (const std::exception& error) {
      std::printf("%s: %s\n", one.name, error.what());
      ++num_failures();
    }
    std::printf("%s %s\n", num_failures() == before ? "ok  " : "FAIL", one.name);
  }
  return num_failures() == 0 ? 0 : 1;
}

}  // namespace check

#define CASE(name)                                        \
  static void name();                                     \
  static const check::Register registered_##name(#name, name); \
  static void name()
#define CHECK(condition) check::that((condition), #condition, __FILE__, __LINE__)
#define CHECK_THROWS(error, part, ...) check::throws<error>([&] { __VA_ARGS__; }, part, __FILE__, __LINE__)

int main() { return check::run_all(); }
