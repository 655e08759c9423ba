// The distributions of PPX, as records of their parameters. Must not know messages nor where values come from.
//
// Parameters are numbers or tensors: `Normal(0.0, 1.0)` is one number and `Normal(Tensor{0.0, 1.0}, 0.5)` one draw of
// two. A number beside a tensor holds for all of its elements.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <sstream>
#include <string>
#include <type_traits>
#include <utility>

#include <tracestore/errors.hpp>
#include <tracestore/tensor.hpp>

namespace tracestore {

// Numbered as on the wire.
enum class Family : std::uint8_t {
  normal = 1,
  uniform,
  categorical,
  poisson,
  bernoulli,
  beta,
  exponential,
  gamma,
  log_normal,
  binomial,
  weibull
};

namespace detail {

// A type that is not deduced from arguments, so that the deduction guides alone decide.
template <class Type>
struct Given {
  using type = Type;
};
template <class Type>
using As = typename Given<Type>::type;

template <class... Parts>
using ParameterOf = std::conditional_t<(std::is_arithmetic_v<Parts> && ...), double, Tensor>;

enum class Constraint : std::uint8_t { finite, positive, rate, probability, count };

inline bool holds(Constraint constraint, double number) {
  constexpr double max_count = 9007199254740992.0;  // every whole number up to it is a double
  switch (constraint) {
    case Constraint::finite:
      return std::isfinite(number);
    case Constraint::positive:
      return std::isfinite(number) && number > 0.0;
    case Constraint::rate:
      return number >= 0.0 && number <= max_count;
    case Constraint::probability:
      return number >= 0.0 && number <= 1.0;
    case Constraint::count:
      return number >= 0.0 && number <= max_count && std::floor(number) == number;
  }
  return false;
}

inline const char* description(Constraint constraint) {
  switch (constraint) {
    case Constraint::finite:
      return "a finite number";
    case Constraint::positive:
      return "a positive finite number";
    case Constraint::rate:
      return "a number from 0 to 2**53";
    case Constraint::probability:
      return "a probability from 0 to 1";
    case Constraint::count:
      return "a whole number from 0 to 2**53";
  }
  return "";
}

struct ParameterRule {
  const char* name;
  Constraint constraint;
};

inline std::string text(double number) {
  std::ostringstream stream;
  stream.precision(std::numeric_limits<double>::max_digits10);
  stream << number;
  return stream.str();
}

inline void check(const char* family, const ParameterRule& rule, double number) {
  if (!holds(rule.constraint, number)) {
    throw InvalidInputError(std::string("The parameter ") + rule.name + " of " + family + " must be " +
                            description(rule.constraint) + "; got " + text(number) + ".");
  }
}

inline void check(const char* family, const ParameterRule& rule, const Tensor& numbers) {
  for (const double number : numbers) {
    check(family, rule, number);
  }
}

inline double element(double number, std::size_t /*index*/) { return number; }
inline double element(const Tensor& numbers, std::size_t index) { return numbers[index]; }

template <std::size_t count>
void broadcast(const char* /*family*/, std::array<double, count>& /*parameters*/) {}

template <std::size_t count>
void broadcast(const char* family, std::array<Tensor, count>& parameters) {
  const Tensor* model = nullptr;
  for (const Tensor& parameter : parameters) {
    if (!parameter.is_number()) {
      if (model != nullptr && model->shape() != parameter.shape()) {
        throw InvalidInputError(std::string("The parameters of ") + family +
                                " must be numbers or tensors of one shape; got the shapes " +
                                Tensor::text(model->shape()) + " and " + Tensor::text(parameter.shape()) + ".");
      }
      model = &parameter;
    }
  }
  if (model == nullptr) {
    return;
  }
  const std::vector<std::int32_t> shape = model->shape();
  const std::size_t size = model->size();
  if (size == 0) {
    throw InvalidInputError(std::string("The parameters of ") + family + " must have elements; got none.");
  }
  for (Tensor& parameter : parameters) {
    if (parameter.is_number()) {
      parameter = Tensor(std::vector<double>(size, parameter[0]), shape);
    }
  }
}

// What the families have in common. Traits has: family, name, rules and Number, the type of one number drawn.
template <class Traits, class Parameter>
class Distribution {
 public:
  static constexpr Family family = Traits::family;
  static constexpr std::size_t num_parameters = std::size(Traits::rules);
  using Number = typename Traits::Number;
  using Value = std::conditional_t<std::is_same_v<Parameter, double>, Number, Tensor>;

  static constexpr const char* name() { return Traits::name; }
  const std::array<Parameter, num_parameters>& parameters() const { return parameters_; }

 protected:
  template <class... Parts>
  explicit Distribution(Parts&&... parts) : parameters_{Parameter(std::forward<Parts>(parts))...} {
    broadcast(Traits::name, parameters_);
    for (std::size_t index = 0; index < num_parameters; ++index) {
      check(Traits::name, Traits::rules[index], parameters_[index]);
    }
  }

 private:
  std::array<Parameter, num_parameters> parameters_;
};

template <Family which, class Drawn>
struct TraitsOf {
  static constexpr Family family = which;
  using Number = Drawn;
};

struct NormalTraits : TraitsOf<Family::normal, double> {
  static constexpr const char* name = "Normal";
  static constexpr ParameterRule rules[] = {{"mean", Constraint::finite}, {"stddev", Constraint::positive}};
};

struct UniformTraits : TraitsOf<Family::uniform, double> {
  static constexpr const char* name = "Uniform";
  static constexpr ParameterRule rules[] = {{"low", Constraint::finite}, {"high", Constraint::finite}};
};

struct PoissonTraits : TraitsOf<Family::poisson, std::int64_t> {
  static constexpr const char* name = "Poisson";
  static constexpr ParameterRule rules[] = {{"rate", Constraint::rate}};
};

struct BernoulliTraits : TraitsOf<Family::bernoulli, std::int64_t> {
  static constexpr const char* name = "Bernoulli";
  static constexpr ParameterRule rules[] = {{"probs", Constraint::probability}};
};

struct BetaTraits : TraitsOf<Family::beta, double> {
  static constexpr const char* name = "Beta";
  static constexpr ParameterRule rules[] = {{"concentration1", Constraint::positive},
                                            {"concentration0", Constraint::positive}};
};

struct ExponentialTraits : TraitsOf<Family::exponential, double> {
  static constexpr const char* name = "Exponential";
  static constexpr ParameterRule rules[] = {{"rate", Constraint::positive}};
};

struct GammaTraits : TraitsOf<Family::gamma, double> {
  static constexpr const char* name = "Gamma";
  static constexpr ParameterRule rules[] = {{"concentration", Constraint::positive}, {"rate", Constraint::positive}};
};

struct LogNormalTraits : TraitsOf<Family::log_normal, double> {
  static constexpr const char* name = "LogNormal";
  static constexpr ParameterRule rules[] = {{"loc", Constraint::finite}, {"scale", Constraint::positive}};
};

struct BinomialTraits : TraitsOf<Family::binomial, std::int64_t> {
  static constexpr const char* name = "Binomial";
  static constexpr ParameterRule rules[] = {{"total_count", Constraint::count}, {"probs", Constraint::probability}};
};

struct WeibullTraits : TraitsOf<Family::weibull, double> {
  static constexpr const char* name = "Weibull";
  static constexpr ParameterRule rules[] = {{"scale", Constraint::positive}, {"concentration", Constraint::positive}};
};

}  // namespace detail

template <class Parameter>
class Normal : public detail::Distribution<detail::NormalTraits, Parameter> {
 public:
  Normal(detail::As<Parameter> mean, detail::As<Parameter> stddev)
      : Normal::Distribution(std::move(mean), std::move(stddev)) {}
};
template <class Mean, class Stddev>
Normal(Mean, Stddev) -> Normal<detail::ParameterOf<Mean, Stddev>>;

template <class Parameter>
class Uniform : public detail::Distribution<detail::UniformTraits, Parameter> {
 public:
  Uniform(detail::As<Parameter> low, detail::As<Parameter> high)
      : Uniform::Distribution(std::move(low), std::move(high)) {
    const auto& [first, second] = this->parameters();
    std::size_t size = 1;
    if constexpr (std::is_same_v<Parameter, Tensor>) {
      size = first.size();
    }
    for (std::size_t index = 0; index < size; ++index) {
      if (!(detail::element(first, index) < detail::element(second, index))) {
        throw InvalidInputError("The parameter low of Uniform must be below high; got " +
                                detail::text(detail::element(first, index)) + " and " +
                                detail::text(detail::element(second, index)) + ".");
      }
    }
  }
};
template <class Low, class High>
Uniform(Low, High) -> Uniform<detail::ParameterOf<Low, High>>;

// One of the numbers 0, 1, ... by weights that need not sum to one.
class Categorical {
 public:
  static constexpr Family family = Family::categorical;
  using Number = std::int64_t;
  using Value = std::int64_t;

  Categorical(Tensor probs) : parameters_{std::move(probs)} {
    double sum = 0.0;
    for (const double prob : parameters_[0]) {
      if (!std::isfinite(prob) || prob < 0.0) {
        throw InvalidInputError("The weights of Categorical must be finite and not negative; got " +
                                detail::text(prob) + ".");
      }
      sum += prob;
    }
    if (!(sum > 0.0) || parameters_[0].shape().size() != 1) {
      throw InvalidInputError("Categorical must have one row of weights, one of them positive; got the shape " +
                              Tensor::text(parameters_[0].shape()) + " and the sum " + detail::text(sum) + ".");
    }
  }
  Categorical(std::initializer_list<double> probs) : Categorical(Tensor(probs)) {}
  Categorical(std::vector<double> probs) : Categorical(Tensor(std::move(probs))) {}

  static constexpr const char* name() { return "Categorical"; }
  const std::array<Tensor, 1>& parameters() const { return parameters_; }

 private:
  std::array<Tensor, 1> parameters_;
};

template <class Parameter>
class Poisson : public detail::Distribution<detail::PoissonTraits, Parameter> {
 public:
  explicit Poisson(detail::As<Parameter> rate) : Poisson::Distribution(std::move(rate)) {}
};
template <class Rate>
Poisson(Rate) -> Poisson<detail::ParameterOf<Rate>>;

template <class Parameter>
class Bernoulli : public detail::Distribution<detail::BernoulliTraits, Parameter> {
 public:
  explicit Bernoulli(detail::As<Parameter> probs) : Bernoulli::Distribution(std::move(probs)) {}
};
template <class Probs>
Bernoulli(Probs) -> Bernoulli<detail::ParameterOf<Probs>>;

template <class Parameter>
class Beta : public detail::Distribution<detail::BetaTraits, Parameter> {
 public:
  Beta(detail::As<Parameter> concentration1, detail::As<Parameter> concentration0)
      : Beta::Distribution(std::move(concentration1), std::move(concentration0)) {}
};
template <class Concentration1, class Concentration0>
Beta(Concentration1, Concentration0) -> Beta<detail::ParameterOf<Concentration1, Concentration0>>;

template <class Parameter>
class Exponential : public detail::Distribution<detail::ExponentialTraits, Parameter> {
 public:
  explicit Exponential(detail::As<Parameter> rate) : Exponential::Distribution(std::move(rate)) {}
};
template <class Rate>
Exponential(Rate) -> Exponential<detail::ParameterOf<Rate>>;

template <class Parameter>
class Gamma : public detail::Distribution<detail::GammaTraits, Parameter> {
 public:
  Gamma(detail::As<Parameter> concentration, detail::As<Parameter> rate)
      : Gamma::Distribution(std::move(concentration), std::move(rate)) {}
};
template <class Concentration, class Rate>
Gamma(Concentration, Rate) -> Gamma<detail::ParameterOf<Concentration, Rate>>;

template <class Parameter>
class LogNormal : public detail::Distribution<detail::LogNormalTraits, Parameter> {
 public:
  LogNormal(detail::As<Parameter> loc, detail::As<Parameter> scale)
      : LogNormal::Distribution(std::move(loc), std::move(scale)) {}
};
template <class Loc, class Scale>
LogNormal(Loc, Scale) -> LogNormal<detail::ParameterOf<Loc, Scale>>;

template <class Parameter>
class Binomial : public detail::Distribution<detail::BinomialTraits, Parameter> {
 public:
  Binomial(detail::As<Parameter> total_count, detail::As<Parameter> probs)
      : Binomial::Distribution(std::move(total_count), std::move(probs)) {}
};
template <class Count, class Probs>
Binomial(Count, Probs) -> Binomial<detail::ParameterOf<Count, Probs>>;

template <class Parameter>
class Weibull : public detail::Distribution<detail::WeibullTraits, Parameter> {
 public:
  Weibull(detail::As<Parameter> scale, detail::As<Parameter> concentration)
      : Weibull::Distribution(std::move(scale), std::move(concentration)) {}
};
template <class Scale, class Concentration>
Weibull(Scale, Concentration) -> Weibull<detail::ParameterOf<Scale, Concentration>>;

}  // namespace tracestore
