// PPX messages as bytes, both ways. Must not know sockets nor who asks.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include <tracestore/distributions.hpp>
#include <tracestore/errors.hpp>
#include <tracestore/schema.hpp>
#include <tracestore/tensor.hpp>

namespace tracestore::detail {

using flatbuffers::FlatBufferBuilder;
using flatbuffers::Offset;

inline constexpr std::size_t max_frame_bytes = 256U << 20U;

// Text that others can read: a message of an exception may be of any length and encoding.
inline std::string readable(std::string text) {
  constexpr std::size_t max_characters = 10000;
  text.resize(std::min(text.size(), max_characters));
  for (const char* place = text.data(); place < text.data() + text.size();) {
    if (flatbuffers::FromUTF8(&place) < 0) {
      for (char& letter : text) {
        letter = static_cast<unsigned char>(letter) < 0x80U ? letter : '?';
      }
      break;
    }
  }
  return text;
}

// ---------------------------------------------------------------------------------------------------------- writing

inline Offset<ppx::Tensor> write_tensor(FlatBufferBuilder& builder, const double* numbers, std::size_t size,
                                        const std::vector<std::int32_t>& shape) {
  const auto data = builder.CreateVector(numbers, size);
  return ppx::CreateTensor(builder, data, builder.CreateVector(shape.data(), shape.size()));
}

inline Offset<ppx::Tensor> write_tensor(FlatBufferBuilder& builder, const Tensor& numbers) {
  return write_tensor(builder, numbers.data().data(), numbers.size(), numbers.shape());
}

inline Offset<ppx::Tensor> write_tensor(FlatBufferBuilder& builder, double number) {
  static const std::vector<std::int32_t> no_shape;
  return write_tensor(builder, &number, 1, no_shape);
}

inline Offset<ppx::Tensor> write_tensor(FlatBufferBuilder& builder, std::int64_t number) {
  return write_tensor(builder, static_cast<double>(number));
}

template <std::size_t count>
Offset<void> write_parameters(FlatBufferBuilder& builder, const std::array<Offset<ppx::Tensor>, count>& tensors) {
  // the tables of all distributions are alike: their parameters, one slot each
  const auto start = builder.StartTable();
  for (std::size_t slot = 0; slot < count; ++slot) {
    builder.AddOffset(static_cast<flatbuffers::voffset_t>(4 + 2 * slot), tensors[slot]);
  }
  return Offset<void>(builder.EndTable(start));
}

template <class Prior>
Offset<void> write_distribution(FlatBufferBuilder& builder, const Prior& prior) {
  constexpr std::size_t count = std::tuple_size_v<std::decay_t<decltype(prior.parameters())>>;
  std::array<Offset<ppx::Tensor>, count> tensors;
  for (std::size_t slot = 0; slot < count; ++slot) {
    tensors[slot] = write_tensor(builder, prior.parameters()[slot]);
  }
  return write_parameters(builder, tensors);
}

template <class Body>
void finish(FlatBufferBuilder& builder, ppx::MessageBody type, Offset<Body> body) {
  builder.Finish(ppx::CreateMessage(builder, type, body.Union()));  // without identifier, as others do
}

template <class Prior>
void write_sample(FlatBufferBuilder& builder, const Prior& prior, const std::string& address, const std::string& name,
                  bool control) {
  const auto place = builder.CreateString(address);
  const auto label = builder.CreateString(name);
  const auto distribution = write_distribution(builder, prior);
  const auto type = static_cast<ppx::Distribution>(Prior::family);
  finish(builder, ppx::MessageBody::Sample, ppx::CreateSample(builder, place, label, type, distribution, control));
}

template <class Likelihood>
void write_observe(FlatBufferBuilder& builder, const Likelihood& likelihood,
                   const std::optional<typename Likelihood::Value>& value, const std::string& address,
                   const std::string& name) {
  const auto place = builder.CreateString(address);
  const auto label = builder.CreateString(name);
  const auto distribution = write_distribution(builder, likelihood);
  const auto given = value.has_value() ? write_tensor(builder, *value) : Offset<ppx::Tensor>();
  const auto type = static_cast<ppx::Distribution>(Likelihood::family);
  finish(builder, ppx::MessageBody::Observe, ppx::CreateObserve(builder, place, label, type, distribution, given));
}

inline void write_tag(FlatBufferBuilder& builder, const Tensor& value, const std::string& address,
                      const std::string& name) {
  const auto place = builder.CreateString(address);
  const auto label = builder.CreateString(name);
  finish(builder, ppx::MessageBody::Tag, ppx::CreateTag(builder, place, label, write_tensor(builder, value)));
}

inline void write_handshake_result(FlatBufferBuilder& builder, const std::string& system, const std::string& model) {
  const auto system_name = builder.CreateString(system);
  const auto model_name = builder.CreateString(model);
  finish(builder, ppx::MessageBody::HandshakeResult, ppx::CreateHandshakeResult(builder, system_name, model_name));
}

inline void write_run_result(FlatBufferBuilder& builder, const Tensor* result) {
  const auto tensor = result == nullptr ? Offset<ppx::Tensor>() : write_tensor(builder, *result);
  finish(builder, ppx::MessageBody::RunResult, ppx::CreateRunResult(builder, tensor));
}

inline void write_reset(FlatBufferBuilder& builder) {
  finish(builder, ppx::MessageBody::Reset, ppx::CreateReset(builder));
}

// ---------------------------------------------------------------------------------------------------------- reading

// The message in a frame; none when the frame is truncated, malformed or hostile. `frame` must be aligned to 8 bytes.
inline const ppx::Message* read_message(const std::uint8_t* frame, std::size_t size) {
  if (size == 0 || size > max_frame_bytes) {
    return nullptr;
  }
  flatbuffers::Verifier verifier(frame, size);
  if (!verifier.VerifyBuffer<ppx::Message>(nullptr)) {
    return nullptr;
  }
  const auto* message = flatbuffers::GetRoot<ppx::Message>(frame);
  return message->body() == nullptr ? nullptr : message;
}

// How many numbers an absent tensor has: none.
inline std::size_t size_of(const ppx::Tensor* tensor) {
  return tensor == nullptr || tensor->data() == nullptr ? 0 : tensor->data()->size();
}

// Reads a value of the type and size that a distribution draws.
inline void read_value(const ppx::Tensor* tensor, const char* family, double& value) {
  if (size_of(tensor) != 1) {
    throw ProtocolError(std::string("The value for a draw from ") + family + " must be one number; got " +
                        std::to_string(size_of(tensor)) + ".");
  }
  value = tensor->data()->Get(0);
}

inline void read_value(const ppx::Tensor* tensor, const char* family, std::int64_t& value) {
  constexpr double limit = 9223372036854775808.0;  // 2**63
  double number = 0.0;
  read_value(tensor, family, number);
  if (!(number >= -limit && number < limit) || std::floor(number) != number) {
    throw ProtocolError(std::string("The value for a draw from ") + family + " must be a whole number; got " +
                        text(number) + ".");
  }
  value = static_cast<std::int64_t>(number);
}

// `value` has the shape to fill.
inline void read_value(const ppx::Tensor* tensor, const char* family, Tensor& value) {
  if (size_of(tensor) != value.size()) {
    throw ProtocolError(std::string("The value for a draw from ") + family + " must have the shape " +
                        Tensor::text(value.shape()) + "; got " + std::to_string(size_of(tensor)) + " numbers.");
  }
  for (std::size_t index = 0; index < value.size(); ++index) {
    value[index] = tensor->data()->Get(static_cast<flatbuffers::uoffset_t>(index));
  }
}

}  // namespace tracestore::detail
