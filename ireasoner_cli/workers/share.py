"""Some of a carrier's workers as a carrier of their own, so that two crews are at work at once."""

from collections.abc import Sequence

from ireasoner_cli.workers.answer import Answer, Words
from ireasoner_cli.workers.crew import Carrier


class Share:
    """The `workers` of a carrier, by their numbers there. `answers` holds those that have come while another share
    waited for its own; all shares of a carrier have the same."""

    def __init__(self, carrier: Carrier, workers: Sequence[int], answers: dict[int, Answer]) -> None:
        self._carrier = carrier
        self._workers = workers
        self._answers = answers

    @property
    def size(self) -> int:
        return len(self._workers)

    def begin(self, worker: int, words: Words) -> None:
        self._carrier.begin(self._workers[worker], words)

    def next(self) -> tuple[int, Answer]:
        while True:
            for worker, number in enumerate(self._workers):
                if number in self._answers:
                    return worker, self._answers.pop(number)
            number, answer = self._carrier.next()
            self._answers[number] = answer

    def address(self, worker: int) -> tuple[str, int]:
        return self._carrier.address(self._workers[worker])

    def end(self, worker: int) -> None:
        self._answers.pop(self._workers[worker], None)
        self._carrier.end(self._workers[worker])

    def close(self) -> None:
        self._carrier.close()
