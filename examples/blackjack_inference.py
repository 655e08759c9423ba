"""The hidden card of a blackjack dealer, given how the round ended.

The round is played by an unmodified environment of gymnasium, `Blackjack-v1`. A player who hits below 17 plays it; we
see it from far away: the dealer's open card, and who won, both with mistakes. The program never calls tracestore: its
calls of numpy's generator become draws with priors. Three engines answer, and so does a sum over all rounds there are,
written down from the rules of the game.

    python examples/blackjack_inference.py                 half a minute on two cores
    python examples/blackjack_inference.py --reduced       a few seconds
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

# threads that wait for each other give their core away meanwhile; torch looks at this when it is loaded
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import tracestore as ts

try:
    import gymnasium
except ModuleNotFoundError:
    sys.exit("gymnasium is not installed; run: pip install 'tracestore[gym]'")

# the checker would take another way through the program in the first round than later, with other addresses
TABLE = gymnasium.make("Blackjack-v1", disable_env_checker=True)
STICK_AT = 17
CARDS = range(1, 11)
WEIGHTS = {card: (4 if card == 10 else 1) / 13 for card in CARDS}
RIGHT_CARD = 0.955
"""Probability to see the open card right; each of the nine others has a two-hundredth."""
RIGHT_RESULT = 0.98
"""Probability to see right who won; each of the two other results has half of the rest."""


def play_round(table: Any) -> tuple[float, int, int]:  # noqa: ANN401
    """Play one round; return the reward, the dealer's open card and the hidden one."""
    (total, _, _), _ = table.reset()
    is_over = False
    while not is_over:
        (total, _, _), reward, is_over, _, _ = table.step(int(total < STICK_AT))
    open_card, hidden_card = table.unwrapped.dealer[:2]
    return float(reward), open_card, hidden_card


@ts.simulator
def blackjack() -> None:
    """Play a round and look at it from far away."""
    with ts.hijack("numpy"):
        reward, open_card, hidden_card = play_round(TABLE)
    ts.tag(hidden_card, name="hidden")
    ts.observe(ts.Categorical(card_seen(open_card)), name="open")
    ts.observe(ts.Categorical(result_seen(reward)), name="result")


def card_seen(card: int) -> list[float]:
    """Probability of each card to be taken for the open one, the ace first."""
    return [RIGHT_CARD if other == card else (1.0 - RIGHT_CARD) / 9 for other in CARDS]


def result_seen(reward: float) -> list[float]:
    """Probability of each result to be seen: lost, drawn, won."""
    return [RIGHT_RESULT if other == reward else (1.0 - RIGHT_RESULT) / 2 for other in (-1.0, 0.0, 1.0)]


def exact_posterior(open_seen: int, result: int) -> dict[int, float]:
    """Sum over all rounds, by the rules and without gymnasium.

    Parameters
    ----------
    open_seen, result
        What was seen, as numbers of categories.
    """
    player: dict[int, float] = {}
    for first, second in ((a, b) for a in CARDS for b in CARDS):
        add(player, final_scores(first + second, has_ace=1 in (first, second)), WEIGHTS[first] * WEIGHTS[second])
    weights = {}
    for hidden in CARDS:
        total = 0.0
        for card in CARDS:
            dealer = final_scores(card + hidden, has_ace=1 in (card, hidden))
            seen = sum(
                chance * other_chance * result_seen(reward_of(score, other))[result]
                for score, chance in player.items()
                for other, other_chance in dealer.items()
            )
            total += WEIGHTS[card] * card_seen(card)[open_seen] * seen
        weights[hidden] = WEIGHTS[hidden] * total
    return {hidden: weight / sum(weights.values()) for hidden, weight in weights.items()}


@cache
def final_scores(total: int, *, has_ace: bool) -> Mapping[int, float]:
    """Distribution of the score with which a hand ends that is played until 17; a bust hand scores 0."""
    score = total + 10 if has_ace and total + 10 <= 21 else total
    if score > 21:
        return {0: 1.0}
    if score >= STICK_AT:
        return {score: 1.0}
    found: dict[int, float] = {}
    for card in CARDS:
        add(found, final_scores(total + card, has_ace=has_ace or card == 1), WEIGHTS[card])
    return found


def add(total: dict[int, float], part: Mapping[int, float], weight: float) -> None:
    """Add a weighted distribution to another."""
    for score, chance in part.items():
        total[score] = total.get(score, 0.0) + weight * chance


def reward_of(score: int, dealer: int) -> float:
    """Return what the player wins; a bust player has lost already."""
    return -1.0 if score == 0 else float(score > dealer) - float(score < dealer)


def main() -> int:
    """Ask, with three engines and without any."""
    args = parse_arguments()
    seen = {"open": args.open - 1, "result": ("lost", "drawn", "won").index(args.result)}
    exact = exact_posterior(seen["open"], seen["result"])
    number = 1_000 if args.reduced else 10_000
    print(f"The dealer showed {args.open}, it seemed, and the player {args.result}.\n")
    with tempfile.TemporaryDirectory() as scratch:
        found, seconds = infer(seen, Path(scratch), number, args.workers, args.seed)
        print(f"{'hidden card':>12} {'before':>8} {'exact':>8}", *[f"{name:>8}" for name in found])
        for card in CARDS:
            row = [posterior.probabilities("hidden").get(card, 0.0) for posterior in found.values()]
            numbers = [f"{chance:8.3f}" for chance in (WEIGHTS[card], exact[card], *row)]
            print(f"{'ace' if card == 1 else card:>12}", *numbers)
        print(f"\n{'ESS':>30}", *[f"{posterior.ess:8.0f}" for posterior in found.values()])
        print(f"{'seconds':>30}", *[f"{spent:8.1f}" for spent in seconds.values()])
    return 0


def infer(
    seen: dict[str, int], folder: Path, number: int, workers: int, seed: int
) -> tuple[dict[str, Any], dict[str, float]]:
    """Ask each engine; return the posteriors and the seconds each took."""
    import torch

    from tracestore.networks import NetworkConfig
    from tracestore.training import TrainConfig

    torch.set_num_threads(1)  # for so small a network more would only wait for each other
    small = TrainConfig(network=NetworkConfig(core_size=32, observation_size=16, head_size=16), epochs=2)

    def prior_draws() -> Any:  # noqa: ANN401
        return ts.inference.importance(
            blackjack, seen, folder / "is", num_draws=number, workers=workers, seed=seed
        )  # fmt: skip

    def chain() -> Any:  # noqa: ANN401
        return ts.inference.rmh(blackjack, seen, folder / "rmh", num_draws=number, chains=2, workers=workers, seed=seed)

    def network() -> Any:  # noqa: ANN401
        ts.simulate(blackjack, folder / "traces", num_traces=number, workers=workers, seed=seed)
        ts.sort_store(folder / "traces", folder / "sorted")
        trained = ts.training.train(folder / "sorted", folder / "network", config=small)
        return ts.inference.ic(
            blackjack, seen, folder / "ic", network=trained, num_draws=number // 4, workers=workers, seed=seed
        )

    found, seconds = {}, {}
    for name, ask in (("prior IS", prior_draws), ("RMH", chain), ("IC", network)):
        start = time.perf_counter()
        found[name] = ask()
        seconds[name] = time.perf_counter() - start
    return found, seconds


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--open", metavar="N", type=int, choices=CARDS, default=10, help="open card seen (default 10)")
    parser.add_argument("--result", choices=("lost", "drawn", "won"), default="won", help="result seen (default won)")
    parser.add_argument("--reduced", action="store_true", help="a tenth of the draws")
    parser.add_argument("--workers", metavar="N", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--seed", metavar="N", type=int, default=1, help="of everything random (default 1)")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ts.TracestoreError as error:
        sys.exit(f"error: {error}")
