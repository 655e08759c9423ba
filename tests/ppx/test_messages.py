"""Messages of PPX against the `flatbuffers` package, frames written out, and what is refused."""

import numpy as np
import pytest

from tracestore.errors import SimulatorProtocolError
from tracestore.ppx import messages
from tracestore.ppx.messages import (
    Handshake,
    HandshakeResult,
    Observe,
    ObserveResult,
    Reset,
    Run,
    RunResult,
    Sample,
    SampleResult,
    Tag,
    TagResult,
    decode,
    encode,
)
from tracestore.traces.distributions import (
    Bernoulli,
    Beta,
    Binomial,
    Categorical,
    Exponential,
    Gamma,
    LogNormal,
    Mixture,
    Normal,
    Poisson,
    TruncatedNormal,
    Uniform,
    Weibull,
)

pytest.importorskip("flatbuffers")
from tests.ppx.reference_frames import BODIES, FAMILIES, Frame, View, site

ADDRESS = "[forward()+0x7c; marsaglia<double>(double, ä)+0x314]"

PRIORS = [
    (Normal(0.5, 2.0), "Normal", [0.5], [2.0]),
    (Uniform(-1.0, 1.0), "Uniform", [-1.0], [1.0]),
    (Categorical([0.25, 0.25, 0.5]), "Categorical", [0.25, 0.25, 0.5]),
    (Poisson(4.0), "Poisson", [4.0]),
    (Bernoulli(0.125), "Bernoulli", [0.125]),
    (Beta(2.0, 3.0), "Beta", [2.0], [3.0]),
    (Exponential(0.5), "Exponential", [0.5]),
    (Gamma(2.0, 3.0), "Gamma", [2.0], [3.0]),
    (LogNormal(0.0, 0.5), "LogNormal", [0.0], [0.5]),
    (Binomial(10, 0.5), "Binomial", [10.0], [0.5]),
    (Weibull(2.0, 1.5), "Weibull", [2.0], [1.5]),
]
BY_FAMILY = pytest.mark.parametrize(("prior", "family", "parameters"), [(p, f, rest) for p, f, *rest in PRIORS])

MESSAGES = [
    Handshake("tracestore 1"),
    HandshakeResult("tracestore_cpp 1", "gum"),
    Run(),
    RunResult(None),
    RunResult(np.arange(6.0).reshape(2, 3)),
    RunResult(np.array(0.5)),
    RunResult(np.array([0.5])),
    Sample(ADDRESS, "mu", Normal(0.5, 2.0)),
    Sample(ADDRESS, "", Categorical([0.5, 0.5]), control=False),
    SampleResult(0.1),
    SampleResult(np.array([0.1, 0.2])),
    Observe(ADDRESS, "obs0", Normal(0.5, 2.0)),
    Observe(ADDRESS, "obs0", Normal(0.5, 2.0), 8.0),
    Observe(ADDRESS, "", Normal([0.5, 0.25], 2.0), np.array([8.0, 9.0])),
    ObserveResult(),
    ObserveResult(8.0),
    ObserveResult(np.array([8.0, 9.0])),
    Tag("[rejection]", "accepted", None),
    Tag("a", "channel", 3.0),
    Tag("a", "", np.eye(3)),
    TagResult(),
    TagResult(1.0),
    Reset(),
]
EACH_MESSAGE = pytest.mark.parametrize(
    "message", [pytest.param(m, id=f"{type(m).__name__}{index}") for index, m in enumerate(MESSAGES)]
)


@EACH_MESSAGE
def test_every_message_survives_a_round_trip(message):
    assert decode(encode(message)) == message


@EACH_MESSAGE
def test_a_frame_is_read_alike_without_the_memory_of_earlier_ones(message):
    assert messages._decode(encode(message)) == message


@EACH_MESSAGE
def test_a_view_at_an_odd_place_is_read(message):
    frame = encode(message)
    assert decode(memoryview(b"x" + frame)[1:]) == message


@BY_FAMILY
def test_every_family_of_another_writer_is_read(prior, family, parameters):
    frame = site("Sample", family, *[(numbers, [len(numbers)]) for numbers in parameters])
    assert decode(frame) == Sample("a", "", prior)


@BY_FAMILY
@pytest.mark.parametrize("kind", [Sample, Observe])
def test_every_family_that_we_write_is_read_by_another_reader(prior, family, parameters, kind):
    body = View(encode(kind(ADDRESS, "x", prior))).child(1)
    assert FAMILIES[body.byte(2) - 1] == family
    assert [body.child(3).tensor(slot)[0] for slot in range(len(parameters))] == parameters
    assert (body.text(0), body.text(1)) == (ADDRESS, "x")


@pytest.mark.parametrize("shape", [None, [], [1]])
def test_scalars_come_in_three_shapes(shape):
    assert decode(site("Sample", "Normal", ([0.5], shape), ([2.0], shape))).prior == Normal(0.5, 2.0)


def test_parameters_of_several_numbers_are_one_vector_valued_draw():
    found = decode(site("Sample", "Normal", ([0.0, 1.0, 2.0], [3]), ([2.0], [1]))).prior
    assert found == Normal([0.0, 1.0, 2.0], 2.0)
    assert found.shape == (3,)


def test_parameters_with_dimensions_keep_them():
    found = decode(site("Observe", "Normal", ([0.0, 1.0, 2.0, 3.0], [2, 2]), ([2.0], []))).likelihood
    assert found.shape == (2, 2)


def test_parameters_that_broadcast_are_sent_filled_out():
    body = View(encode(Sample("a", "", Normal(0.5, [1.0, 2.0])))).child(1)
    assert body.child(3).tensor(0) == ([0.5, 0.5], [2])


def test_a_batch_of_one_row_of_weights_is_one_row():
    assert decode(site("Sample", "Categorical", ([0.5, 0.5], [1, 2]))).prior == Categorical([0.5, 0.5])


def test_doubles_are_not_rounded():
    body = View(encode(SampleResult(0.1))).child(1)
    assert body.tensor(0) == ([0.1], [])


@pytest.mark.parametrize("name", ["", "o", "ob", "obs", "obs0", "obs01"])
def test_the_doubles_that_we_write_are_aligned(name):
    frame = encode(Observe("a", name, Normal([0.5, 0.25], 2.0), np.array([8.0, 9.0])))
    body = View(frame).child(1)
    assert body.aligned_doubles(4)
    assert body.child(3).aligned_doubles(1)


def test_nothing_is_sent_as_an_empty_row():
    assert View(encode(RunResult(None))).child(1).tensor(0) == ([], [0])


def test_control_is_written_only_when_it_is_false():
    written = [
        View(encode(Sample("a", "", Normal(0.0, 1.0), control))).child(1).byte(4, 7) for control in (True, False)
    ]
    assert written == [7, 0]


@pytest.mark.parametrize(("last", "control"), [(None, True), ((1,), True), ((0,), False)])
def test_control_is_true_where_it_is_left_out(last, control):
    assert decode(site("Sample", "Poisson", ([4.0], []), last=last)).control is control


def test_the_replace_of_older_versions_is_ignored():
    frame = site("Sample", "Poisson", ([4.0], []), last=(0,), more=[(1,)])
    assert decode(frame) == Sample("a", "", Poisson(4.0), control=False)


def test_a_file_identifier_is_accepted():
    frame = Frame()
    assert decode(frame.finish("Run", frame.table(), b"PPXF")) == Run()


def test_strings_may_be_absent():
    frame = Frame()
    body = frame.table(None, None, (4,), frame.distribution(([4.0], [])))
    assert decode(frame.finish("Sample", body)) == Sample("", "", Poisson(4.0))


@pytest.mark.parametrize("kind", ["Handshake", "HandshakeResult", "Run", "ObserveResult", "TagResult", "Reset"])
def test_messages_without_content_are_read(kind):
    frame = Frame()
    assert type(decode(frame.finish(kind, frame.table()))).__name__ == kind


@pytest.mark.parametrize("kind", ["ObserveResult", "TagResult"])
def test_answers_may_bring_a_value(kind):
    frame = Frame()
    assert decode(frame.finish(kind, frame.table(frame.tensor([0.5], [1])))).value == 0.5


def test_an_observed_value_is_read():
    frame = site("Observe", "Normal", ([0.0], []), ([1.0], []), name="y", last=[[8.0], [1]])
    assert decode(frame) == Observe("a", "y", Normal(0.0, 1.0), 8.0)


def test_a_value_without_numbers_is_not_given():
    frame = site("Observe", "Normal", ([0.0], []), ([1.0], []), last=[[], [0]])
    assert decode(frame).value is None


def test_arrays_of_a_message_cannot_be_changed():
    message = decode(encode(SampleResult(np.zeros(2))))
    assert isinstance(message, SampleResult)
    assert not np.asarray(message.value).flags.writeable


# Written out field by field; we write exactly these bytes.
RUN = (
    "0c000000"  # the root table is at byte 12
    "0800 0900 0800 0400"  # its vtable: 8 bytes, for a table of 9 bytes with the type at 8 and the body at 4
    "08000000 0c000000 03 000000"  # the vtable is 8 bytes back, the body 12 bytes on, Run is type 3; three of space
    "0400 0400 04000000"  # an empty table after its vtable
)
SAMPLE_RESULT = (
    "0c000000 0800 0900 0800 0400 08000000 10000000 06 000000"
    "0600 0800 0400 0000 08000000 0c000000"  # SampleResult: a tensor 12 bytes on
    "0800 0c00 0400 0800 08000000 08000000 10000000"  # Tensor: numbers 8 bytes on, shape 16 bytes on
    "01000000 000000000000e03f"  # one double, 0.5, at byte 64
    "00000000"  # a shape without dimensions
)
SAMPLE = (
    "0c000000 0800 0900 0800 0400 08000000 14000000 05 000000"
    "0c00 1100 0400 0800 1000 0c00"  # Sample: address, name, type, distribution; no control
    "0c000000 10000000 14000000 20000000 01 000000"
    "01000000 61 000000 01000000 78 000000"  # "a" and "x", each with a zero byte after it
    "0800 0c00 0400 0800 08000000 10000000 34000000"  # Normal: two tensors
    "0800 0c00 0400 0800 08000000 0c000000 14000000 00000000 01000000 0000000000000000 00000000"
    "0800 0c00 0400 0800 08000000 0c000000 14000000 00000000 01000000 000000000000f03f 00000000"
)
GOLDEN = pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(RUN, Run(), id="run"),
        pytest.param(SAMPLE_RESULT, SampleResult(0.5), id="sample result"),
        pytest.param(SAMPLE, Sample("a", "x", Normal(0.0, 1.0)), id="sample"),
    ],
)


@GOLDEN
def test_golden_frames_are_read(text, message):
    assert decode(bytes.fromhex(text)) == message


@GOLDEN
def test_golden_frames_are_written(text, message):
    assert encode(message) == bytes.fromhex(text)


def test_a_golden_frame_of_an_older_front_end_is_read():
    frame = (
        "0c00000008000c000b00040008000000180000000000000510001800140010000f000800070006001000000000000100"
        "2400000000000004080000000c0000000000000000000000010000006100060008000400060000000c00000008000c00"
        "0800040008000000080000000800000000000000010000000000000000001040"
    )
    assert decode(bytes.fromhex(frame)) == Sample("a", "", Poisson(4.0), control=False)


# ------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("family", "parameters", "words"),
    [
        ("Normal", [([0.0], []), ([-1.0], [])], "`scale` of Normal must be a positive finite number; got -1.0"),
        ("Normal", [([float("nan")], []), ([1.0], [])], "`loc` of Normal must be a finite number; got nan"),
        ("Uniform", [([1.0], []), ([0.0], [])], "`low`"),
        ("Categorical", [([0.0, 0.0], [2])], "`probs` of Categorical"),
        ("Categorical", [([0.5, 0.5, 0.5, 0.5], [2, 2])], "one row of weights"),
        ("Bernoulli", [([1.5], [])], "`probs` of Bernoulli must be a probability"),
        ("Binomial", [([1.5], []), ([0.5], [])], "`total_count` of Binomial must be a whole number"),
        ("Poisson", [([], [0])], "`rate` is missing"),
        ("Gamma", [([1.0], [])], "`rate` is missing"),
        ("Normal", [([1.0, 2.0], [2]), ([1.0, 2.0, 3.0], [3])], "arrays of one shape"),
        ("Normal", [([1.0, 2.0], [2, 1]), ([1.0, 2.0], [1, 2])], "arrays of one shape"),
    ],
)
def test_a_distribution_that_is_none_is_refused_by_address_and_parameter(family, parameters, words):
    with pytest.raises(SimulatorProtocolError) as caught:
        decode(site("Sample", family, *parameters, address="the place"))
    assert "'the place'" in str(caught.value)
    assert words in str(caught.value)


def test_the_names_of_ppx_are_said_beside_ours():
    with pytest.raises(SimulatorProtocolError, match=r"PPX names its parameters mean and stddev"):
        decode(site("Sample", "Normal", ([0.0], []), ([-1.0], [])))


@pytest.mark.parametrize(
    ("numbers", "shape"), [([1.0, 2.0], [3]), ([1.0, 2.0], [-1, -2]), ([1.0], [0]), ([], [2]), ([1.0], [2**31 - 1] * 9)]
)
def test_a_shape_that_does_not_fit_is_refused(numbers, shape):
    frame = Frame()
    with pytest.raises(SimulatorProtocolError, match="A tensor of shape"):
        decode(frame.finish("SampleResult", frame.table(frame.tensor(numbers, shape))))


def test_too_many_dimensions_are_refused():
    frame = Frame()
    with pytest.raises(SimulatorProtocolError, match="33 integers where at most 32"):
        decode(frame.finish("SampleResult", frame.table(frame.tensor([1.0], [1] * 33))))


@pytest.mark.parametrize("kind", ["Sample", "Observe"])
def test_a_site_without_a_distribution_is_refused(kind):
    frame = Frame()
    with pytest.raises(SimulatorProtocolError, match=r"at address 'a' comes without a distribution"):
        decode(frame.finish(kind, frame.table(frame.text("a"), frame.text("b"), (0,))))


def test_a_later_family_is_refused_by_number():
    frame = Frame()
    body = frame.table(frame.text("a"), frame.text(""), (12,), frame.distribution(([1.0], [])))
    with pytest.raises(SimulatorProtocolError, match=r"unknown type 12; PPX 1\.0\.0 has the types 1 to 11: Normal"):
        decode(frame.finish("Sample", body))


@pytest.mark.parametrize("number", [0, 12, 254])
def test_a_body_of_another_type_is_refused(number):
    frame = Frame()
    with pytest.raises(SimulatorProtocolError, match=f"of type {number}; PPX"):
        decode(frame.finish(number, frame.table()))


def test_a_message_without_a_body_is_refused():
    with pytest.raises(SimulatorProtocolError, match="its body is absent"):
        decode(Frame().finish("Run", None))


def test_a_sample_result_without_a_value_is_refused():
    frame = Frame()
    with pytest.raises(SimulatorProtocolError, match="must bring a value"):
        decode(frame.finish("SampleResult", frame.table(frame.tensor([], [0]))))


@pytest.mark.parametrize("kind", ["Sample", "Observe"])
def test_version_0_1_0_is_recognized_by_its_sites(kind):
    frame = Frame()
    body = frame.table(frame.text("a"), (2,), frame.distribution(([0.0], []), ([1.0], [])))
    with pytest.raises(SimulatorProtocolError, match=r"speaks PPX 0\.1\.0, where sites have no name"):
        decode(frame.finish(kind, body))


def test_version_0_1_1_is_recognized_by_its_run():
    frame = Frame()
    with pytest.raises(SimulatorProtocolError, match=r"PPX 0\.1\.0 or 0\.1\.1, where Run brings an observation"):
        decode(frame.finish("Run", frame.table(frame.tensor([1.0], [1]))))


def test_version_0_1_2_is_recognized_by_its_reset():
    frame = Frame()
    with pytest.raises(SimulatorProtocolError, match=r"PPX 0\.1\.2 or earlier, where Reset"):
        decode(frame.finish(9, frame.table()))


def test_text_that_is_not_utf_8_is_refused():
    frame = encode(Handshake("gum")).replace(b"gum", b"\xff\xfe\xfd")
    with pytest.raises(SimulatorProtocolError, match="not UTF-8"):
        decode(frame)


def test_text_that_is_not_unicode_cannot_be_written():
    with pytest.raises(SimulatorProtocolError, match="cannot be written"):
        encode(Tag("\ud800", "", None))


@pytest.mark.parametrize(
    ("prior", "words"),
    [
        (TruncatedNormal(0.0, 1.0, -1.0, 1.0), "family TruncatedNormal"),
        (Mixture([Normal(0.0, 1.0), Normal(1.0, 1.0)], [0.5, 0.5]), "family Mixture"),
        (Beta(1.0, 1.0, low=0.0, high=2.0), "family Beta between 0.0 and 2.0"),
        (Beta(1.0, 1.0, low=[0.0, 0.5], high=1.0), "family Beta between"),
        (Normal(np.empty(0), 1.0), "without elements"),
    ],
)
@pytest.mark.parametrize("kind", [Sample, Observe])
def test_a_family_that_ppx_lacks_is_refused_by_name(prior, words, kind):
    with pytest.raises(SimulatorProtocolError) as caught:
        encode(kind("the place", "", prior))
    assert words in str(caught.value)
    assert "Normal, Uniform, Categorical" in str(caught.value)
    assert "'the place'" in str(caught.value)


def test_a_family_that_is_sampled_in_a_way_of_its_own_is_sent_as_what_it_is():
    class Coarse(Uniform):
        __slots__ = ()

    assert decode(encode(Sample("a", "", Coarse(0.0, 1.0)))) == Sample("a", "", Uniform(0.0, 1.0))


def test_a_frame_that_is_too_long_is_neither_read_nor_written(monkeypatch):
    monkeypatch.setattr(messages, "MAX_FRAME_BYTES", 100)
    with pytest.raises(SimulatorProtocolError, match="at most 100 bytes"):
        encode(SampleResult(np.zeros(100)))
    with pytest.raises(SimulatorProtocolError, match="at most 100 bytes; got 101"):
        decode(bytes(101))


def test_the_numbers_of_bodies_are_those_of_the_schema():
    assert [BODIES[number - 1] for number in messages._NUMBERS.values()] == [
        kind.__name__ for kind in messages._NUMBERS
    ]
