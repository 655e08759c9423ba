// Numbers with a shape.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include <tracestore/errors.hpp>

namespace tracestore {

// Doubles in row-major order and their shape, which is empty for a single number.
class Tensor {
 public:
  Tensor() : shape_{0} {}

  Tensor(double number) : data_{number} {}  // implicit, as numbers and tensors mix among parameters

  Tensor(std::initializer_list<double> numbers) : Tensor(std::vector<double>(numbers)) {}

  Tensor(std::vector<double> numbers) : data_(std::move(numbers)), shape_{static_cast<std::int32_t>(data_.size())} {}

  Tensor(std::vector<double> numbers, std::vector<std::int32_t> shape)
      : data_(std::move(numbers)), shape_(std::move(shape)) {
    if (count(shape_) != data_.size()) {
      throw InvalidInputError("The shape of a tensor must fit its numbers; got " + std::to_string(data_.size()) +
                              " numbers for the shape " + text(shape_) + ".");
    }
  }

  const std::vector<double>& data() const { return data_; }
  const std::vector<std::int32_t>& shape() const { return shape_; }
  std::size_t size() const { return data_.size(); }
  bool is_number() const { return shape_.empty(); }
  double operator[](std::size_t index) const { return data_[index]; }
  double& operator[](std::size_t index) { return data_[index]; }
  std::vector<double>::const_iterator begin() const { return data_.begin(); }
  std::vector<double>::const_iterator end() const { return data_.end(); }

  // "[2, 3]"
  static std::string text(const std::vector<std::int32_t>& shape) {
    std::string joined = "[";
    for (std::size_t axis = 0; axis < shape.size(); ++axis) {
      joined += (axis == 0 ? "" : ", ") + std::to_string(shape[axis]);
    }
    return joined + "]";
  }

 private:
  static std::size_t count(const std::vector<std::int32_t>& shape) {
    std::size_t product = 1;
    for (const std::int32_t length : shape) {
      if (length < 0) {
        throw InvalidInputError("Lengths in a shape must not be negative; got " + text(shape) + ".");
      }
      product *= static_cast<std::size_t>(length);
    }
    return product;
  }

  std::vector<double> data_;
  std::vector<std::int32_t> shape_;
};

inline bool operator==(const Tensor& one, const Tensor& other) {
  return one.data() == other.data() && one.shape() == other.shape();
}

inline bool operator!=(const Tensor& one, const Tensor& other) { return !(one == other); }

}  // namespace tracestore
