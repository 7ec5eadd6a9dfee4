"""How much of each lane a process may take."""

from cdc.runtime.settings import Settings
from consumers.lanes import Bucket, Lane, Lanes, of, owners, rates


def services() -> Lanes:
    return Lanes([Lane("service:a", 2), Lane("service:b", 3, rate=10.0)], workers=5, ahead=0, now_s=0.0)


def mail() -> Lanes:
    return Lanes([Lane("mail:welcome", 16), Lane("mail:verify", 16)], workers=8, ahead=8, now_s=0.0)


def test_a_lane_that_hangs_leaves_the_others_room() -> None:
    busy = ["service:a", "service:a"]
    assert services().room(busy, 1.0) == {"service:b": 2}
    assert services().most(len(busy)) == 3


def test_a_rate_is_kept_over_time() -> None:
    lanes, taken, now_s = services(), 0, 0.0
    while now_s < 10:
        free = lanes.room([], now_s).get("service:b", 0)
        lanes.took(["service:b"] * free)
        taken += free
        now_s += 0.01
    assert 98 <= taken <= 102


def test_tokens_are_not_saved_up() -> None:
    bucket = Bucket(100.0, now_s=0.0)
    assert bucket.tokens(now_s=3600.0) == 11
    bucket.take(11)
    assert bucket.tokens(3600.0) == 0
    assert bucket.next_s == 0.01


def test_a_slow_rate_gives_its_one_token_in_time() -> None:
    bucket = Bucket(0.5, now_s=0.0)
    bucket.take(1)
    assert (bucket.tokens(1.8), bucket.tokens(2.0)) == (0, 1)


def test_mails_are_taken_ahead_and_many_at_a_time() -> None:
    assert mail().most(0) == 16
    assert mail().most(8) == 8
    assert mail().most(9) == 0


def test_a_waiting_lane_says_when_to_look_again() -> None:
    lanes = services()
    assert lanes.next_s() == 1.0
    assert lanes.room([], 0.0)["service:b"] == 2
    lanes.took(["service:b", "service:b"])
    assert lanes.next_s() == 0.1


def settings() -> Settings:
    return Settings.model_validate(
        {
            "source": {"name": "app", "dsn": "", "tables": [{"name": "users"}]},
            "kafka": {"bootstrap_servers": "127.0.0.1:1"},
            "user": {"plan": "plan"},
            "smtp": {"host": "127.0.0.1", "sender": "a@example.org", "connections": 3},
            "plans": {"free": ["a"]},
            "services": {"a": {"url": "https://a.example", "secret": "whsec_" + "a" * 32, "connections": 2}},
            "rules": [
                {"name": "welcome", "on": "created", "mail": "welcome"},
                {"name": "bulk", "on": "created", "mail": "welcome", "consumer": "crm"},
                {"name": "plans", "on": "created", "services": "plans"},
                {"name": "tell", "on": "created", "target": "crm:tell", "consumer": "crm"},
                {"name": "write", "on": "created", "target": "topic:crm", "consumer": "crm"},
            ],
        }
    )


def test_each_lane_belongs_to_one_consumer() -> None:
    assert owners(settings()) == {
        "mail:bulk": "crm",
        "function:tell": "crm",
        "topic:write": "crm",
        "crm:(undecodable)": "crm",
        "mail:welcome": "mail",
        "mail:(undecodable)": "mail",
        "service:a": "services",
        "service:(plans)": "services",
        "services:(undecodable)": "services",
    }


def test_a_consumer_has_a_worker_for_each_connection_of_its_lanes_and_prepares_some_mails_more() -> None:
    assert [of(settings(), consumer, 0.0).workers for consumer in ("mail", "services", "crm")] == [5, 3, 13]
    rooms = {"mail:bulk": 10, "function:tell": 4, "topic:write": 4, "crm:(undecodable)": 1}
    assert of(settings(), "crm", 0.0).room([], 0.0) == rooms


def test_a_lane_has_the_rate_of_its_service_or_of_the_relay() -> None:
    given = settings()
    assert given.smtp
    assert rates(given) == {}
    slow = given.services["a"].model_copy(update={"rate": 5.0})
    relay = given.smtp.model_copy(update={"rate": 14.0})
    limited = given.model_copy(update={"smtp": relay, "services": {"a": slow}})
    assert rates(limited) == {"service:a": 5.0, "mail:welcome": 14.0, "mail:bulk": 14.0}
