import random
import threading
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given, settings
from hypothesis import strategies as st

from kontext.data.chat.budget import Budget


def test_limits_hold_one_by_one() -> None:
    budget = Budget(tokens=100, requests=3)
    assert budget.take(60)
    budget.settle(60, 10)
    assert budget.take(90)
    budget.settle(90, 20)
    assert not budget.take(71) and budget.take(70)
    budget.settle(70, 0)
    assert not budget.take(0), "three requests were sent"


def test_no_limit_and_what_never_reached_the_server() -> None:
    free = Budget()
    assert all(free.take(10**9) for _ in range(50))
    one = Budget(requests=1)
    assert one.take(5)
    one.settle(5, 0, requests=0)
    assert one.take(5)


def test_what_was_spent_before_counts() -> None:
    budget = Budget(tokens=100, requests=10)
    budget.count(95, 9)
    assert not budget.take(6) and budget.take(5)


def test_it_is_waited_for_what_may_be_given_back() -> None:
    budget = Budget(tokens=100)
    assert budget.take(80)
    found: list[bool] = []
    waiting = threading.Thread(target=lambda: found.append(budget.take(80)))
    waiting.start()
    assert not found, "it does not fit yet"
    budget.settle(80, 20)
    waiting.join(10)
    assert found == [True]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 50), st.floats(0, 1)), min_size=1, max_size=60),
    st.integers(1, 400),
    st.integers(1, 30),
)
def test_many_at_once_never_spend_more(
    wanted: list[tuple[int, float]], tokens: int, requests: int
) -> None:
    budget, lock, spent = Budget(tokens, requests), threading.Lock(), [0, 0]

    def work(most: int, share: float) -> None:
        if budget.take(most):
            cost = int(most * share)
            with lock:
                spent[0] += cost
                spent[1] += 1
            budget.settle(most, cost)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda args: work(*args), random.Random(0).sample(wanted, len(wanted))))
    assert spent[0] <= tokens and spent[1] <= requests
    fits = min((most for most, _ in wanted), default=0) <= tokens
    assert bool(spent[1]) == fits, "and something is asked where it fits"
