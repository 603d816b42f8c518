"""Workers: who they are, what their owners tell them, and which images they get."""

import json
from typing import Any

import pytest

from horde.store.workers import Workers
from tests.support.api_calls import ANONYMOUS, UNKNOWN, Reply
from tests.support.cloud import Cloud
from tests.support.images import png_base64
from tests.support.numbers import FLOOR, MAX_STEPS, REWARD, SMALL


def workers(cloud: Cloud, key: str | None = None, **query: str) -> Any:
    answer = cloud.call("GET /api/v2/workers", key=key, query=query)
    assert answer.status == 200, answer
    return answer.body


def change(cloud: Cloud, key: str | None, who: str = "w1", **fields: Any) -> Reply:
    worker_id = cloud.worker_named(who)["id"]
    return cloud.call("PUT /api/v2/workers/{id}", fields, key=key, id=worker_id)


def test_a_first_pop_registers_a_worker_with_what_it_offers(cloud: Cloud, worker: str) -> None:
    assert workers(cloud) == []
    cloud.pop(worker, bridge_agent="reGen:9:url", threads=2, nsfw=False, allow_lora=True)
    (found,) = workers(cloud)
    assert found == {
        "type": "image",
        "name": "w1",
        "id": found["id"],
        "online": True,
        "requests_fulfilled": 0,
        "kudos_rewards": 0,
        "kudos_details": {"generated": 0, "uptime": 0},
        "performance": "No requests fulfilled yet",
        "threads": 2,
        "uptime": 0,
        "maintenance_mode": False,
        "nsfw": False,
        "trusted": True,
        "flagged": False,
        "uncompleted_jobs": 0,
        "models": ["stable_diffusion"],
        "team": {},
        "bridge_agent": "reGen:9:url",
        "max_pixels": 4194304,
        "megapixelsteps_generated": 0.0,
        "img2img": True,
        "painting": True,
        "post-processing": True,
        "lora": True,
        "controlnet": False,
        "sdxl_controlnet": False,
    }
    assert cloud.call("GET /api/v2/workers/{id}", id=found["id"]).body == found
    assert cloud.worker_named() == cloud.worker_named("W1") == found


def test_a_worker_is_listed_for_five_minutes_and_found_for_longer(
    cloud: Cloud, worker: str
) -> None:
    cloud.pop(worker)
    cloud.clock.pass_seconds(299)
    assert [found["name"] for found in workers(cloud)] == ["w1"]
    cloud.clock.pass_seconds(2)
    assert workers(cloud) == []
    assert cloud.worker_named()["online"] is False
    cloud.pop(worker)
    assert [found["name"] for found in workers(cloud)] == ["w1"]


def test_the_list_can_be_asked_by_name_and_type(cloud: Cloud, worker: str) -> None:
    for name in ("w1", "w2"):
        cloud.pop(worker, name=name)
    assert [found["name"] for found in workers(cloud)] == ["w1", "w2"]
    assert [found["name"] for found in workers(cloud, name="W2")] == ["w2"]
    assert workers(cloud, type="text") == []
    assert cloud.call("GET /api/v2/workers", query={"type": "video"}).status == 400


def test_a_workers_name_is_its_own_among_all_owners(cloud: Cloud, worker: str) -> None:
    cloud.pop(worker, name="Painter")
    stranger = cloud.new_worker("stranger")
    answer = cloud.pop(stranger, name="painter")
    assert (answer.status, answer.body["rc"]) == (400, "PolymorphicNameConflict")
    assert cloud.pop(worker, name="painter").status == 200  # the same worker
    assert len(workers(cloud)) == 1


def test_a_worker_nobody_saw_for_a_month_is_forgotten_and_its_name_free(
    cloud: Cloud, worker: str
) -> None:
    cloud.pop(worker)
    stranger = cloud.new_worker("stranger")
    cloud.clock.pass_seconds(20 * 86400)
    cloud.pop(worker)  # keeps it
    cloud.clock.pass_seconds(20 * 86400)
    assert cloud.pop(stranger).body["rc"] == "PolymorphicNameConflict"
    cloud.clock.pass_seconds(11 * 86400)
    assert cloud.call("GET /api/v2/workers/name/{name}", name="w1").status == 404
    assert cloud.pop(stranger).status == 200
    assert cloud.pop(worker).body["rc"] == "PolymorphicNameConflict"


def test_a_worker_is_written_once_a_minute(
    cloud: Cloud, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:

    seen = []
    real = Workers.seen

    def spy(*arguments: Any) -> None:
        seen.append(1)
        real(*arguments)

    monkeypatch.setattr(Workers, "seen", spy)
    for _ in range(5):
        cloud.pop(worker)
    assert len(seen) == 1
    cloud.clock.pass_seconds(60)
    cloud.pop(worker)
    assert len(seen) == 2
    assert cloud.worker_named()["uptime"] == 60


def test_who_owns_a_worker_is_for_the_owner_and_moderators(
    cloud: Cloud, worker: str, owner_key: str
) -> None:
    moderator, key = cloud.register("mod")
    cloud.pop(worker)
    assert "owner" not in cloud.worker_named()
    assert "owner" not in cloud.worker_named(key=key)
    assert cloud.worker_named(key=owner_key)["owner"].startswith("owner#")
    cloud.set_flags(moderator, moderator=True)
    found = cloud.worker_named(key=key)
    assert (found["owner"].partition("#")[0], found["paused"]) == ("owner", False)


def test_an_unknown_worker_is_404(cloud: Cloud) -> None:
    for worker_id in ("x", UNKNOWN):
        answer = cloud.call("GET /api/v2/workers/{id}", id=worker_id)
        assert (answer.status, answer.body["rc"]) == (404, "WorkerNotFound")
    answer = cloud.call("GET /api/v2/workers/name/{name}", name="nobody")
    assert (answer.status, answer.body["rc"]) == (404, "WorkerNotFound")


def test_a_worker_in_maintenance_gets_only_its_owners_images(cloud: Cloud) -> None:
    user, key = cloud.register("owner", kudos=100)
    worker = cloud.worker_key(user)
    cloud.pop(worker)
    answer = change(cloud, key, maintenance=True, maintenance_msg="new fans")
    assert (answer.status, answer.body) == (
        200,
        {"maintenance": True, "maintenance_msg": "new fans"},
    )
    assert cloud.worker_named()["maintenance_mode"] is True
    waiting = cloud.generate().body["id"]
    refused = cloud.pop(worker)
    assert (refused.status, refused.body["rc"]) == (403, "WorkerMaintenance")
    assert "maintenance mode" in refused.body["message"]
    assert "new fans" in refused.body["message"]
    own = cloud.generate(key, shared=True).body["id"]
    assert cloud.pop(worker).body["id"] in cloud.store.requests.get(own).generations  # type: ignore[union-attr]
    assert cloud.check(waiting).body["waiting"] == 1
    change(cloud, key, maintenance=False)
    assert cloud.pop(worker).body["id"]


def test_a_paused_worker_gets_nothing_and_only_moderators_pause(cloud: Cloud) -> None:
    user, key = cloud.register("owner", kudos=100)
    worker = cloud.worker_key(user)
    moderator, mod_key = cloud.register("mod")
    cloud.pop(worker)
    answer = change(cloud, key, paused=True)
    assert (answer.status, answer.body["rc"]) == (403, "NotModerator")
    cloud.set_flags(moderator, moderator=True)
    assert change(cloud, mod_key, paused=True).status == 200
    cloud.generate(key)
    refused = cloud.pop(worker)
    assert (refused.status, refused.body["rc"]) == (403, "WorkerMaintenance")


def test_only_its_owner_and_moderators_change_a_worker(
    cloud: Cloud, worker: str, owner_key: str
) -> None:
    cloud.pop(worker)
    _, stranger = cloud.register("stranger")
    for key in (stranger, ANONYMOUS):
        for answer in (
            change(cloud, key, maintenance=True),
            cloud.call("DELETE /api/v2/workers/{id}", key=key, id=cloud.worker_named()["id"]),
        ):
            assert (answer.status, answer.body["rc"]) == (403, "NotOwner")
    assert change(cloud, None, maintenance=True).status == 400
    assert change(cloud, "wrong", maintenance=True).status == 401
    answer = change(cloud, owner_key)
    assert (answer.status, answer.body["rc"]) == (400, "NoWorkerModSelected")
    assert change(cloud, owner_key, name="tiny").status == 400
    assert change(cloud, owner_key, info="x" * 1001).status == 400
    assert change(cloud, owner_key, team=UNKNOWN).status == 400


def test_what_an_owner_said_survives_the_next_pops(
    cloud: Cloud, worker: str, owner_key: str
) -> None:
    cloud.pop(worker)
    change(cloud, owner_key, info="in the attic")
    cloud.clock.pass_seconds(61)
    cloud.pop(worker, threads=3)
    found = cloud.worker_named()
    assert (found["info"], found["threads"]) == ("in the attic", 3)


def test_a_renamed_worker_stays_itself_and_its_old_name_is_free(
    cloud: Cloud, worker: str, owner_key: str
) -> None:
    cloud.pop(worker, name="first")
    cloud.pop(worker, name="other")
    old = cloud.worker_named("first")["id"]
    taken = change(cloud, owner_key, "first", name="other")
    assert (taken.status, taken.body["rc"]) == (400, "PolymorphicNameConflict")
    assert change(cloud, owner_key, "first", name="second").body == {"name": "second"}
    cloud.pop(worker, name="second")
    assert cloud.worker_named("second")["id"] == old
    assert change(cloud, owner_key, "second", name="SECOND").status == 200
    stranger = cloud.new_worker("stranger")
    assert cloud.pop(stranger, name="first").status == 200


@pytest.mark.parametrize("name", ["second", "FIRST"])
def test_a_worker_is_renamed_and_changed_in_one_write_or_not_at_all(
    cloud: Cloud, worker: str, owner_key: str, name: str
) -> None:
    for taken in ("first", "taken"):
        cloud.pop(worker, name=taken)
    refused = change(cloud, owner_key, "first", name="taken", info="new")
    assert (refused.status, "info" in cloud.worker_named("first")) == (400, False)
    assert change(cloud, owner_key, "first", name=name, info="new", maintenance=True).status == 200
    found = cloud.worker_named(name)
    assert (found["info"], found["maintenance_mode"]) == ("new", True)


def test_a_deleted_worker_is_gone_and_what_it_holds_is_still_paid(
    cloud: Cloud, owner: int, worker: str, owner_key: str
) -> None:
    """Only the operator may delete a worker that holds images."""
    cloud.set_flags(owner, fleet=True)
    cloud.generate()
    job = cloud.pop(worker).body
    old = cloud.worker_named()["id"]
    answer = cloud.call("DELETE /api/v2/workers/{id}", key=owner_key, id=old)
    assert (answer.status, answer.body) == (200, {"deleted_id": old, "deleted_name": "w1"})
    assert cloud.call("DELETE /api/v2/workers/{id}", key=owner_key, id=old).status == 404
    assert workers(cloud) == []
    cloud.upload(job["r2_upload"])
    assert cloud.submit(worker, job["id"]).body == {"reward": REWARD}
    cloud.pop(worker)
    assert cloud.worker_named()["id"] != old


def test_workers_of_deleted_and_flagged_accounts_get_nothing(
    cloud: Cloud, owner: int, worker: str
) -> None:
    cloud.generate()
    cloud.set_flags(owner, flagged=True)
    answer = cloud.pop(worker)
    assert (answer.status, answer.body["rc"]) == (403, "WorkerFlaggedMaintenance")
    assert "maintenance mode" in answer.body["message"]
    cloud.set_flags(owner, deleted=True)
    assert cloud.pop(worker).body["rc"] == "DeletedUser"


def test_a_model_whose_only_workers_rest_is_not_on_offer(
    cloud: Cloud, worker: str, owner_key: str
) -> None:
    cloud.pop(worker, models=["rare"])
    change(cloud, owner_key, maintenance=True)
    cloud.clock.pass_seconds(301)
    cloud.pop(worker, models=["rare"])
    request = cloud.generate(owner_key, models=["rare"]).body["id"]
    assert cloud.check(request).body["is_possible"] is False


def test_a_worker_serves_its_owner_first_and_then_whom_it_names(cloud: Cloud) -> None:
    user, key = cloud.register("owner", kudos=20)
    friend, friends_key = cloud.register("friend", kudos=20)
    _, rich = cloud.register("rich", kudos=1000)
    worker = cloud.worker_key(user)
    asked = [
        cloud.generate(rich, prompt="rich", params={"steps": 8}),
        cloud.generate(friends_key, prompt="friend", params={"steps": 8}),
        cloud.generate(key, prompt="own", params={"steps": 8}),
    ]
    assert {answer.status for answer in asked} == {202}
    names = [f"friend#{friend}", "anyone#0"]
    drawn = [
        cloud.pop(worker, priority_usernames=names).body["payload"]["prompt"] for _ in range(3)
    ]
    assert drawn == ["own", "friend", "rich"]
    for bad in ("friend", "friend#x", "friend#" + "9" * 40):
        answer = cloud.pop(worker, priority_usernames=[bad])
        assert (answer.status, answer.body["rc"]) == (400, "InvalidPriorityUsername")


def test_an_owners_images_are_drawn_only_where_they_fit(cloud: Cloud) -> None:
    user, key = cloud.register("owner", kudos=1000)
    worker = cloud.worker_key(user)
    cloud.generate(key, models=["SDXL 1.0"])
    cloud.generate(key, params={"width": 1024, "height": 1024})
    assert cloud.pop(worker, max_pixels=512 * 512).body["skipped"] == {"max_pixels": 1}


def test_a_blacklisted_word_is_skipped_and_counted(cloud: Cloud, worker: str) -> None:
    cloud.generate(prompt="a Spider on a wall")
    cloud.generate(prompt="a wall###spider")
    job = cloud.pop(worker, blacklist=["SPIDER", " "]).body
    assert job["payload"]["prompt"] == "a wall###spider"
    assert job["skipped"] == {"blacklist": 1}
    assert cloud.pop(worker, blacklist=["spider"]).body["skipped"] == {"blacklist": 1}
    assert cloud.pop(worker).body["id"]


@pytest.mark.parametrize(
    ("fields", "offer", "reason"),
    [
        (
            {"params": {"sampler_name": "k_heun", "steps": MAX_STEPS // 2 + 1}},
            {"limit_max_steps": True},
            "step_count",
        ),
        ({}, {"extra_slow_worker": True}, "performance"),
        ({"trusted_workers": True}, {}, "untrusted"),
    ],
)
def test_a_worker_is_not_given_what_it_may_not_or_will_not_draw(
    cloud: Cloud,
    owner: int,
    worker: str,
    fields: dict[str, Any],
    offer: dict[str, Any],
    reason: str,
) -> None:
    cloud.set_flags(owner, trusted=False)
    _, key = cloud.register(kudos=1000)
    assert cloud.generate(key, **fields).status == 202
    assert cloud.pop(worker, **offer).body["skipped"] == {reason: 1}


def test_a_trusted_owners_worker_draws_for_those_who_want_one(
    cloud: Cloud, owner: int, worker: str
) -> None:
    cloud.generate(trusted_workers=True)
    cloud.set_flags(owner, trusted=True)
    assert cloud.pop(worker).body["id"]


def test_a_request_that_takes_extra_slow_workers_goes_to_an_extra_slow_worker(
    cloud: Cloud, worker: str
) -> None:
    cloud.generate(extra_slow_workers=True)
    assert cloud.pop(worker, extra_slow_worker=True).body["id"]


def test_image_to_image_does_not_count_as_painting(cloud: Cloud, worker: str) -> None:
    cloud.generate(source_image=png_base64())
    assert cloud.pop(worker, allow_painting=False).body["id"]


# --- what a worker wants to be paid for, and how long it draws ------------------------------------


def test_a_worker_that_requires_kudos_upfront_gets_only_what_was_paid_in_full(
    cloud: Cloud, worker: str
) -> None:
    user, key = cloud.register("rich", kudos=1000)
    poor, other = cloud.register("poor", kudos=1)
    cloud.generate(params=SMALL)
    cloud.generate(other, params=SMALL)
    assert cloud.kudos(poor) == FLOOR  # the rest was waived
    assert cloud.pop(worker, require_upfront_kudos=True).body["skipped"] == {"kudos": 2}
    paid = cloud.generate(key, params=SMALL).body["id"]
    assert cloud.pop(worker, require_upfront_kudos=True).body["id"]
    assert cloud.check(paid).body["processing"] == 1
    assert cloud.pop(worker, require_upfront_kudos=True).body["id"] is None
    assert cloud.pop(worker).body["id"]
    assert cloud.kudos(user) < FLOOR + 1000


def test_all_images_of_a_waived_request_are_unpaid_in_the_queues_of_all_its_models(
    cloud: Cloud, worker: str
) -> None:
    _, key = cloud.register("poor", kudos=1)
    asked = cloud.generate(key, params={**SMALL, "n": 2}, models=["a", "b"])
    assert asked.status == 202
    for model in ("a", "b"):
        popped = cloud.pop(worker, models=[model], require_upfront_kudos=True)
        assert popped.body["skipped"] == {"kudos": 2}
    assert cloud.pop(worker, models=["b"]).body["model"] == "b"


def test_it_is_possible_only_if_a_worker_takes_what_was_not_paid_in_full(
    cloud: Cloud, worker: str
) -> None:
    cloud.overrides["MODELS"] = '{"stable_diffusion": {"endpoint": null}}'
    _, rich = cloud.register("rich", kudos=1000)
    _, poor = cloud.register("poor", kudos=1)
    cloud.pop(worker, require_upfront_kudos=True)
    cloud.sweep()
    cloud.clock.pass_seconds(10)
    found = [cloud.generate(key, params=SMALL).body for key in (rich, poor)]
    assert [cloud.check(one["id"]).body["is_possible"] for one in found] == [True, False]
    assert ["warnings" in one for one in found] == [False, True]


@pytest.mark.lengthy
def test_the_usual_steps_of_a_worker_are_those_of_its_model(cloud: Cloud, worker: str) -> None:
    cloud.overrides["MODELS"] = json.dumps(
        {"turbo": {"max_steps": 8}, "slow": {"max_steps": MAX_STEPS + 10}, "usual": {}}
    )
    _, key = cloud.register("rich", kudos=10_000)
    for models, most in (
        (["turbo"], 8),
        (["slow"], MAX_STEPS + 10),
        (["usual"], MAX_STEPS),
        (["slow", "turbo"], 8),
    ):
        for steps in (most, most + 1):
            params = {**SMALL, "steps": steps, "sampler_name": "k_euler"}
            request = cloud.generate(key, params=params, models=models).body["id"]
            popped = cloud.pop(worker, models=models, limit_max_steps=True)
            assert (popped.body["id"] is None) is (steps > most)
            assert steps == most or "step_count" in popped.body["skipped"]
            cloud.cancel(request)


@pytest.mark.parametrize("allowed", [True, False])
def test_this_horde_has_no_unsafe_addresses_to_allow_or_refuse(
    cloud: Cloud, worker: str, *, allowed: bool
) -> None:
    cloud.generate(params=SMALL)
    assert cloud.pop(worker, allow_unsafe_ipaddr=allowed).body["id"]
