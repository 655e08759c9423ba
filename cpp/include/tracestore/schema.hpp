// The generated messages of PPX, as a system header: what flatc writes is not held to the warnings of this library.
#pragma once
#pragma GCC system_header

#include <flatbuffers/util.h>
#include <tracestore/ppx_generated.h>
