"""What a report's figures come to, in words: the same on the terminal and on the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from twotower.evaluation.rankers import IN_WORDS
from twotower.evaluation.verdict import Outcome, outcome

# A comparison over fewer users than this is not worth a sentence.
FEWEST_USERS = 20
NAMES: Mapping[str, str] = {"towers": "two towers", "alone": "two towers alone", **IN_WORDS}
VERBS: Mapping[Outcome, str] = {"loss": "lose to", "tie": "tie with", "win": "beat"}
# Of slices where the difference is no chance, so many are told.
_MOST_SLICES = 4


def num_users(measured: Mapping[str, Any], group: str) -> int:
    """How many test users a group has: ``warm`` ones, whom training met, or ``cold`` ones."""
    users = measured["protocol"]["users"]
    return int(users["warm"] if group == "warm" else users["all"] - users["warm"])


def main_metrics(summary: Mapping[str, Any]) -> list[str]:
    """The two metrics that say most, at the lengths that were measured; the first decides."""
    ks = sorted({int(name.split("@")[1]) for name in summary["towers"]})
    return [f"ndcg@{ks[0]}", f"recall@{ks[min(1, len(ks) - 1)]}"]


def best_first(summary: Mapping[str, Any], metric: str) -> list[str]:
    """The baselines of a group, best first."""
    return sorted(summary["difference"], key=lambda who: -float(summary[who][metric]["mean"]))


def costs(measured: Mapping[str, Any]) -> dict[str, float]:
    """Seconds that each took, tuning included; those of the towers only after training."""
    seconds = {
        name: settings["seconds"] + settings.get("tuning_seconds", 0.0)
        for name, settings in measured.get("baselines", {}).items()
    }
    if "train_seconds" in measured:
        seconds["towers"] = measured["train_seconds"]
    return seconds


def against_each(summary: Mapping[str, Any]) -> dict[Outcome, list[str]]:
    """Whom the towers lose to, tie with and beat, and by how much of what these have.

    >>> value = {"ndcg@10": {"mean": 0.2}}
    >>> worse = {"ndcg@10": {"mean": -0.02, "low": -0.03, "high": -0.01}}
    >>> against_each({"towers": value, "ease": value, "difference": {"ease": worse}})
    {'loss': ['EASE (-10.0%)']}
    """
    metric = main_metrics(summary)[0]
    differences = summary["difference"]
    said: dict[Outcome, list[str]] = {each: [] for each in VERBS}
    for name in best_first(summary, metric):
        theirs = summary[name][metric]["mean"]
        # Of nearly nothing any share is enormous.
        share = f" ({differences[name][metric]['mean'] / theirs:+.1%})" if theirs > 0.01 else ""
        said[outcome(differences[name][metric])].append(f"{NAMES[name]}{share}")
    return {each: names for each, names in said.items() if names}


def of_blend(measured: Mapping[str, Any]) -> Iterator[str]:
    """Whether what stands beside the towers pays, or might."""
    blend, found = measured.get("blend"), measured.get("verdict") or {}
    ranking, best = measured.get("ranking", {}), found.get("best_baseline")
    if not blend or not ranking:
        return
    group = "warm" if "warm" in ranking else next(iter(ranking))
    metric = main_metrics(ranking[group])[0]
    if blend["kind"]:
        gain = ranking[group]["difference"]["alone"][metric]
        says = {"win": "which pays", "tie": "which pays nothing", "loss": "which costs"}
        yield (
            f"{NAMES[blend['kind']]} stands beside the towers, {says[outcome(gain)]}: {metric} "
            f"{gain['mean']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]."
        )
    elif blend["asked"] != "none":
        yield "On validation nothing beside the towers helped clearly; they stand alone."
    elif best in {"ease", "item_knn"} and found["against"][best] == "loss":
        yield (
            f"{NAMES[best]} knows something that the towers do not: try model.blend: auto, "
            "which adds its scores to theirs where validation gains."
        )


def of_left_out(measured: Mapping[str, Any]) -> Iterator[str]:
    """Which baselines the verdict knows nothing of, and why."""
    for name, why in measured.get("left_out", {}).items():
        yield f"Left out: {NAMES[name]}; {why}."


def for_whom(measured: Mapping[str, Any]) -> Iterator[str]:
    """The slices where the towers and the best baseline differ most, if not by chance."""
    parts = measured.get("slices", [])
    if not parts:
        return
    name = NAMES[measured["verdict"]["best_baseline"]]
    for word, wanted in (("better", "win"), ("worse", "loss")):
        told = [part for part in parts if outcome(part["difference"]) == wanted]
        told.sort(key=lambda part: -abs(part["difference"]["mean"]))
        if told:
            each = [
                f"{part['slice']} ({part['towers']:.3f} for {part['baseline']:.3f})"
                for part in told[:_MOST_SLICES]
            ]
            more = f" and {len(told) - len(each)} more" if len(told) > len(each) else ""
            yield f"Of {len(parts)} slices, {word} than {name} for: {'; '.join(each)}{more}."
