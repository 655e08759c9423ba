#include <string>
#include <thread>
#include <vector>

#include <tracestore/address.hpp>

#include "check.hpp"
#include "elsewhere.hpp"

using tracestore::detail::AddressBook;
using tracestore::detail::call_model;

namespace {

AddressBook book;
std::vector<std::string> places;

[[gnu::noinline]] void record() {
  places.push_back(book.place(__builtin_return_address(0)));
  __asm__ volatile("" ::: "memory");
}

}  // namespace

// with names of their own, so that they are exported
[[gnu::noinline]] void leaf() {
  record();
  record();
}

[[gnu::noinline]] void branch() {
  leaf();
  leaf();
}

volatile int num_turns = 2;  // a loop of known length could be unrolled, into two calls

void loop() {
  for (int turn = 0; turn < num_turns; ++turn) {
    record();
  }
}

void tail() { record(); }

void descend(int depth);
void (*volatile descend_further)(int) = descend;  // the optimizer must not merge a call with the next

void descend(int depth) {
  if (depth == 0) {
    record();
  } else {
    descend_further(depth - 1);
  }
  __asm__ volatile("" ::: "memory");
}

void recursion() {
  descend_further(1);
  descend_further(3);
}

void far() { call_from_elsewhere(leaf); }

template <class Model>
std::vector<std::string> places_of(Model&& model) {
  places.clear();
  call_model(model);
  return places;
}

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) {
    ++found;
  }
  return found;
}

CASE(a_chain_begins_at_the_model_and_ends_at_the_caller) {
  const auto found = places_of(branch);
  CHECK(found.size() == 4);
  for (const std::string& place : found) {
    CHECK(place.rfind("branch@", 0) == 0);
    CHECK(place.find(" | leaf@") != std::string::npos);
    CHECK(count(place, "|") == 1);
  }
}

CASE(each_call_has_its_own_address) {
  const auto found = places_of(branch);
  for (std::size_t one = 0; one < found.size(); ++one) {
    for (std::size_t other = 0; other < one; ++other) {
      CHECK(found[one] != found[other]);
    }
  }
}

CASE(the_same_call_has_the_same_address) {
  const auto found = places_of(loop);
  CHECK(found.size() == 2 && found[0] == found[1]);
  CHECK(places_of(branch) == places_of(branch));
}

CASE(who_calls_the_model_does_not_matter) {
  const auto direct = places_of(branch);
  std::vector<std::string> nested;
  const auto indirect = [&] { nested = places_of(branch); };
  indirect();
  CHECK(direct == nested);
}

CASE(a_model_that_is_a_lambda_keeps_its_calls_apart) {
  const auto found = places_of([] {
    leaf();
    leaf();
  });
  CHECK(found.size() == 4 && found[0] != found[2]);
}

CASE(a_function_is_not_lost_by_a_tail_call) {
  const auto found = places_of(tail);
  CHECK(found.size() == 1 && found[0].rfind("tail@", 0) == 0);
}

CASE(depth_of_recursion_is_part_of_the_address) {
  const auto found = places_of(recursion);
  CHECK(found.size() == 2);
  CHECK(count(found[0], "descend@") == 2);
  CHECK(count(found[1], "descend@") == 4);
}

CASE(another_module_is_named) {
  const auto found = places_of(far);
  CHECK(found.size() == 2);
  CHECK(found[0].find(" | libelsewhere.so:call_from_elsewhere@") != std::string::npos);
  CHECK(found[0].rfind("far@", 0) == 0);
  CHECK(found[0].find(" | leaf@") != std::string::npos);
}

CASE(a_book_that_remembers_nothing_says_the_same) {
  const auto remembered = places_of(far);
  book = AddressBook(false);
  const auto made_anew = places_of(far);
  book = AddressBook();
  CHECK(remembered == made_anew);
}

CASE(another_thread_has_a_chain_of_its_own) {
  const auto found = places_of([] { std::thread(leaf).join(); });
  CHECK(found.size() == 2 && found[0] != found[1]);
  CHECK(found[0].find("leaf@") != std::string::npos);
  CHECK(found[0].find("lib") == std::string::npos);  // where threads begin is of no interest
}
