"""Horde Commons in one stack, in the order of the diagram in the README."""

from aws_cdk import Stack, StackProps
from constructs import Construct

from infra import parts
from infra.contract import HELD_DAYS
from infra.settings import StackSettings


class HordeCommonsStack(Stack):
    """API, rules, ledger, queue, and the way of a shared image to the LAION bucket."""

    def __init__(
        self, scope: Construct, name: str, *, settings: StackSettings, props: StackProps
    ) -> None:
        super().__init__(scope, name, **props._values)  # noqa: SLF001 - jsii's own way to unpack
        alarms = parts.Alarms(self, "Alarms", email=settings.alarm_email)

        # The table, the buckets and the queue.
        table = parts.HordeTable(self, "Horde")
        uploads = parts.WorkQueue(self, "Uploads", "a file is not shared", tries=24, alarms=alarms)
        outputs = parts.outputs_bucket(self, "Outputs", announce=uploads)
        sources = parts.private_bucket(self, "Sources", days=1)
        laion = parts.LaionBucket(self, "Laion", settings)
        hashes = parts.HashSecret(self, "Hashes")

        # The parts of the functions' environments.
        api_env, table_env = parts.api_env(settings), {"TABLE_NAME": table.table.table_name}
        models_env, worker_env = parts.models_env(settings), parts.worker_env(settings)
        outputs_env = {"OUTPUTS_BUCKET": outputs.bucket_name}
        sources_env = {"SOURCES_BUCKET": sources.bucket_name}
        runpod_env = (table_env, models_env, parts.runpod_env(settings))
        allowance_env = {"MONTHLY_KUDOS": str(settings.monthly_kudos)}
        env = (api_env, table_env)

        make = parts.Functions(self, "Functions", settings, table=table).make
        api = parts.Api(self, "Api", alarms=alarms)

        # client -> API -> generate: validate, price, tax, decide what is shared, charge.
        charging = (*env, models_env, sources_env, allowance_env, hashes.env)
        generate = make("generate", *charging, memory=768, may=parts.ACCEPT)
        api.route(generate, "generate")
        sources.grant_put(generate)

        # (enqueue ->) dispatch -> RunPod: tickets; (enqueue ->) webhook -> a client's own server.
        dead = parts.DeadLetters(self, "TicketsDead", "RunPod refuses tickets", alarms=alarms)
        dispatch = make("dispatch", *runpod_env, seconds=30, memory=256, may=parts.COUNT)
        parts.allow_secret(dispatch, settings.runpod_key_parameter)
        tickets = parts.HandOver(dispatch, tries=3, dead=dead)
        dead = parts.DeadLetters(self, "WebhooksDead", "a client's webhook fails", alarms=alarms)
        webhook = make("webhook", table_env, outputs_env, seconds=10, may=parts.READ_ITEM)
        parts.allow_downloads(webhook, outputs)
        webhooks = parts.HandOver(webhook, tries=3, dead=dead)

        # table's stream -> enqueue -> dispatch, webhook, or the queue of share.
        dead = parts.DeadLetters(self, "NotEnqueued", "a stream record is lost", alarms=alarms)
        enqueue = make("enqueue", tickets.env, webhooks.env, uploads.env, seconds=60)
        table.feed_outbox(enqueue, dead=dead)
        parts.allow_handing(enqueue, tickets, webhooks)
        parts.allow_sending(enqueue, uploads)

        # table's stream -> payouts: post rewards, count statistics.
        dead = parts.DeadLetters(self, "NotCounted", "an event was not counted", alarms=alarms)
        payouts = make("payouts", table_env, seconds=30, may=parts.PAY)
        table.feed_payouts(payouts, dead=dead)

        # gpu_worker -> worker: pop claims the best waiting images, submit settles them.
        worker = make("worker", *env, outputs_env, sources_env, worker_env, may=parts.SETTLE)
        api.route(worker, "worker")
        parts.allow_submits(worker, outputs)
        sources.grant_read(worker, "*.webp")

        # client -> status: check, status, cancel.
        status = make("status", *env, models_env, outputs_env, may=parts.SETTLE)
        api.route(status, "status")
        parts.allow_downloads(status, outputs)

        # client -> users, keys, styles; transfer: kudos, shared keys; withdraw: shared images.
        users = make("users", *env, allowance_env, hashes.env, may=parts.READ_WRITE)
        api.route(users, "users")
        api.route(make("keys", *env, may=parts.MANAGE_LISTS), "keys")
        api.route(make("styles", *env, may=parts.MANAGE_LISTS), "styles")
        api.route(make("transfer", *env, may=parts.MANAGE), "transfer")
        withdraw = make("withdraw", *env, hashes.env, may=parts.WITHDRAW)
        api.route(withdraw, "withdraw")

        # client -> browse: what there is; manage: what owners and admins change; rate: ratings.
        api.route(make("browse", *env, models_env, may=parts.READ), "browse")
        api.route(make("manage", *env, may=parts.MANAGE), "manage")
        ratings = parts.RatingsPart(self, make, api, *env)

        # client -> about: the API's description, documents, and every unknown route.
        api.route(make("about", api_env, {"CONTACT": settings.contact}), "about")

        # outputs bucket -> SQS -> share -> LAION bucket: only what was delivered and is shared.
        held = parts.private_bucket(self, "Held", days=HELD_DAYS)
        sharing = (table_env, outputs_env, uploads.env, laion.env, hashes.env, models_env)
        holding = parts.holding_env(settings, held)
        share = make("share", *sharing, holding, seconds=30, may=parts.PUBLISH)
        uploads.drain_into(share, batch=5)
        parts.allow_sharing(share, outputs, held)
        laion.allow(share)
        hashes.allow(generate, users, withdraw, share)
        alarms.on_line("CsamMarked", "csam marked", "a worker marked an image as CSAM", share)

        # every minute -> sweep (-> finish): expired leases, ended requests, lost tickets.
        dead = parts.DeadLetters(self, "NotSwept", "sweep or finish failed", alarms=alarms)
        sweep_env, ending_env = parts.sweep_env(settings), {**table_env, **sources_env}
        finish = make("finish", ending_env, seconds=55, may=parts.SETTLE)
        sources.grant_delete(finish)
        due = parts.HandOver(finish, tries=1, dead=dead)
        sweeping = (ending_env, *runpod_env, uploads.env, due.env, sweep_env)
        sweep = make("sweep", *sweeping, seconds=55, may=parts.SETTLE)
        parts.run_every_minute(sweep, dead=dead)
        parts.allow_sending(sweep, uploads)
        parts.allow_handing(sweep, due)
        parts.allow_secret(sweep, settings.runpod_key_parameter)
        sources.grant_delete(sweep)
        alarms.on_fleet(worker, sweep)

        # every hour -> recover -> the queue of share: shared images whose copy was lost.
        lost = make("recover", table_env, outputs_env, uploads.env, seconds=840, may=parts.RECOVER)
        parts.recover_hourly(lost, outputs, uploads, dead=dead)

        # every day -> Step Functions -> release, screen, pack: the next release of the data set.
        places = parts.Places(laion, held, hashes, ratings, dead)
        parts.Releases(self, "Releases", settings, make, table_env, places, alarms)

        parts.show(self, api, table, laion, Outputs=outputs, Held=held, Gallery=ratings.bucket)
