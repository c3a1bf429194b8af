"""Actions that are due after a check: each is done once, also where an interrupt comes in between."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ase import Atoms

from quests_md._interrupts import interrupt_behind, uninterrupted
from quests_md.errors import StopRun
from quests_md.records import Check, Event

from .actions import Action, SaveFrame, Sentinel
from .run_log import RunLog
from .stop_reason import StopReason, stopped_by_action

__all__ = ["DueActions"]


@dataclass(frozen=True, slots=True, eq=False)
class _Due:
    """An action, and what it is to be called with."""

    action: Action
    event: Event
    frame: Atoms

    @property
    def is_ours(self) -> bool:
        """Whether it is quick, and whole or not begun when an interrupt is raised."""
        return isinstance(self.action, SaveFrame | Sentinel)


class DueActions:
    """What is still to be done about the events of the last check, or of earlier ones if interrupts came in between.

    `save_frame` and `sentinel` are whole or not begun when an interrupt is raised, and are made up for at the next
    check or at the end of the run. Actions of the user may be interrupted, which is noted; they are not called again.
    """

    def __init__(self, log: RunLog) -> None:
        self._log = log
        self._due: deque[_Due] = deque()
        self._is_doing = False
        self.check: Check | None = None
        """The check after which the log says that actions are due, until it says that they were done."""
        self.follow: Callable[[], list[str]] | None = None
        """Lets the files of actions follow the log of a run that was taken up, before the first action."""

    @property
    def is_left(self) -> bool:
        """Whether an interrupt has left something: no action calls, and the log does not say that all are done."""
        return self.check is not None and not self._is_doing

    def prepare(
        self,
        check: Check,
        actions: Sequence[Action],
        events: Iterable[tuple[Event, bool]],
        flagged: Callable[[Event], Atoms],
    ) -> None:
        """Take the events of a check, each with whether it is new; `flagged` copies the frame, since atoms move on."""
        self.check = check
        for event, is_new in events:
            for action in actions:
                if is_new or getattr(action, "repeats", False):
                    try:
                        self._due.append(_Due(action, event, flagged(event)))
                    except Exception as failure:
                        self._log.fail_action(failure, _failed(action, event))

    def do(self) -> StopReason | None:
        """Do what is due, in order; returns why an action has asked for the end of the run, the first that has.

        That an action failed is said once, and noted each time, or raised; then those after it are not called.
        """
        was_doing, self._is_doing = self._is_doing, True
        stop: StopReason | None = None
        try:
            if self.follow is not None:
                uninterrupted(self._follow_log)
            while self._due:
                found = uninterrupted(self._do_next) if self._due[0].is_ours else self._do_next()
                stop = stop or found
        finally:
            self._is_doing = was_doing
        return stop

    def make_up(self) -> None:
        """Do what an interrupt has left of this package's own actions, and note what is missing: the run ends."""
        if not self.is_left:  # it may be an action that ends the run
            return
        for due in [due for due in self._due if not due.is_ours]:
            self._due.remove(due)
            self._log.note("error", f"{_name(due.action)} was not called for event {due.event.id}: an interrupt came")
        self.do()

    def _follow_log(self) -> None:
        follow, self.follow = self.follow, None
        for text in follow() if follow is not None else ():
            self._log.warn(text)

    def _do_next(self) -> StopReason | None:
        due = self._due.popleft()
        try:
            due.action(due.event, due.frame)
        except StopRun:
            assert self.check is not None
            return stopped_by_action(_name(due.action), self.check, due.event)
        except BaseException as failure:
            if not isinstance(failure, Exception) or interrupt_behind(failure) is not None:
                text = f"{_name(due.action)} was interrupted for event {due.event.id}; what it was to leave is missing"
                self._log.note("error", text)
                raise
            try:
                self._log.fail_action(failure, _failed(due.action, due.event))
            except Exception:
                self._due.clear()
                raise
        return None


def _name(action: Action) -> str:
    return f"the action {getattr(action, '__name__', type(action).__name__)}"


def _failed(action: Action, event: Event) -> str:
    return f"{_name(action)} failed for event {event.id}"
