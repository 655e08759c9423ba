"""A PPX program that computes nothing: it plays recorded frames, one for each message that it gets.

    python ppx_player.py FRAMES ENDPOINT

FRAMES is a pickled list: the answer to the handshake, then the messages of one run, which are played again and again.
"""

import pickle
import sys
from itertools import cycle
from pathlib import Path

import zmq


def main(path: str, endpoint: str) -> None:
    frames = pickle.loads(Path(path).read_bytes())  # written by the benchmark itself
    socket = zmq.Context.instance().socket(zmq.REP)
    socket.bind(endpoint)
    receive, send = socket.recv, socket.send
    receive()
    send(frames[0])
    for frame in cycle(frames[1:]):
        receive()
        send(frame)


if __name__ == "__main__":
    main(*sys.argv[1:3])
