#include <tracestore/names.hpp>

#include "check.hpp"

using tracestore::detail::short_name;

CASE(arguments_and_template_arguments_go) {
  CHECK(short_name("ns::Box<int>::fill(std::vector<double, std::allocator<double> > const&)") == "ns::Box::fill");
}

CASE(the_result_of_a_template_goes) { CHECK(short_name("std::pair<int, int> ns::make<int>(int)") == "ns::make"); }

CASE(qualifiers_go) {
  CHECK(short_name("Layer::measure(Track const&) const") == "Layer::measure");
  CHECK(short_name("A::f() const::{lambda(int)#2}::operator()(int) const") == "A::f::{lambda}::operator()");
}

CASE(a_name_that_begins_like_a_qualifier_stays) { CHECK(short_name("int ns::constant<3>()") == "ns::constant"); }

CASE(anonymous_namespaces_go) { CHECK(short_name("(anonymous namespace)::walk(int)") == "walk"); }

CASE(operators_keep_their_symbols) {
  CHECK(short_name("ns::operator<<(std::ostream&, ns::A const&)") == "ns::operator<<");
  CHECK(short_name("bool ns::operator< <int>(ns::B<int> const&)") == "ns::operator<");
  CHECK(short_name("A::operator->() const") == "A::operator->");
  CHECK(short_name("A::operator()(int)") == "A::operator()");
  CHECK(short_name("A::operator bool() const") == "A::operator bool");
  CHECK(short_name("my_operator(int)") == "my_operator");
}

CASE(marks_of_the_compiler_go) {
  CHECK(short_name("draw(int) [clone .isra.0]") == "draw");
  CHECK(short_name("name[abi:cxx11](int)") == "name");
}

CASE(names_of_c_stay) { CHECK(short_name("tauola_decay_") == "tauola_decay_"); }

CASE(broken_text_does_no_harm) {
  CHECK(short_name("").empty());
  CHECK(short_name("f(((") == "f");
  CHECK(short_name(">>)f") == "f");
  CHECK(short_name("a [clone x") == "a");
}
