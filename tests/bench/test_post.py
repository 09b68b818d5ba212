"""Messages through a folder: whole lines only, a leader that lives or does not, and a worker on the other side."""

import json
import threading
import time

import pytest

from genflow.bench import post, serve
from genflow.bench.post import FOLDER, SIGN, Follower, Leader, Mailbox


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(post, "BEAT", 0.02)
    monkeypatch.setattr(post, "PATIENCE", 0.4)


@pytest.fixture
def working():
    """Makes workers' sides, and ends them after the test: a stopped one would end this process."""
    made = []

    def make(follower):
        made.append(serve.ByPost(follower, "w"))
        return made[-1]

    yield make
    for errands in made:
        errands.finish()


def test_lines_arrive_once_whole_and_in_order(tmp_path):
    bench, worker = Mailbox.of_bench(tmp_path / "box"), Mailbox.of_worker(tmp_path / "box")
    assert worker.receive() == []
    for k in range(3):
        bench.send({"k": k})
    assert worker.receive() == [{"k": 0}, {"k": 1}, {"k": 2}]
    assert worker.receive() == bench.receive() == []
    worker.send({"text": "é ✓\n|"})
    assert bench.receive() == [{"text": "é ✓\n|"}]


def test_half_a_line_waits_for_its_end(tmp_path):
    bench, worker = Mailbox.of_bench(tmp_path), Mailbox.of_worker(tmp_path)
    bench.send({"a": 1})
    with (tmp_path / Mailbox.FILES[1]).open("ab") as file:
        file.write(b'{"b"')
    assert worker.receive() == [{"a": 1}]
    assert worker.receive() == []
    with (tmp_path / Mailbox.FILES[1]).open("ab") as file:
        file.write(b": 2}\n")
    assert worker.receive() == [{"b": 2}]


def test_what_was_said_to_one_before_is_void(tmp_path):
    Mailbox.of_bench(tmp_path).send({"old": True})
    worker = Mailbox.of_worker(tmp_path)
    worker.skip()
    assert worker.receive() == []


def test_a_follower_finds_a_leader_that_lives(tmp_path):
    follower = Follower(tmp_path)
    with Leader(tmp_path) as leader:
        assert follower.find(5.0)
        assert follower.session == leader.session
        assert not follower.alone()
    assert not (tmp_path / FOLDER).exists()
    time.sleep(0.3)
    assert follower.alone()


def test_a_sign_that_does_not_change_is_of_one_who_is_gone(tmp_path):
    """Whatever its date: the clock of another machine says nothing."""
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / SIGN).write_text(json.dumps({"session": "old", "beat": 7}))
    began = time.monotonic()
    assert not Follower(tmp_path).find(0.3)
    assert time.monotonic() - began >= 0.3


def test_a_leader_that_stops_living_is_noticed(tmp_path):
    follower = Follower(tmp_path)
    leader = Leader(tmp_path).__enter__()
    assert follower.find(5.0)
    leader._over.set()  # as after SIGKILL: the file stays, nobody renews it
    leader._thread.join()
    assert not follower.alone()
    time.sleep(0.5)
    assert follower.alone()


def test_another_session_is_not_mine(tmp_path):
    follower = Follower(tmp_path)
    with Leader(tmp_path):
        assert follower.find(5.0)
    with Leader(tmp_path):
        assert follower.alone()
        assert not Follower(tmp_path, follower.session).find(0.3)


def test_a_worker_hears_errands_the_end_and_a_stop(tmp_path, working):
    with Leader(tmp_path) as leader:
        box, follower = leader.box("w"), Follower(tmp_path)
        assert follower.find(5.0)
        errands = working(follower)
        box.send({"cell": 1})
        assert errands.next() == {"cell": 1}
        errands.say(done=1)
        assert box.receive() == [{"done": 1}]
        box.send({"end": True})
        assert errands.next() is None
        box.send({"stop": True})
        assert errands.stop.wait(5.0)
        assert errands.next() is None


def test_a_worker_whose_bench_is_gone_stops(tmp_path, monkeypatch, working):
    monkeypatch.setattr(serve.ByPost, "ALIVE", 0.05)
    follower = Follower(tmp_path)
    leader = Leader(tmp_path).__enter__()
    assert follower.find(5.0)
    errands = working(follower)
    assert not errands.stop.wait(0.2)
    leader._over.set()
    leader._thread.join()
    assert errands.stop.wait(5.0)


def test_a_stop_reaches_a_worker_that_waits(tmp_path, working):
    with Leader(tmp_path):
        follower = Follower(tmp_path)
        assert follower.find(5.0)
        errands, heard = working(follower), []
        waiting = threading.Thread(target=lambda: heard.append(errands.next()))
        waiting.start()
        errands.stop.set()
        waiting.join(5.0)
        assert heard == [None]


def test_a_stopped_worker_that_does_not_end_is_ended(tmp_path, working, monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr(serve.os, "_exit", lambda code: ended.set())
    monkeypatch.setattr(serve.ByPost, "GRACE", 0.1)
    with Leader(tmp_path):
        follower = Follower(tmp_path)
        assert follower.find(5.0)
        working(follower).stop.set()
        assert ended.wait(5.0)
