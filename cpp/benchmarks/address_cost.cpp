// What an address costs per draw, with remembered texts and without: `address_cost [CALLS]` prints nanoseconds.
//
// Chains are as deep as those of a simulator (depth of calls below the model), half of them through templates, whose
// names are long. "unwinding" is the walk over the stack alone, which both pay.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include <tracestore/tracestore.hpp>

namespace bench {

using tracestore::detail::AddressBook;
using tracestore::detail::Chain;

enum class Mode { nothing, unwinding, remembered, made_anew };

Mode mode = Mode::nothing;
AddressBook remembering;
AddressBook forgetful(false);
Chain chain;
std::size_t sum = 0;

[[gnu::noinline]] void draw() {
  const void* caller = __builtin_return_address(0);
  switch (mode) {
    case Mode::nothing:
      break;
    case Mode::unwinding:
      tracestore::detail::collect(chain, caller);
      sum += chain.size();
      break;
    case Mode::remembered:
      sum += remembering.place(caller).size();
      break;
    case Mode::made_anew:
      sum += forgetful.place(caller).size();
      break;
  }
}

template <class Key, class Value>
[[gnu::noinline]] void nested(std::map<Key, std::vector<Value>>* data, int depth);

[[gnu::noinline]] void plain(int depth) {
  if (depth <= 1) {
    draw();
  } else {
    nested<std::string, double>(nullptr, depth - 1);
  }
  __asm__ volatile("" ::: "memory");
}

template <class Key, class Value>
[[gnu::noinline]] void nested(std::map<Key, std::vector<Value>>* /*data*/, int depth) {
  if (depth <= 1) {
    draw();
  } else {
    plain(depth - 1);
  }
  __asm__ volatile("" ::: "memory");
}

double nanoseconds(int depth, Mode chosen, int num_calls) {
  mode = chosen;
  double elapsed = 0.0;
  auto model = [&] {
    plain(depth);  // the first fills the tables
    const auto start = std::chrono::steady_clock::now();
    for (int call = 0; call < num_calls; ++call) {
      plain(depth);
    }
    elapsed = std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count();
  };
  tracestore::detail::call_model(model);
  return elapsed / num_calls;
}

}  // namespace bench

int main(int argc, char** argv) {
  using bench::Mode;
  const int num_calls = argc > 1 ? std::atoi(argv[1]) : 20000;
  std::printf("depth  unwinding  remembered  made_anew  ratio\n");
  for (const int depth : {1, 4, 8, 16, 32}) {
    const double nothing = bench::nanoseconds(depth, Mode::nothing, num_calls);
    const double unwinding = bench::nanoseconds(depth, Mode::unwinding, num_calls) - nothing;
    const double remembered = bench::nanoseconds(depth, Mode::remembered, num_calls) - nothing;
    const double made_anew = bench::nanoseconds(depth, Mode::made_anew, num_calls) - nothing;
    std::printf("%5d  %9.0f  %10.0f  %9.0f  %5.1f\n", depth, unwinding, remembered, made_anew, made_anew / remembered);
  }
  return bench::sum == 0 ? 1 : 0;
}
