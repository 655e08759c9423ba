// The version of the front end.
#pragma once

namespace tracestore {

inline constexpr const char* version = "0.1.0";

}  // namespace tracestore
