"""How long to wait behind a commit before the next transaction begins. Pure.

The broker answers a commit before it has written its markers. A transaction that begins before they stand is turned
away (CONCURRENT_TRANSACTIONS), and librdkafka 2.16 asks again only 20 ms later; it does not say so. What shows it is
that sending takes that much longer than usual.
"""

from __future__ import annotations

from typing import Final

#: What being turned away costs, less what sending may take less than usual.
_TURNED_AWAY_S: Final = 0.018
_LEAST_S: Final = 0.0005
_MOST_S: Final = 0.008
#: One in twenty may be turned away: to wait for the slowest markers would cost all the others more.
_LONGER_S: Final = 0.0004
_SHORTER_S: Final = 0.00002
#: How quickly it is forgotten how quick sending was once.
_FORGET_S: Final = 0.0001


class Markers:
    """Follows how long sending takes, and with it how long the broker needs for its markers."""

    def __init__(self) -> None:
        #: How long nothing is sent after a commit.
        self.pause_s = _MOST_S / 4
        self._usual_s = 0.0

    def note(self, took_s: float) -> None:
        """Note how long it took to send the first records of a transaction."""
        usual_s = self._usual_s or took_s
        turned_away = took_s - usual_s >= _TURNED_AWAY_S
        self._usual_s = min(took_s, usual_s + _FORGET_S)
        pause_s = min(_MOST_S, self.pause_s + (_LONGER_S if turned_away else -_SHORTER_S))
        if pause_s < _LEAST_S:
            # Where sending always takes that long, it may be that all are turned away: that shows with a long pause.
            pause_s = _MOST_S if self._usual_s >= _TURNED_AWAY_S else _LEAST_S
        self.pause_s = pause_s
