"""How much a run takes in memory against what it takes on disk: a small folder may not ask for gigabytes."""

from __future__ import annotations

from typing import final

from bvit_analysis.files import DamagedFile

FREE_BYTES = 64 * 2**20
"What is unpacked without a question."
MOST_RATIO = 100
"Times its size on disk that a record may take in memory beyond that; recorded runs take 1 to 10 times."


@final
class Unpacked:
    """Counts what is unpacked of one run, and refuses what only a hostile folder would ask for."""

    def __init__(self) -> None:
        self._packed = self._unpacked = 0

    def take(self, packed: int, unpacked: int) -> None:
        """Count a file before it is unpacked.

        Args:
            packed: Its size, bytes.
            unpacked: About what its content takes in memory, bytes.

        Raises:
            DamagedFile: If the run would take more than FREE_BYTES and more than MOST_RATIO times its size on disk.
        """
        most = max(FREE_BYTES, MOST_RATIO * (self._packed + packed))
        if self._unpacked + unpacked > most:
            raise DamagedFile(
                f"of {packed} bytes would unpack to about {unpacked}; at most {most} are unpacked of what is so small"
            )
        self._packed += packed
        self._unpacked += unpacked
