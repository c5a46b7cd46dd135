"""What a report's figures come to, in words: the same on the terminal and on the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from twotower.evaluation.rankers import IN_WORDS
from twotower.evaluation.verdict import Outcome, beats_all, outcome

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


def headline(measured: Mapping[str, Any]) -> tuple[str, Outcome | None]:
    """What it all comes to, in a few words, and how it went."""
    found = measured.get("verdict")
    if found is None:
        if measured.get("ranking") or measured.get("test_auc") is not None:
            return "Measured, but beside no baseline.", None
        return "Nothing was held out to be found, so nothing was measured.", None
    count = num_users(measured, found["group"])
    if count < FEWEST_USERS:
        return f"Too few {found['group']} test users to say who is better: {count}.", None
    best = found["best_baseline"]
    verb: Outcome = found["against"][best]
    said = f"{VERBS[verb]} {NAMES[best]}, the best baseline"
    if beats_all(measured):
        said = "beat every baseline" + " that was measured" * bool(measured.get("left_out"))
    # By a hair another may be behind the best and yet clearly before the towers.
    others = [NAMES[name] for name, how in found["against"].items() if how == "loss"]
    if others and verb != "loss":
        said, verb = f"{said}, and lose to {' and '.join(others)}", "loss"
    return f"The towers {said}{_of_cold(measured)}.", verb


def _of_cold(measured: Mapping[str, Any]) -> str:
    """To whom they lose for users that training never met, where others decide."""
    cold = measured["ranking"].get("cold")
    is_told = cold and measured["verdict"]["group"] != "cold"
    if not is_told or num_users(measured, "cold") < FEWEST_USERS:
        return ""
    metric = main_metrics(cold)[0]
    lost = [
        NAMES[name]
        for name in best_first(cold, metric)
        if outcome(cold["difference"][name][metric]) == "loss"
    ]
    return f"; for cold users they lose to {' and '.join(lost)}" if lost else ""


def price(measured: Mapping[str, Any]) -> Iterator[str]:
    """What the towers cost beside the best baseline, as one sentence."""
    seconds = costs(measured)
    found = measured.get("verdict") or {}
    best = found.get("best_baseline")
    if best and num_users(measured, found["group"]) < FEWEST_USERS:
        return
    if "towers" in seconds and best in seconds:
        theirs, ours = _seconds(seconds[best]), _seconds(seconds["towers"])
        with_tuning = "trials" in measured["baselines"][best]
        included = ", tuning included," if with_tuning else ""
        yield f"Trained in {ours}; {NAMES[best]}{included} took {theirs}."


def _seconds(count: float) -> str:
    return (
        "under 0.1 s" if count < 0.1 else f"{count:,.1f} s" if count < 10 else f"{count:,.0f} s"
    )


def tuned(measured: Mapping[str, Any]) -> Iterator[str]:
    """With how many settings each baseline was tried, and in what time, as one sentence."""
    every = {n: each for n, each in measured.get("baselines", {}).items() if "trials" in each}
    if not every:
        return
    # A run of before this was written down does not say.
    seconds = {each["budget_seconds"] for each in every.values() if "budget_seconds" in each}
    within = f", {max(seconds):g} s at most each" if seconds else ""
    tried = ", ".join(
        f"{NAMES[name]} {each['trials']}"
        + ("" if each.get("tried_all", True) else " (time was over)")
        for name, each in every.items()
    )
    yield f"Baselines were tuned on validation{within}; settings tried: {tried}."


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
        yield (
            "Nothing stands beside the towers: what was asked for did not help clearly on "
            "validation, or found no room."
        )
    elif best in {"ease", "item_knn"} and found["against"][best] == "loss":
        yield (
            f"{NAMES[best]} knows something that the towers do not: try model.blend: auto, "
            "which adds its scores to theirs where validation gains."
        )


def slices_of(measured: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """The slices of each group of users, the one where the towers gain most first."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for part in sorted(
        measured.get("slices", []), key=lambda each: -each["difference"]["mean"]
    ):
        # Runs of before had one group, and one baseline beside it.
        group = part.get("group", measured["verdict"]["group"])
        against = part.get("against", measured["verdict"]["best_baseline"])
        found.setdefault(group, []).append({**part, "against": against})
    return dict(sorted(found.items(), reverse=True))


def of_left_out(measured: Mapping[str, Any]) -> Iterator[str]:
    """Which baselines the verdict knows nothing of, and why."""
    for name, why in measured.get("left_out", {}).items():
        yield f"Left out: {NAMES[name]}; {why}."


def for_whom(measured: Mapping[str, Any]) -> Iterator[str]:
    """The slices where the towers and the best baseline differ most, if not by chance."""
    for group, parts in slices_of(measured).items():
        name = NAMES[parts[0]["against"]]
        of_whom = " of cold users" if group == "cold" else ""
        for word, wanted in (("better", "win"), ("worse", "loss")):
            told = [part for part in parts if outcome(part["difference"]) == wanted]
            told.sort(key=lambda part: -abs(part["difference"]["mean"]))
            if told:
                each = [
                    f"{part['slice']} ({part['towers']:.3f} for {part['baseline']:.3f})"
                    for part in told[:_MOST_SLICES]
                ]
                more = f" and {len(told) - len(each)} more" if len(told) > len(each) else ""
                yield (
                    f"Of {len(parts)} slices{of_whom}, {word} than {name} for: "
                    f"{'; '.join(each)}{more}."
                )
    if left_out := measured.get("columns_left_out"):
        counts = " and ".join(f"{count} of {table}" for table, count in left_out.items())
        yield f"Slices are by each table's first columns; left out are {counts}."
