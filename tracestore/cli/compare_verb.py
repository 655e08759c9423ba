"""The verb that compares models of showers with a reference. Rooms are imported inside the verb."""

import argparse
import json
from pathlib import Path

from tracestore.cli.words import parse_positive, parse_whole
from tracestore.progress import Progress

__all__ = ["add_compare_options", "run_compare"]


def add_compare_options(parser: argparse.ArgumentParser) -> None:
    """Give the verb its words.

    Parameters
    ----------
    parser
        The parser of the verb.

    Examples
    --------
    >>> parser = argparse.ArgumentParser()
    >>> add_compare_options(parser)
    >>> parser.parse_args(["showers", "runs/gan", "flow=runs/7", "--out", "page.html"]).models
    ['runs/gan', 'flow=runs/7']
    """
    parser.add_argument("reference", metavar="REFERENCE", help="a store of showers that no model has learned from")
    text = "a surrogate, or another store of showers; NAME=MODEL gives it a name"
    parser.add_argument("models", metavar="MODEL", nargs="+", help=text)
    text = "the page to write; its numbers go beside it, with the ending .json"
    parser.add_argument("--out", metavar="FILE", required=True, help=text)
    text = "name of the energy, and after another --label of the angle (default: energy, and angle where there is one)"
    parser.add_argument("--label", metavar="NAME", action="append", help=text)
    parser.add_argument("--observation", metavar="NAME", help="name of the images (default: the only one)")
    text = "showers of each set at most (default 20000)"
    parser.add_argument("--num-showers", metavar="N", type=parse_positive, default=20_000, help=text)
    text = "energy in GeV at or below which a cell counts as empty (default 1e-5)"
    parser.add_argument("--threshold", metavar="GEV", type=float, default=1e-5, help=text)
    text = "images that a surrogate generates at once (default 64)"
    parser.add_argument("--batch-size", metavar="N", type=parse_positive, default=64, help=text)
    text = "also ask surrogates for labels outside of the ranges that they were trained on"
    parser.add_argument("--extrapolate", action="store_true", help=text)
    parser.add_argument("--seed", metavar="S", type=parse_whole, default=0, help="of all random draws (default 0)")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    parser.set_defaults(parser=parser)


def run_compare(args: argparse.Namespace) -> int:
    """Compare models of showers with a reference on one page: profiles, response, hits, moments, a classifier."""
    names = [_split(word) for word in args.models]
    for name, _ in names:
        if [one for one, _ in names].count(name) > 1:
            args.parser.error(f"two models are called {name!r}; give them names: NAME=MODEL")
    from tracestore.reports.showers.page import compare_showers
    from tracestore.reports.showers.words import conclusions

    with Progress() as progress:
        found = compare_showers(
            args.reference,
            dict(names),
            args.out,
            labels=args.label,
            observation=args.observation,
            num_showers=args.num_showers,
            threshold=args.threshold,
            seed=args.seed,
            batch_size=args.batch_size,
            extrapolate=args.extrapolate,
            observer=progress,
        )
    if args.json:
        print(json.dumps(found.to_dict(), indent=2))
    else:
        print("\n".join([*(words.replace("`", "") for words in conclusions(found)), f"comparison in {args.out}"]))
    return 0


def _split(word: str) -> tuple[str, str]:
    """Return name and path of a model; a path with an equals sign in it needs a name before it."""
    name, mark, path = word.partition("=")
    if mark and "/" not in name:
        return name, path
    return Path(word).name, word
