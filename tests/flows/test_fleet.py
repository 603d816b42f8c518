"""Workers: who they are, what their owners tell them, and which images they get."""

from typing import Any

import pytest

from horde.store import DELETED
from tests.support.cloud import ANONYMOUS, Cloud, Reply, png_base64


@pytest.fixture
def owner(horde: Cloud) -> int:
    return horde.register("owner")[0]


@pytest.fixture
def worker(horde: Cloud, owner: int) -> str:
    return horde.worker_key(owner)


def workers(horde: Cloud, key: str | None = None, **query: str) -> Any:
    answer = horde.call("GET /api/v2/workers", key=key, query=query)
    assert answer.status == 200, answer
    return answer.body


def the_worker(horde: Cloud, name: str = "w1", key: str | None = None) -> Any:
    answer = horde.call("GET /api/v2/workers/name/{name}", name=name, key=key)
    assert answer.status == 200, answer
    return answer.body


def change(horde: Cloud, key: str | None, who: str = "w1", **fields: Any) -> Reply:
    worker_id = the_worker(horde, who)["id"]
    return horde.call("PUT /api/v2/workers/{id}", fields, key=key, id=worker_id)


def set_user(horde: Cloud, user_id: int, **flags: bool) -> None:
    user = horde.store.user(user_id)
    assert user is not None
    assert horde.store.change_user(user, DELETED if flags.get("deleted") else flags)


def test_a_first_pop_registers_a_worker_with_what_it_offers(horde: Cloud, worker: str) -> None:
    assert workers(horde) == []
    horde.pop(worker, bridge_agent="reGen:9:url", threads=2, nsfw=False, allow_lora=True)
    (found,) = workers(horde)
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
        "trusted": False,
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
    assert horde.call("GET /api/v2/workers/{id}", id=found["id"]).body == found
    assert the_worker(horde) == the_worker(horde, "W1") == found


def test_a_worker_is_listed_for_five_minutes_and_found_for_longer(
    horde: Cloud, worker: str
) -> None:
    horde.pop(worker)
    horde.clock.pass_seconds(299)
    assert [found["name"] for found in workers(horde)] == ["w1"]
    horde.clock.pass_seconds(2)
    assert workers(horde) == []
    assert the_worker(horde)["online"] is False
    horde.pop(worker)
    assert [found["name"] for found in workers(horde)] == ["w1"]


def test_the_list_can_be_asked_by_name_and_type(horde: Cloud, worker: str) -> None:
    for name in ("w1", "w2"):
        horde.pop(worker, name=name)
    assert [found["name"] for found in workers(horde)] == ["w1", "w2"]
    assert [found["name"] for found in workers(horde, name="W2")] == ["w2"]
    assert workers(horde, type="text") == []
    assert horde.call("GET /api/v2/workers", query={"type": "video"}).status == 400


def test_a_workers_name_is_its_own_among_all_owners(horde: Cloud, worker: str) -> None:
    horde.pop(worker, name="Painter")
    stranger = horde.worker_key(horde.register("stranger")[0])
    answer = horde.pop(stranger, name="painter")
    assert (answer.status, answer.body["rc"]) == (400, "PolymorphicNameConflict")
    assert horde.pop(worker, name="painter").status == 200  # the same worker
    assert len(workers(horde)) == 1


def test_a_worker_nobody_saw_for_a_month_is_forgotten_and_its_name_free(
    horde: Cloud, worker: str
) -> None:
    horde.pop(worker)
    stranger = horde.worker_key(horde.register("stranger")[0])
    horde.clock.pass_seconds(20 * 86400)
    horde.pop(worker)  # keeps it
    horde.clock.pass_seconds(20 * 86400)
    assert horde.pop(stranger).body["rc"] == "PolymorphicNameConflict"
    horde.clock.pass_seconds(11 * 86400)
    assert horde.call("GET /api/v2/workers/name/{name}", name="w1").status == 404
    assert horde.pop(stranger).status == 200
    assert horde.pop(worker).body["rc"] == "PolymorphicNameConflict"


def test_a_worker_is_written_once_a_minute(
    horde: Cloud, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from horde.store import Store

    seen = []
    real = Store.seen_worker

    def spy(*arguments: Any) -> None:
        seen.append(1)
        real(*arguments)

    monkeypatch.setattr(Store, "seen_worker", spy)
    for _ in range(5):
        horde.pop(worker)
    assert len(seen) == 1
    horde.clock.pass_seconds(60)
    horde.pop(worker)
    assert len(seen) == 2
    assert the_worker(horde)["uptime"] in {60, 61}


def test_who_owns_a_worker_is_for_the_owner_and_moderators(horde: Cloud, worker: str) -> None:
    moderator, key = horde.register("mod")
    horde.pop(worker)
    assert "owner" not in the_worker(horde)
    assert "owner" not in the_worker(horde, key=key)
    assert the_worker(horde, key=worker)["owner"].startswith("owner#")
    set_user(horde, moderator, moderator=True)
    found = the_worker(horde, key=key)
    assert (found["owner"].partition("#")[0], found["paused"]) == ("owner", False)


def test_an_unknown_worker_is_404(horde: Cloud) -> None:
    for worker_id in ("x", "11111111-2222-4333-8444-555555555555"):
        answer = horde.call("GET /api/v2/workers/{id}", id=worker_id)
        assert (answer.status, answer.body["rc"]) == (404, "WorkerNotFound")
    answer = horde.call("GET /api/v2/workers/name/{name}", name="nobody")
    assert (answer.status, answer.body["rc"]) == (404, "WorkerNotFound")


def test_a_worker_in_maintenance_gets_only_its_owners_images(horde: Cloud) -> None:
    user, key = horde.register("owner", kudos=100)
    worker = horde.worker_key(user)
    horde.pop(worker)
    answer = change(horde, key, maintenance=True, maintenance_msg="new fans")
    assert (answer.status, answer.body) == (
        200,
        {"maintenance": True, "maintenance_msg": "new fans"},
    )
    assert the_worker(horde)["maintenance_mode"] is True
    waiting = horde.generate().body["id"]
    refused = horde.pop(worker)
    assert (refused.status, refused.body["rc"]) == (403, "WorkerMaintenance")
    assert "maintenance mode" in refused.body["message"]
    assert "new fans" in refused.body["message"]
    own = horde.generate(key, shared=True).body["id"]
    assert horde.pop(worker).body["id"] in horde.store.request(own).generations  # type: ignore[union-attr]
    assert horde.check(waiting).body["waiting"] == 1
    change(horde, key, maintenance=False)
    assert horde.pop(worker).body["id"]


def test_a_paused_worker_gets_nothing_and_only_moderators_pause(horde: Cloud) -> None:
    user, key = horde.register("owner", kudos=100)
    worker = horde.worker_key(user)
    moderator, mod_key = horde.register("mod")
    horde.pop(worker)
    answer = change(horde, key, paused=True)
    assert (answer.status, answer.body["rc"]) == (403, "NotModerator")
    set_user(horde, moderator, moderator=True)
    assert change(horde, mod_key, paused=True).status == 200
    horde.generate(key)
    refused = horde.pop(worker)
    assert (refused.status, refused.body["rc"]) == (403, "WorkerMaintenance")


def test_only_its_owner_and_moderators_change_a_worker(horde: Cloud, worker: str) -> None:
    horde.pop(worker)
    _, stranger = horde.register("stranger")
    for key in (stranger, ANONYMOUS):
        for answer in (
            change(horde, key, maintenance=True),
            horde.call("DELETE /api/v2/workers/{id}", key=key, id=the_worker(horde)["id"]),
        ):
            assert (answer.status, answer.body["rc"]) == (403, "NotOwner")
    assert change(horde, None, maintenance=True).status == 400
    assert change(horde, "wrong", maintenance=True).status == 401
    answer = change(horde, worker)
    assert (answer.status, answer.body["rc"]) == (400, "NoWorkerModSelected")
    assert change(horde, worker, name="tiny").status == 400
    assert change(horde, worker, info="x" * 1001).status == 400
    assert change(horde, worker, team="11111111-2222-4333-8444-555555555555").status == 400


def test_what_an_owner_said_survives_the_next_pops(horde: Cloud, worker: str) -> None:
    horde.pop(worker)
    change(horde, worker, info="in the attic")
    horde.clock.pass_seconds(61)
    horde.pop(worker, threads=3)
    found = the_worker(horde)
    assert (found["info"], found["threads"]) == ("in the attic", 3)


def test_a_renamed_worker_stays_itself_and_its_old_name_is_free(horde: Cloud, worker: str) -> None:
    horde.pop(worker, name="first")
    horde.pop(worker, name="other")
    old = the_worker(horde, "first")["id"]
    taken = change(horde, worker, "first", name="other")
    assert (taken.status, taken.body["rc"]) == (400, "PolymorphicNameConflict")
    assert change(horde, worker, "first", name="second").body == {"name": "second"}
    horde.pop(worker, name="second")
    assert the_worker(horde, "second")["id"] == old
    assert change(horde, worker, "second", name="SECOND").status == 200
    stranger = horde.worker_key(horde.register("stranger")[0])
    assert horde.pop(stranger, name="first").status == 200


def test_a_deleted_worker_is_gone_and_what_it_holds_is_still_paid(
    horde: Cloud, worker: str
) -> None:
    horde.generate()
    job = horde.pop(worker).body
    old = the_worker(horde)["id"]
    answer = horde.call("DELETE /api/v2/workers/{id}", key=worker, id=old)
    assert (answer.status, answer.body) == (200, {"deleted_id": old, "deleted_name": "w1"})
    assert horde.call("DELETE /api/v2/workers/{id}", key=worker, id=old).status == 404
    assert workers(horde) == []
    horde.upload(job["r2_upload"])
    assert horde.submit(worker, job["id"]).body == {"reward": 7}
    horde.pop(worker)
    assert the_worker(horde)["id"] != old


def test_workers_of_deleted_and_flagged_accounts_get_nothing(
    horde: Cloud, owner: int, worker: str
) -> None:
    horde.generate()
    set_user(horde, owner, flagged=True)
    answer = horde.pop(worker)
    assert (answer.status, answer.body["rc"]) == (403, "WorkerFlaggedMaintenance")
    assert "maintenance mode" in answer.body["message"]
    set_user(horde, owner, deleted=True)
    assert horde.pop(worker).body["rc"] == "DeletedUser"


def test_a_model_whose_only_workers_rest_is_not_on_offer(horde: Cloud, worker: str) -> None:
    horde.pop(worker, models=["rare"])
    change(horde, worker, maintenance=True)
    horde.clock.pass_seconds(301)
    horde.pop(worker, models=["rare"])
    request = horde.generate(models=["rare"]).body["id"]
    assert horde.check(request).body["is_possible"] is False


def test_a_worker_serves_its_owner_first_and_then_whom_it_names(horde: Cloud) -> None:
    user, key = horde.register("owner", kudos=20)
    friend, friends_key = horde.register("friend", kudos=20)
    _, rich = horde.register("rich", kudos=1000)
    worker = horde.worker_key(user)
    wanted = [
        horde.generate(rich, prompt="rich", params={"steps": 8}),
        horde.generate(friends_key, prompt="friend", params={"steps": 8}),
        horde.generate(key, prompt="own", params={"steps": 8}),
    ]
    assert {answer.status for answer in wanted} == {202}
    names = [f"friend#{friend}", "anyone#0"]
    drawn = [
        horde.pop(worker, priority_usernames=names).body["payload"]["prompt"] for _ in range(3)
    ]
    assert drawn == ["own", "friend", "rich"]
    for bad in ("friend", "friend#x", "friend#" + "9" * 400):
        answer = horde.pop(worker, priority_usernames=[bad])
        assert (answer.status, answer.body["rc"]) == (400, "InvalidPriorityUsername")


def test_an_owners_images_are_drawn_only_where_they_fit(horde: Cloud) -> None:
    user, key = horde.register("owner", kudos=1000)
    worker = horde.worker_key(user)
    horde.generate(key, models=["SDXL 1.0"])
    horde.generate(key, params={"width": 1024, "height": 1024})
    assert horde.pop(worker, max_pixels=512 * 512).body["skipped"] == {"max_pixels": 1}


def test_a_blacklisted_word_is_skipped_and_counted(horde: Cloud, worker: str) -> None:
    horde.generate(prompt="a Spider on a wall")
    horde.generate(prompt="a wall###spider")
    job = horde.pop(worker, blacklist=["SPIDER", " "]).body
    assert job["payload"]["prompt"] == "a wall###spider"
    assert job["skipped"] == {"blacklist": 1}
    assert horde.pop(worker, blacklist=["spider"]).body["skipped"] == {"blacklist": 1}
    assert horde.pop(worker).body["id"]


@pytest.mark.parametrize(
    ("wish", "wants", "reason"),
    [
        (
            {"params": {"sampler_name": "k_heun", "steps": 30}},
            {"limit_max_steps": True},
            "step_count",
        ),
        ({}, {"extra_slow_worker": True}, "performance"),
        ({"trusted_workers": True}, {}, "untrusted"),
    ],
)
def test_a_worker_is_not_given_what_it_may_not_or_will_not_draw(
    horde: Cloud, worker: str, wish: dict[str, Any], wants: dict[str, Any], reason: str
) -> None:
    _, key = horde.register(kudos=1000)
    assert horde.generate(key, **wish).status == 202
    assert horde.pop(worker, **wants).body["skipped"] == {reason: 1}


def test_a_trusted_owners_worker_draws_for_those_who_want_one(
    horde: Cloud, owner: int, worker: str
) -> None:
    horde.generate(trusted_workers=True)
    set_user(horde, owner, trusted=True)
    assert horde.pop(worker).body["id"]


def test_a_patient_request_goes_to_an_extra_slow_worker(horde: Cloud, worker: str) -> None:
    horde.generate(extra_slow_workers=True)
    assert horde.pop(worker, extra_slow_worker=True).body["id"]


def test_image_to_image_is_no_painting(horde: Cloud, worker: str) -> None:
    horde.generate(source_image=png_base64())
    assert horde.pop(worker, allow_painting=False).body["id"]
