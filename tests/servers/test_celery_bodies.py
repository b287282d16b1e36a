"""What the bodies of tasks make of a turn that comes later: a worker in this process."""

from __future__ import annotations

import contextlib
import queue
import threading
from datetime import datetime, timezone

import anthropic
import pytest
from celery import Celery, chord, group
from celery.app.trace import reset_worker_optimizations, setup_worker_optimizations
from celery.worker.request import Request

from claude_throttle.contrib.celery import ClaudeRefused, ClaudeTask
from claude_throttle.testing import Reply
from tests.support.calls import ask

BEGINNING = datetime.min.replace(tzinfo=timezone.utc)


@pytest.fixture
def work(fake, throttle, tmp_path):
    """``work(body)`` is what a task with that body returned for each of the TEXTS.

    Calls leave 60 ms apart, and one may wait in its place for 20 ms: most come back.
    """
    app = Celery("bodies", broker="memory://", backend="cache+memory://", set_as_current=False)
    server = fake()
    throttler = throttle(server, rpm=1000, shared=f"sqlite:///{tmp_path}/quota.db")

    def make(body, **options):
        options = {"throttler": throttler, "longest_wait": 0.02, **options}
        return app.task(base=ClaudeTask, bind=True, shared=False, name="task", **options)(body)

    def run(body, canvas=None, **options):
        task = make(body, **options)
        sent = [task.delay(text) for text in TEXTS] if canvas is None else [canvas(task)]
        _run_all(app)
        found = [result.get(0) for result in sent]
        return found if canvas is None else found[0]

    run.server, run.app, run.task, run.throttler = server, app, make, throttler
    setup_worker_optimizations(app)
    yield run
    reset_worker_optimizations(app)


def _run_all(app):
    """Run the tasks in the queue, each when its time comes, until none is left: a small worker."""
    waiting = []
    with app.connection_for_read() as connection, connection.SimpleQueue("celery") as messages:
        while True:
            with contextlib.suppress(queue.Empty):
                while True:
                    message = messages.get_nowait()
                    message.ack()
                    waiting.append(Request(message, app=app))
            if not waiting:
                return
            request = min(waiting, key=lambda request: request.eta or BEGINNING)
            waiting.remove(request)
            if request.eta is not None:
                left = request.eta - datetime.now(timezone.utc)
                threading.Event().wait(max(0.0, left.total_seconds()))
            request.execute()


TEXTS = [f"text {n}" for n in range(5)]


def said(message):
    return message.content[0].text.removeprefix("echo: ")


def typed(text):
    return {**ask(text), "raw": False}


def catches_exceptions(self, text):
    try:
        return said(self.ask_claude(**typed(text)))
    except Exception as error:
        return str(error)


def catches_everything(self, text):
    try:
        return said(self.ask_claude(**typed(text)))
    except:  # noqa: E722 - as tasks out there have it
        return "failed"


def returns_in_the_end(self, text):
    try:
        return said(self.ask_claude(**typed(text)))
    finally:
        self.ended = True


def raises_its_own(self, text):
    try:
        return said(self.ask_claude(**typed(text)))
    except BaseException as error:
        raise ValueError("this failed") from error


def falls_back(self, text):
    try:
        return said(self.ask_claude(**typed(text)))
    except BaseException:
        return said(self.ask_claude(**typed(f"{text} again")))


def retries_itself(self, text):
    try:
        return said(self.ask_claude(**typed(text)))
    except BaseException as error:
        raise self.retry(exc=error, countdown=0.05, max_retries=None) from error


BODIES = [
    pytest.param(catches_exceptions, {}),
    pytest.param(catches_everything, {}, marks=pytest.mark.thorough),
    pytest.param(returns_in_the_end, {}, marks=pytest.mark.thorough),
    pytest.param(raises_its_own, {}, marks=pytest.mark.thorough),
    pytest.param(falls_back, {}),
    pytest.param(retries_itself, {}),
    pytest.param(catches_exceptions, {"autoretry_for": (Exception,), "max_retries": 0}),
]


@pytest.mark.parametrize(("body", "options"), BODIES)
def test_a_turn_that_comes_later_is_no_failure_of_the_task(work, body, options):
    """Whatever its body catches, each text is answered, and asked for once."""
    assert work(body, **options) == TEXTS
    assert sorted(arrival.nonce for arrival in work.server.arrivals) == TEXTS


def test_what_comes_after_a_group_waits_for_all_of_it(work):
    """A chord's body gets each answer once, however often its tasks came back."""

    @work.app.task(shared=False, name="gather")
    def gather(texts):
        return sorted(texts)

    def canvas(task):
        return chord(group(map(task.s, TEXTS)), gather.s()).delay()

    assert work(catches_exceptions, canvas) == TEXTS


def test_a_message_that_a_task_returns_is_a_dict_as_its_result(work):
    """The default format of results is JSON."""

    def body(self, text):
        return self.ask_claude(**typed(text))

    results = work(body)
    assert [result["content"][0]["text"] for result in results] == [f"echo: {t}" for t in TEXTS]


def test_a_call_that_failed_sends_no_task_back(work):
    """It may be billed: another run would ask for it again."""

    def body(self, text):
        try:
            return said(self.ask_claude(**typed(text)))
        except anthropic.APIError as error:
            return f"{error.status_code}, {said(self.ask_claude(**typed(f'{text} again')))}"

    work.server.script(Reply(400))
    first, *others = work(body)
    assert (first, others) == ("400, text 0 again", TEXTS[1:])
    asked = [arrival.nonce for arrival in work.server.arrivals]
    assert sorted(asked) == sorted([*TEXTS, "text 0 again"])


def test_a_refusal_that_a_task_raises_can_be_sent_as_json(work):
    """Also where Celery tries it again for that, and gives up."""
    work.server.script(*[Reply(400)] * 2)

    def body(self, text):
        return said(self.ask_claude(**typed(text)))

    again = {"countdown": 0, "max_retries": 1}
    options = {"autoretry_for": (anthropic.BadRequestError,), "retry_kwargs": again}
    with pytest.raises(ClaudeRefused) as refused:
        work(body, lambda task: task.delay("text"), **options)
    assert (refused.value.kind, refused.value.status) == ("BadRequestError", 400)
    assert len(work.server.arrivals) == 2


@pytest.mark.parametrize("run", ["apply", "directly"])
def test_a_task_without_a_queue_waits_in_its_place(work, run):
    """Applied eagerly, or called as a function."""
    task = work.task(catches_exceptions)
    found = [task.apply([text]).get() if run == "apply" else task(text) for text in TEXTS]
    assert found == TEXTS


def test_a_worker_that_ends_requeues_nothing(work):
    """SystemExit passes through, whatever turn was asked for: Celery decides what becomes of it."""

    def body(self, text):
        try:
            return self.ask_claude(**typed(text))
        except BaseException:
            raise SystemExit(3) from None

    work.throttler.pause()
    with pytest.raises(SystemExit):
        work(body)
