// tracestore's C++ front end: a simulator written in C++ becomes a PPX program.
//
//     #include <tracestore/tracestore.hpp>
//
//     double model() {
//       const double mu = ts::sample(ts::Normal(1.0, 2.0), "mu");
//       ts::observe(ts::Normal(mu, 1.0), "y");
//       return mu;
//     }
//
//     int main(int argc, char** argv) { return ts::program(argc, argv, "model", model); }
#pragma once

#include <tracestore/address.hpp>
#include <tracestore/distributions.hpp>
#include <tracestore/errors.hpp>
#include <tracestore/program.hpp>
#include <tracestore/rejection.hpp>
#include <tracestore/serving.hpp>
#include <tracestore/simulator.hpp>
#include <tracestore/tensor.hpp>
#include <tracestore/version.hpp>

#ifndef TRACESTORE_NO_SHORT_NAME
namespace ts = tracestore;
#endif
