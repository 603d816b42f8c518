"""Horde Commons in one stack, in the order of the diagram in the README."""

from aws_cdk import Stack, StackProps
from constructs import Construct

from infra import parts
from infra.contract import FLEET_DROP, HELD_DAYS
from infra.settings import StackSettings


class HordeCommonsStack(Stack):
    """API, rules, ledger, queue, and the way of a shared image to the LAION bucket."""

    def __init__(
        self, scope: Construct, name: str, *, settings: StackSettings, props: StackProps
    ) -> None:
        super().__init__(scope, name, **props._values)  # noqa: SLF001 - jsii's own way to unpack
        alarms = parts.Alarms(self, "Alarms", email=settings.alarm_email)

        # The table, the buckets and the queues.
        table = parts.HordeTable(self, "Horde")
        outputs = parts.private_bucket(self, "Outputs", days=1)
        sources = parts.private_bucket(self, "Sources", days=1)
        laion = parts.open_data_bucket(self, "Laion", existing=settings.laion_bucket)
        hashes = parts.HashSecret(self, "Hashes")
        tickets = parts.WorkQueue(self, "Tickets", minutes=3, tries=5, alarms=alarms)
        uploads = parts.WorkQueue(self, "Uploads", minutes=3, tries=24, alarms=alarms)
        webhooks = parts.WorkQueue(self, "Webhooks", minutes=1, tries=3, alarms=alarms)
        due = parts.WorkQueue(self, "Due", minutes=6, tries=2, alarms=alarms)

        # The parts of the functions' environments.
        api_env = parts.api_env(settings)
        table_env = {"TABLE_NAME": table.table.table_name}
        models_env = parts.models_env(settings)
        outputs_env = {"OUTPUTS_BUCKET": outputs.bucket_name}
        sources_env = {"SOURCES_BUCKET": sources.bucket_name}
        laion_env = parts.publishing_env(laion, settings.laion_role)
        runpod_env = parts.runpod_env(settings)
        allowance_env = {"MONTHLY_KUDOS": str(settings.monthly_kudos)}
        env = (api_env, table_env)

        make = parts.Functions(self, "Functions", settings, alarms=alarms, table=table).make
        api = parts.Api(self, "Api", alarms=alarms)

        # client -> API -> generate: validate, price, tax, decide what is shared, charge.
        charging = (*env, models_env, sources_env, allowance_env, hashes.env)
        generate = make("generate", *charging, memory=1024, may=parts.ACCEPT)
        api.route(generate, "generate")
        sources.grant_put(generate)

        # table's stream -> enqueue -> SQS -> dispatch -> RunPod: tickets that carry demand.
        not_enqueued = parts.DeadLetters(self, "NotEnqueued", alarms=alarms)
        enqueue = make("enqueue", tickets.env, webhooks.env, uploads.env, seconds=30)
        table.feed_outbox(enqueue, dead=not_enqueued)
        parts.allow_sending(enqueue, tickets, webhooks, uploads)
        dispatch = make("dispatch", models_env, runpod_env, seconds=30)
        tickets.drain_into(dispatch, batch=1)
        parts.allow_secret(dispatch, settings.runpod_key_parameter)

        # table's stream -> enqueue -> SQS -> webhook -> a client's own server.
        webhook = make("webhook", table_env, outputs_env, seconds=10, may=parts.READ_ITEM)
        webhooks.drain_into(webhook, batch=1)
        parts.allow_downloads(webhook, outputs)

        # table's stream -> payouts: post rewards, count statistics.
        not_counted = parts.DeadLetters(self, "NotCounted", alarms=alarms)
        payouts = make("payouts", table_env, seconds=30, may=parts.PAY)
        table.feed_payouts(payouts, dead=not_counted)

        # gpu_worker -> worker: pop claims the best waiting images, submit settles them.
        worker = make("worker", *env, outputs_env, sources_env, may=parts.SETTLE)
        api.route(worker, "worker")
        parts.allow_submits(worker, outputs)
        sources.grant_read(worker, "*.webp")
        alarms.on_line(worker, "FleetFaults", FLEET_DROP, "own workers report faults", above=20)

        # client -> status: check, status, cancel.
        status = make("status", *env, models_env, outputs_env, may=parts.SETTLE)
        api.route(status, "status")
        parts.allow_downloads(status, outputs)

        # client -> users: accounts; keys: their API keys; transfer: kudos, shared keys.
        users = make("users", *env, allowance_env, hashes.env, may=parts.READ_WRITE)
        api.route(users, "users")
        api.route(make("keys", *env, may=parts.MANAGE_KEYS), "keys")
        api.route(make("transfer", *env, may=parts.MANAGE), "transfer")

        # client -> browse: workers, models, statistics; manage: what owners and admins change.
        api.route(make("browse", *env, models_env, may=parts.READ), "browse")
        api.route(make("manage", *env, may=parts.MANAGE), "manage")

        # client -> about: the API's description, documents, and every unknown route.
        api.route(make("about", api_env, {"CONTACT": settings.contact}), "about")

        # outputs bucket -> SQS -> share -> LAION bucket: only what was delivered and is shared.
        held = parts.private_bucket(self, "Held", days=HELD_DAYS)
        holding = parts.holding_env(settings, held)
        sharing = (table_env, outputs_env, uploads.env, laion_env, holding, hashes.env)
        share = make("share", *sharing, seconds=30, may=parts.PUBLISH)
        parts.announce_shared(outputs, uploads)
        uploads.drain_into(share, batch=5)
        parts.allow_sharing(share, outputs)
        parts.allow_holding(share, held)
        parts.allow_publishing(share, laion, role=settings.laion_role)
        hashes.allow(generate, users, share)
        alarms.on_line(share, "CsamMarked", "csam marked", "a worker marked an image as CSAM")

        # every minute -> sweep (-> SQS -> finish): expired leases, ended requests, lost tickets.
        not_swept = parts.DeadLetters(self, "NotSwept", alarms=alarms)
        trust_env, ending_env = parts.trust_env(settings), {**table_env, **sources_env}
        sweeping = (ending_env, models_env, runpod_env, uploads.env, due.env, trust_env)
        sweep = make("sweep", *sweeping, seconds=55, may=parts.SETTLE)
        parts.run_every_minute(sweep, dead=not_swept)
        alarms.on_line(sweep, "FleetExpiries", FLEET_DROP, "own workers are silent", above=20)
        sources.grant_delete(sweep)
        parts.allow_sending(sweep, uploads, due)
        parts.allow_secret(sweep, settings.runpod_key_parameter)
        finish = make("finish", ending_env, seconds=55, may=parts.SETTLE)
        due.drain_into(finish, batch=1)
        sources.grant_delete(finish)

        parts.show(
            self,
            ApiUrl=f"{api.http.api_endpoint}/api/v2",
            ApiId=api.http.api_id,
            TableName=table.table.table_name,
            OutputsBucket=outputs.bucket_name,
            LaionBucket=laion.bucket_name,
        )
