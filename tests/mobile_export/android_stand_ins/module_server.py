"""Runs the methods of a ``.pte`` for the stand-in of ExecuTorch's Android ``Module``: requests on
standard input and answers on standard output, both big-endian but for the floats of a tensor."""

from __future__ import annotations

import struct
import sys
from typing import BinaryIO

import numpy as np

from rdsdk.runtime.program import Program


def exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise EOFError
    return data


def integer(stream: BinaryIO) -> int:
    return int(struct.unpack(">i", exactly(stream, 4))[0])


def main() -> None:
    program = Program(sys.argv[1], threads=1)
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    while True:
        try:
            length = struct.unpack(">H", exactly(requests, 2))[0]
        except EOFError:
            return
        method = exactly(requests, length).decode()
        tensors = []
        for _ in range(integer(requests)):
            rank = integer(requests)
            shape = struct.unpack(f">{rank}q", exactly(requests, 8 * rank))
            data = np.frombuffer(exactly(requests, 4 * int(np.prod(shape))), "<f4")
            tensors.append(data.reshape(shape))
        state = dict(zip(program.card.state, tensors[1:], strict=True))
        run = {"step": program.step, "forward": program.forward}[method]
        output = run(tensors[0][0], state)
        assert output.log_probs is not None
        named = {"log_probs": output.log_probs[None], "hidden": output.hidden[None], **output.state}
        outputs = [named[name] for name in program.card.methods[method].outputs]
        answers.write(struct.pack(">i", len(outputs)))
        for array in outputs:
            answers.write(struct.pack(f">i{array.ndim}q", array.ndim, *array.shape))
            answers.write(array.astype("<f4").tobytes())
        answers.flush()


if __name__ == "__main__":
    main()
