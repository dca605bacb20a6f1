"""Answers for 05_paravirtual_against_full.ipynb: one that its check must take, and some that it must refuse."""


# %% exercise 1: solution
class LazyUpdates:
    """A list that is given away when it is full, and when it matters."""

    def __init__(self, hypercall, limit: int) -> None:
        self.hypercall, self.limit = hypercall, limit
        self.waiting: list[tuple[int, int]] = []

    def update(self, entry: int, value: int) -> None:
        self.waiting.append((entry, value))
        if len(self.waiting) == self.limit:
            self.flush()

    def flush(self) -> None:
        if self.waiting:
            self.hypercall(self.waiting)
            self.waiting = []


# %% exercise 1: wrong, a hypercall for each update is what batching is there to avoid
class LazyUpdates:
    """Not lazy at all."""

    def __init__(self, hypercall, limit: int) -> None:
        self.hypercall = hypercall

    def update(self, entry: int, value: int) -> None:
        self.hypercall([(entry, value)])

    def flush(self) -> None:
        pass


# %% exercise 1: wrong, what does not fill a batch is never given
class LazyUpdates:
    """Flushes only when the list is full."""

    def __init__(self, hypercall, limit: int) -> None:
        self.hypercall, self.limit = hypercall, limit
        self.waiting: list[tuple[int, int]] = []

    def update(self, entry: int, value: int) -> None:
        self.waiting.append((entry, value))
        if len(self.waiting) == self.limit:
            self.hypercall(self.waiting)
            self.waiting = []

    def flush(self) -> None:
        pass


# %% exercise 1: wrong, the list may be longer than the monitor takes
class LazyUpdates:
    """Knows no limit."""

    def __init__(self, hypercall, limit: int) -> None:
        self.hypercall = hypercall
        self.waiting: list[tuple[int, int]] = []

    def update(self, entry: int, value: int) -> None:
        self.waiting.append((entry, value))

    def flush(self) -> None:
        if self.waiting:
            self.hypercall(self.waiting)
            self.waiting = []


# %% exercise 1: wrong, the newest change is done first, and an older one over it
class LazyUpdates:
    """A stack in place of a queue."""

    def __init__(self, hypercall, limit: int) -> None:
        self.hypercall, self.limit = hypercall, limit
        self.waiting: list[tuple[int, int]] = []

    def update(self, entry: int, value: int) -> None:
        self.waiting.insert(0, (entry, value))
        if len(self.waiting) == self.limit:
            self.flush()

    def flush(self) -> None:
        if self.waiting:
            self.hypercall(self.waiting)
            self.waiting = []
