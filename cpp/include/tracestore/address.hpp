// Places in a program, as text: the chain of calls that led to a draw, outermost first.
//
// `walk@2f3a | Detector::hit@1c04`: the short name of each function and the offset of the return address in its module,
// which is the same in every process that runs this build. Frames of another module than the one that serves the model
// get the name of the module in front. Must not know distributions nor sockets.
#pragma once

#include <dlfcn.h>
#include <unwind.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

#include <tracestore/names.hpp>

namespace tracestore {

// The identity of a place, given by the program instead of derived from its calls.
class Address {
 public:
  Address() = default;
  explicit Address(std::string text) : text_(std::move(text)) {}
  const std::string& text() const { return text_; }
  bool is_given() const { return !text_.empty(); }

 private:
  std::string text_;
};

namespace detail {

// Draws inside a rejection loop have addresses that begin with this.
inline constexpr const char* rejection_mark = "[rejection]";

using Chain = std::vector<std::uintptr_t>;  // return addresses, innermost first

// Where the module is loaded that serves the model.
inline const void* home_module = nullptr;

// Stack position of the function that calls the model; 0 in threads that did not call it.
inline thread_local std::uintptr_t model_frame = 0;

struct Walk {
  Chain* chain;
  std::uintptr_t innermost;
  std::uintptr_t end;
  bool is_inside;
};

inline _Unwind_Reason_Code visit_frame(_Unwind_Context* context, void* data) {
  Walk& walk = *static_cast<Walk*>(data);
  const auto address = static_cast<std::uintptr_t>(_Unwind_GetIP(context));
  if (address == 0) {
    return _URC_END_OF_STACK;
  }
  walk.is_inside = walk.is_inside || address == walk.innermost;
  if (walk.is_inside) {
    // the stack position of a frame is above that of all functions it calls
    if (walk.end != 0 && static_cast<std::uintptr_t>(_Unwind_GetCFA(context)) > walk.end) {
      return _URC_END_OF_STACK;
    }
    walk.chain->push_back(address);
  }
  return _URC_NO_REASON;
}

// The chain from the function that `innermost` returns to, outward to the model.
inline void collect(Chain& chain, const void* innermost) {
  const auto first = reinterpret_cast<std::uintptr_t>(innermost);
  chain.clear();
  Walk walk{&chain, first, model_frame, false};
  _Unwind_Backtrace(visit_frame, &walk);
  if (model_frame != 0 && !chain.empty()) {
    chain.pop_back();  // the function that calls the model
  }
  if (chain.empty()) {
    chain.push_back(first);
  }
}

struct ChainHash {
  std::size_t operator()(const Chain& chain) const {
    std::uint64_t hash = 0x9e3779b97f4a7c15U;
    for (const std::uintptr_t address : chain) {
      hash = (hash ^ address) * 0xff51afd7ed558ccdU;
      hash ^= hash >> 32U;
    }
    return static_cast<std::size_t>(hash);
  }
};

// One function of a chain.
struct Frame {
  const void* base = nullptr;  // where its module is loaded
  std::string module;          // name of the file
  std::string text;            // `name@offset`
};

inline Frame describe(std::uintptr_t address) {
  Dl_info found{};
  // a call may be the last instruction of a function, so the return address may belong to the next
  if (dladdr(reinterpret_cast<const void*>(address - 1), &found) == 0 || found.dli_fbase == nullptr) {
    return {nullptr, "", "?"};  // made at run time: there is nothing that is the same in other processes
  }
  std::uintptr_t offset = address - reinterpret_cast<std::uintptr_t>(found.dli_fbase);
  std::string digits;
  do {
    digits.insert(digits.begin(), "0123456789abcdef"[offset & 15U]);
    offset >>= 4U;
  } while (offset != 0);
  const std::string path = found.dli_fname == nullptr ? "" : found.dli_fname;
  const std::string name = found.dli_sname == nullptr ? "?" : short_name(demangled(found.dli_sname));
  return {found.dli_fbase, path.substr(path.rfind('/') + 1), name + "@" + digits};
}

// Remembers the text of frames and of chains; not safe to share between threads.
class AddressBook {
 public:
  explicit AddressBook(bool remembers = true) : remembers_(remembers) {}

  // The place of the call that returns to `innermost`.
  const std::string& place(const void* innermost) {
    collect(chain_, innermost);
    if (!remembers_) {
      return uncached_ = join();
    }
    const auto found = places_.find(chain_);
    return found != places_.end() ? found->second : places_.emplace(chain_, join()).first->second;
  }

 private:
  std::string join() {
    std::string text;
    bool is_begun = model_frame != 0;  // a thread begins somewhere in the system's libraries, which are left out
    for (std::size_t left = chain_.size(); left > 0; --left) {
      const Frame& link = frame(chain_[left - 1]);
      is_begun = is_begun || left == 1 || link.base == home_module;
      if (is_begun) {
        text += text.empty() ? "" : " | ";
        text += link.base == home_module || link.base == nullptr ? "" : link.module + ":";
        text += link.text;
      }
    }
    return text;
  }

  const Frame& frame(std::uintptr_t address) {
    if (!remembers_) {
      return uncached_frame_ = describe(address);
    }
    const auto found = frames_.find(address);
    return found != frames_.end() ? found->second : frames_.emplace(address, describe(address)).first->second;
  }

  bool remembers_;
  Chain chain_;
  std::unordered_map<std::uintptr_t, Frame> frames_;
  std::unordered_map<Chain, std::string, ChainHash> places_;
  std::string uncached_;
  Frame uncached_frame_;
};

// Calls the model, and marks where chains of calls end. The compiler is kept from seeing which function is called: were
// it merged with this one, its calls could not be told apart.
template <class Result, class... Arguments>
[[gnu::noinline]] Result call_marked(Result (*function)(Arguments...), Arguments... arguments) {
  struct Mark {
    std::uintptr_t previous = model_frame;
    ~Mark() { model_frame = previous; }
  } mark;
  if (home_module == nullptr) {
    home_module = describe(reinterpret_cast<std::uintptr_t>(__builtin_return_address(0))).base;
  }
  model_frame = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
  __asm__ volatile("" : "+r"(function));
  return function(arguments...);
}

template <class Model>
auto invoke(Model* model) {
  return (*model)();
}

template <class Model>
auto call_model(Model& model) {
  if constexpr (std::is_function_v<Model> || std::is_pointer_v<Model>) {
    return call_marked(+model);
  } else {
    return call_marked(&invoke<Model>, &model);
  }
}

}  // namespace detail
}  // namespace tracestore
