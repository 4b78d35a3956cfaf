"""Which call a codec thread gets next."""

import threading

from worker.calls import Calls


def called(calls: Calls, *, large: bool) -> object:
    call = calls.get(large=large)
    return call and call()


def test_a_thread_that_takes_all_gets_calls_in_their_order():
    calls, seen = Calls(), []
    for name, large in (("a", False), ("b", True), ("c", False), ("d", True)):
        calls.put(lambda name=name: seen.append(name), large=large)
    for _ in range(4):
        called(calls, large=True)
    assert seen == ["a", "b", "c", "d"]


def test_a_thread_that_is_kept_for_small_pictures_passes_large_ones():
    calls, seen = Calls(), []
    calls.put(lambda: seen.append("large"), large=True)
    calls.put(lambda: seen.append("small"))
    called(calls, large=False)
    assert seen == ["small"]
    called(calls, large=True)
    assert seen == ["small", "large"]


def test_a_thread_that_waits_for_small_ones_is_not_woken_for_good_by_a_large_one():
    calls, seen = Calls(), []
    thread = threading.Thread(target=lambda: called(calls, large=False))
    thread.start()
    calls.put(lambda: seen.append("large"), large=True)
    calls.put(lambda: seen.append("small"))
    thread.join(10)
    assert seen == ["small"]


def test_closed_calls_let_all_threads_go():
    calls = Calls()
    threads = [
        threading.Thread(target=calls.get, kwargs={"large": large}) for large in (True, False)
    ]
    for thread in threads:
        thread.start()
    calls.close()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def test_urgent_calls_go_first_and_every_fourth_is_the_oldest():
    calls, seen = Calls(), []
    for name, urgent, large in [("l", False, True), ("s", False, False), *[("u", True, False)] * 6]:
        calls.put(lambda name=name: seen.append(name), urgent=urgent, large=large)
    for _ in range(8):
        called(calls, large=True)
    assert "".join(seen) == "uuuluuus"
