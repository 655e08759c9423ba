"""PPX frames by the `flatbuffers` package: the other implementation that ours is compared with."""

import flatbuffers
import flatbuffers.number_types as types
from flatbuffers.table import Table

BODIES = [
    *("Handshake", "HandshakeResult", "Run", "RunResult", "Sample", "SampleResult", "Observe", "ObserveResult"),
    *("Tag", "TagResult", "Reset"),
]
FAMILIES = [
    *("Normal", "Uniform", "Categorical", "Poisson", "Bernoulli", "Beta", "Exponential", "Gamma", "LogNormal"),
    *("Binomial", "Weibull"),
]


class Frame:
    """Builds one message; every method returns an offset to be put into a slot."""

    def __init__(self):
        self.builder = flatbuffers.Builder(256)

    def text(self, text):
        return self.builder.CreateString(text)

    def tensor(self, numbers, shape):
        builder = self.builder
        builder.StartVector(8, len(numbers), 8)
        for number in reversed(numbers):
            builder.PrependFloat64(number)
        data = builder.EndVector()
        sizes = None
        if shape is not None:
            builder.StartVector(4, len(shape), 4)
            for size in reversed(shape):
                builder.PrependInt32(size)
            sizes = builder.EndVector()
        return self.table(data, sizes)

    def table(self, *fields):
        """Offsets by slot; a tuple of one number is a byte; None is absent."""
        builder = self.builder
        builder.StartObject(len(fields))
        for slot, field in enumerate(fields):
            if isinstance(field, tuple):
                builder.PrependUint8Slot(slot, field[0], 255)
            elif field is not None:
                builder.PrependUOffsetTRelativeSlot(slot, field, 0)
        return builder.EndObject()

    def distribution(self, *parameters):
        return self.table(*[self.tensor(*parameter) for parameter in parameters])

    def finish(self, kind, body, identifier=None):
        number = kind if isinstance(kind, int) else BODIES.index(kind) + 1
        self.builder.Finish(self.table((number,), body), identifier)
        return bytes(self.builder.Output())


def site(kind, family, *parameters, address="a", name="", last=None, more=()):
    """A Sample or an Observe; parameters are pairs of numbers and shape."""
    frame = Frame()
    distribution = frame.distribution(*parameters)
    number = FAMILIES.index(family) + 1
    last = frame.tensor(*last) if isinstance(last, list) else last
    place, label = frame.text(address), frame.text(name)
    return frame.finish(kind, frame.table(place, label, (number,), distribution, last, *more))


class View:
    """Reads a table of a frame that we wrote."""

    def __init__(self, frame, position=None):
        if position is None:
            position = flatbuffers.encode.Get(flatbuffers.packer.uoffset, frame, 0)
        self.table = Table(frame, position)

    def _offset(self, slot):
        return self.table.Offset(4 + 2 * slot)

    def byte(self, slot, default=0):
        offset = self._offset(slot)
        return self.table.Get(types.Uint8Flags, self.table.Pos + offset) if offset else default

    def text(self, slot):
        offset = self._offset(slot)
        return self.table.String(self.table.Pos + offset).decode() if offset else None

    def child(self, slot):
        offset = self._offset(slot)
        return View(self.table.Bytes, self.table.Indirect(self.table.Pos + offset)) if offset else None

    def vector(self, slot, flags):
        offset = self._offset(slot)
        if not offset:
            return None
        start, width = self.table.Vector(offset), flags.bytewidth
        return [self.table.Get(flags, start + index * width) for index in range(self.table.VectorLen(offset))]

    def tensor(self, slot):
        child = self.child(slot)
        return None if child is None else (child.vector(0, types.Float64Flags), child.vector(1, types.Int32Flags))

    def aligned_doubles(self, slot):
        """Whether the numbers of a tensor are at a multiple of eight bytes."""
        table = self.child(slot).table
        return table.Vector(table.Offset(4)) % 8 == 0
