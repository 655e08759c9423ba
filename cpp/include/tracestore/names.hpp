// Names of functions, for people: demangled, without arguments, template arguments and results.
#pragma once

#include <cxxabi.h>

#include <array>
#include <cctype>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>

namespace tracestore::detail {

inline std::string demangled(const char* name) {
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> text(abi::__cxa_demangle(name, nullptr, nullptr, &status), std::free);
  return status == 0 && text != nullptr ? text.get() : name;
}

inline bool starts(std::string_view text, std::size_t position, std::string_view word) {
  return text.compare(position, word.size(), word) == 0;
}

// Length of the symbol after the word `operator`, such as `<<`; 0 for conversions, `new` and the like.
inline std::size_t operator_length(std::string_view text, std::size_t position) {
  constexpr std::array<std::string_view, 41> symbols = {
      "->*", "<<=", ">>=", "<=>", "()", "[]", "->", "<<", ">>", "<=", ">=", "==", "!=", "&&",
      "||",  "++",  "--",  "+=",  "-=", "*=", "/=", "%=", "^=", "&=", "|=", "<",  ">",  "+",
      "-",   "*",   "/",   "%",   "^",  "&",  "|",  "~",  "!",  "=",  ",",  "\"\"", ""};
  for (const std::string_view symbol : symbols) {
    if (starts(text, position, symbol)) {
      return symbol.size();
    }
  }
  return 0;
}

inline bool is_operator(std::string_view text, std::size_t position) {
  const auto letter = position == 0 ? ' ' : text[position - 1];
  return starts(text, position, "operator") && (std::isalnum(static_cast<unsigned char>(letter)) == 0) && letter != '_';
}

// Without everything in parentheses and angle brackets; lambdas become `{lambda}`.
inline std::string without_brackets(std::string_view text) {
  constexpr std::string_view anonymous = "(anonymous namespace)::";
  std::string kept;
  std::size_t depth = 0;
  for (std::size_t position = 0; position < text.size(); ++position) {
    const char letter = text[position];
    if (depth == 0 && starts(text, position, anonymous)) {
      position += anonymous.size() - 1;
    } else if (is_operator(text, position)) {
      const std::size_t length = 8 + operator_length(text, position + 8);
      kept += depth == 0 ? text.substr(position, length) : "";
      position += length - 1;
    } else if (letter == '<' || letter == '(' || letter == '{') {
      kept += depth == 0 && starts(text, position, "{lambda") ? "{lambda}" : "";
      ++depth;
    } else if (letter == '>' || letter == ')' || letter == '}') {
      depth -= depth > 0 ? 1 : 0;
    } else if (depth == 0) {
      kept += letter;
    }
  }
  return kept;
}

// Without everything from a mark to the end of it, wherever it stands.
inline std::string without(std::string text, std::string_view mark, std::string_view end) {
  for (std::size_t found = text.find(mark); found != std::string::npos; found = text.find(mark, found)) {
    const std::size_t last = text.find(end, found);
    text.erase(found, last == std::string::npos ? last : last + end.size() - found);
  }
  return text;
}

// `double ns::Box<int>::fill<float>(int) const` is `ns::Box::fill`.
inline std::string short_name(const std::string& full) {
  std::string name = without_brackets(without(without(full, " [clone ", "]"), "[abi:", "]"));
  for (const std::string_view mark : {" const", " volatile", " &&", " &"}) {
    for (std::size_t found = name.find(mark); found != std::string::npos; found = name.find(mark, found)) {
      const std::size_t end = found + mark.size();
      if (end == name.size() || name[end] == ':' || name[end] == ' ') {
        name.erase(found, mark.size());
      } else {
        found = end;
      }
    }
  }
  name.erase(name.find_last_not_of(' ') + 1);
  const std::size_t word = name.find("operator ");  // `operator bool` keeps its blank
  const std::size_t blank = name.rfind(' ', word == std::string::npos ? std::string::npos : word);
  return blank == std::string::npos ? name : name.substr(blank + 1);
}

}  // namespace tracestore::detail
