"""H42: whoever is asked to stop finishes what it began, leaves the rest to others, and is gone in time."""

from testsupport.durable import scenarios
from testsupport.durable.harness import World
from testsupport.waiting import eventually


def test_h42_processes_stopped_at_random_under_load_drain_in_time_and_lose_nothing(
    world: World,
) -> None:
    scenarios.terminated_at_random(world, times=30)


def test_h42_a_second_request_to_stop_is_obeyed_at_once_and_what_ran_is_run_again(world: World) -> None:
    consumer = world.consumer(pace=scenarios.QUICK)
    world.producer([("k", "sleep:4"), ("k", "")])
    eventually(lambda: world.facts("called"), what="the listener runs")
    consumer.terminate()
    eventually(lambda: "stopping" in consumer.said())
    assert consumer.alive, "it waits for its listener"

    consumer.terminate()

    assert consumer.ended() == 1
    assert world.applied() == 0, "it did not wait any longer"
    world.consumer(pace=scenarios.QUICK)
    world.converges()
    assert [fact["no"] for fact in world.facts("called")] == [1, 1, 2]
