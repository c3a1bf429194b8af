"""One scorer for all who judge by the same landmarks of the same reference, as the monitors of a batch do."""

from weakref import WeakValueDictionary

from quests_md.reference import Reference

from .landmarks import Landmarks, LocalScorer

__all__ = ["shared_scorer"]

#: Scorers that somebody uses, by the reference and the landmarks that they were made of: some MB, and 30 ms, each.
_IN_USE: WeakValueDictionary[tuple[int, int], "SharedScorer"] = WeakValueDictionary()


class SharedScorer(LocalScorer):
    """A scorer that keeps what it was made of alive, so that nothing else comes to have its place in memory."""

    def __init__(self, reference: Reference, landmarks: Landmarks) -> None:
        super().__init__(reference, landmarks)
        self.made_of = reference, landmarks


def shared_scorer(reference: Reference, landmarks: Landmarks) -> LocalScorer:
    """The scorer that somebody uses already, or a new one; errors as of `LocalScorer`."""
    key = id(reference), id(landmarks)
    scorer = _IN_USE.get(key)
    if scorer is None:
        scorer = _IN_USE[key] = SharedScorer(reference, landmarks)
    return scorer
