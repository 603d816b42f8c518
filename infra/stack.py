"""Horde Commons in one stack. It reads as the diagram in the README, from left to right."""

from aws_cdk import Stack, StackProps
from constructs import Construct

from infra import parts
from infra.settings import StackSettings


class HordeCommonsStack(Stack):
    """API, rules, ledger, queue, and the way of a shared image to the LAION bucket."""

    def __init__(
        self, scope: Construct, name: str, *, settings: StackSettings, props: StackProps
    ) -> None:
        super().__init__(scope, name, **props._values)  # noqa: SLF001 - jsii's own way to unpack
        alarms = parts.Alarms(self, "Alarms", email=settings.alarm_email)

        # Where things are.
        table = parts.HordeTable(self, "Horde")
        outputs = parts.private_bucket(self, "Outputs", days=1)
        sources = parts.private_bucket(self, "Sources", days=1)
        laion = parts.open_data_bucket(self, "Laion", existing=settings.laion_bucket)
        tickets = parts.WorkQueue(self, "Tickets", minutes=3, tries=5, alarms=alarms)
        uploads = parts.WorkQueue(self, "Uploads", minutes=3, tries=24, alarms=alarms)
        webhooks = parts.WorkQueue(self, "Webhooks", minutes=1, tries=3, alarms=alarms)

        # What the functions are told.
        where = {"TABLE_NAME": table.table.table_name}
        models = {"MODELS": parts.as_json(settings.models)}
        put = {"OUTPUTS_BUCKET": outputs.bucket_name}
        src = {"SOURCES_BUCKET": sources.bucket_name}
        runpod = {
            "RUNPOD_URL": settings.runpod_url,
            "RUNPOD_KEY_PARAMETER": settings.runpod_key_parameter,
            "IMAGES_PER_TICKET": str(settings.images_per_ticket),
        }
        edge = parts.edge(settings)
        monthly = {"MONTHLY_KUDOS": str(settings.monthly_kudos)}
        make = parts.Functions(self, "Functions", settings, alarms=alarms, table=table).make
        api = parts.Api(self, "Api", alarms=alarms)

        # client -> API -> generate: validate, price, tax, decide what is shared, charge.
        asked = (edge, where, models, src, monthly)
        generate = make("generate", *asked, memory=1024, may=parts.ACCEPTING)
        api.route(generate, "generate")
        sources.grant_put(generate)

        # table's stream -> enqueue -> SQS -> dispatch -> RunPod: tickets that carry demand.
        lost = parts.DeadLetters(self, "NotEnqueued", alarms=alarms)
        enqueue = make("enqueue", tickets.told, webhooks.told, seconds=30)
        table.feed_outbox(enqueue, dead=lost)
        tickets.queue.grant_send_messages(enqueue)
        webhooks.queue.grant_send_messages(enqueue)
        dispatch = make("dispatch", models, runpod, seconds=30)
        tickets.drain_into(dispatch, batch=1)
        parts.allow_secret(dispatch, settings.runpod_key_parameter)

        # table's stream -> enqueue -> SQS -> webhook -> a client's own server.
        webhook = make("webhook", where, put, seconds=10, may=("GetItem",))
        webhooks.drain_into(webhook, batch=1)
        outputs.grant_read(webhook, "*.webp")

        # table's stream -> payouts: rewards are posted, statistics counted.
        payouts = make("payouts", where, seconds=30, may=parts.COUNTING)
        table.feed_payouts(payouts, dead=parts.DeadLetters(self, "NotCounted", alarms=alarms))

        # gpu_worker -> worker: pop claims the best waiting images, submit settles them.
        worker = make("worker", edge, where, put, src, may=parts.REQUEUING)
        api.route(worker, "worker")
        outputs.grant_put(worker)
        outputs.grant_read(worker, "*.webp")
        sources.grant_read(worker, "*.webp")

        # client -> status: check, status, cancel.
        status = make("status", edge, where, models, put, may=parts.ENDING)
        api.route(status, "status")
        outputs.grant_read(status, "*.webp")

        # client -> users: registration and accounts; transfer: kudos between them, shared keys.
        api.route(make("users", edge, where, monthly, may=parts.LISTING), "users")
        api.route(make("transfer", edge, where, may=parts.SHARING), "transfer")

        # client -> browse: workers, models, statistics; manage: what their owners and admins change.
        api.route(make("browse", edge, where, models, may=parts.SEEING), "browse")
        api.route(make("manage", edge, where, may=(*parts.WRITING, "DeleteItem")), "manage")

        # client -> about: the API's description, documents, and every unknown route.
        api.route(make("about", edge, {"CONTACT": settings.contact}), "about")

        # outputs bucket -> SQS -> share -> LAION bucket: only what was delivered and shareable.
        share = make(
            "share",
            {**where, **put, **uploads.told, **parts.place_of(laion, settings.laion_role)},
            may=parts.WRITING,
            seconds=30,
        )
        parts.announce_uploads(outputs, uploads)
        uploads.drain_into(share, batch=5)
        outputs.grant_read(share, "*.webp")
        parts.allow_publishing(share, laion, role=settings.laion_role)

        # every minute -> sweep: leases, ended requests, refunds, lost tickets.
        missed = parts.DeadLetters(self, "NotSwept", alarms=alarms)
        sweep = make("sweep", where, models, runpod, src, seconds=55, may=parts.REQUEUING)
        parts.run_every_minute(sweep, dead=missed)
        sources.grant_delete(sweep)
        parts.allow_secret(sweep, settings.runpod_key_parameter)

        parts.show(
            self,
            ApiUrl=f"{api.http.api_endpoint}/api/v2",
            ApiId=api.http.api_id,
            TableName=table.table.table_name,
            OutputsBucket=outputs.bucket_name,
            LaionBucket=laion.bucket_name,
        )
