#include <cstdint>
#include <cstring>
#include <optional>
#include <random>
#include <vector>

#include <tracestore/tracestore.hpp>

#include "check.hpp"

using namespace tracestore::detail;
namespace ppx = tracestore::ppx;

namespace {

template <class Value>
void finish_result(FlatBufferBuilder& builder, const Value& value) {
  finish(builder, ppx::MessageBody::SampleResult, ppx::CreateSampleResult(builder, write_tensor(builder, value)));
}

std::vector<std::uint8_t> bytes(const FlatBufferBuilder& builder) {
  return {builder.GetBufferPointer(), builder.GetBufferPointer() + builder.GetSize()};
}

std::vector<std::uint8_t> sample_frame() {
  FlatBufferBuilder builder;
  write_sample(builder, ts::Normal(ts::Tensor{1.0, 2.0}, 3.0), "place", "mu", false);
  return bytes(builder);
}

const ppx::Message* read(const std::vector<std::uint8_t>& frame) { return read_message(frame.data(), frame.size()); }

}  // namespace

CASE(a_sample_has_all_its_fields) {
  const auto frame = sample_frame();
  const ppx::Message* message = read(frame);
  CHECK(message != nullptr && message->body_type() == ppx::MessageBody::Sample);
  const auto* sample = message->body_as_Sample();
  CHECK(sample->address()->str() == "place");
  CHECK(sample->name()->str() == "mu");
  CHECK(!sample->control());
  const auto* normal = sample->distribution_as_Normal();
  CHECK(normal != nullptr && normal->mean()->data()->Get(1) == 2.0);
  CHECK(normal->stddev()->shape()->Get(0) == 2);
}

CASE(a_number_has_an_empty_shape) {
  FlatBufferBuilder builder;
  write_sample(builder, ts::Poisson(4), "place", "", true);
  const auto frame = bytes(builder);
  const auto* rate = read(frame)->body_as_Sample()->distribution_as_Poisson()->rate();
  CHECK(rate->data()->size() == 1 && rate->shape()->size() == 0);
}

CASE(an_absent_value_is_not_written) {
  FlatBufferBuilder builder;
  write_observe(builder, ts::Normal(0, 1), std::optional<double>(), "place", "y");
  const auto without = bytes(builder);
  CHECK(read(without)->body_as_Observe()->value() == nullptr);
  builder.Clear();
  write_observe(builder, ts::Poisson(1), std::optional<std::int64_t>(2), "place", "y");
  const auto with = bytes(builder);
  CHECK(read(with)->body_as_Observe()->value()->data()->Get(0) == 2.0);
}

CASE(no_identifier_is_written) {
  const auto frame = sample_frame();
  CHECK(std::memcmp(frame.data() + 4, "PPXF", 4) != 0);
}

CASE(an_identifier_may_be_there) {
  FlatBufferBuilder builder;
  builder.Finish(ppx::CreateMessage(builder, ppx::MessageBody::Run, ppx::CreateRun(builder).Union()), "PPXF");
  const auto frame = bytes(builder);
  CHECK(std::memcmp(frame.data() + 4, "PPXF", 4) == 0);
  CHECK(read(frame) != nullptr && read(frame)->body_type() == ppx::MessageBody::Run);
}

CASE(truncated_frames_are_refused) {
  auto frame = sample_frame();
  CHECK(read_message(frame.data(), 0) == nullptr);
  int num_read = 0;
  for (std::size_t size = 1; size < frame.size(); ++size) {
    const std::vector<std::uint8_t> part(frame.begin(), frame.begin() + static_cast<std::ptrdiff_t>(size));
    num_read += read(part) == nullptr ? 0 : 1;
  }
  CHECK(num_read < 8);  // only padding may be missing
}

CASE(damaged_frames_are_refused_or_readable) {
  const auto frame = sample_frame();
  std::mt19937 engine(1);
  int num_refused = 0;
  for (int turn = 0; turn < 20000; ++turn) {
    auto damaged = frame;
    for (int change = 0; change < 3; ++change) {
      damaged[engine() % damaged.size()] = static_cast<std::uint8_t>(engine());
    }
    const ppx::Message* message = read(damaged);
    num_refused += message == nullptr ? 1 : 0;
    if (message != nullptr && message->body_type() == ppx::MessageBody::Sample) {
      double sum = 0.0;
      const auto* normal = message->body_as_Sample()->distribution_as_Normal();
      for (std::size_t index = 0; normal != nullptr && index < size_of(normal->mean()); ++index) {
        sum += normal->mean()->data()->Get(static_cast<flatbuffers::uoffset_t>(index));
      }
      CHECK(sum == sum || sum != sum);  // reading it does no harm
    }
  }
  CHECK(num_refused > 1000);
}

CASE(values_must_fit_what_is_drawn) {
  FlatBufferBuilder builder;
  finish_result(builder, ts::Tensor{1.5, 2.0});
  const auto frame = bytes(builder);
  const auto* tensor = read(frame)->body_as_SampleResult()->result();
  double number = 0.0;
  std::int64_t whole = 0;
  ts::Tensor three{0.0, 0.0, 0.0};
  ts::Tensor two{0.0, 0.0};
  CHECK_THROWS(ts::ProtocolError, "one number; got 2", read_value(tensor, "Normal", number));
  CHECK_THROWS(ts::ProtocolError, "one number; got 0", read_value(nullptr, "Poisson", whole));
  CHECK_THROWS(ts::ProtocolError, "the shape [3]; got 2", read_value(tensor, "Normal", three));
  read_value(tensor, "Normal", two);
  CHECK(two == (ts::Tensor{1.5, 2.0}));
}

CASE(whole_numbers_are_whole) {
  for (const double number : {1.5, 1e300, -1e300, std::numeric_limits<double>::quiet_NaN(), 9223372036854775808.0}) {
    FlatBufferBuilder builder;
    finish_result(builder, number);
    const auto frame = bytes(builder);
    const auto* tensor = read(frame)->body_as_SampleResult()->result();
    std::int64_t whole = 0;
    CHECK_THROWS(ts::ProtocolError, "whole number", read_value(tensor, "Poisson", whole));
  }
}

CASE(reasons_are_made_readable) {
  CHECK(readable("gr\xc3\xb6\xc3\x9f" "er") == "gr\xc3\xb6\xc3\x9f" "er");
  CHECK(readable("gr\xf6\xdf" "er") == "gr??er");
  CHECK(readable(std::string(20000, 'x')).size() == 10000);
  CHECK(readable(std::string("a\0b", 3)).size() == 3);
  CHECK(readable("").empty());
}
