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
        make = parts.Functions(self, "Functions", settings=settings, alarms=alarms).make
        api = parts.Api(self, "Api", alarms=alarms)

        # client -> API -> generate: validate, price, tax, decide what is shared, charge.
        generate = make("generate", env={**edge, **where, **models, **src}, memory=1024)
        api.route(generate, "generate")
        table.allow(generate, "GetItem", "PutItem", "UpdateItem", "Query")
        sources.grant_put(generate)

        # table's stream -> enqueue -> SQS -> dispatch -> RunPod: tickets that carry demand.
        lost = parts.DeadLetters(self, "NotEnqueued", alarms=alarms)
        urls = {
            "TICKETS_QUEUE_URL": tickets.queue.queue_url,
            "WEBHOOKS_QUEUE_URL": webhooks.queue.queue_url,
        }
        enqueue = make("enqueue", env=urls, seconds=30)
        table.feed_outbox(enqueue, dead=lost)
        tickets.queue.grant_send_messages(enqueue)
        webhooks.queue.grant_send_messages(enqueue)
        dispatch = make("dispatch", env={**models, **runpod}, seconds=30)
        tickets.drain_into(dispatch, batch=1)
        parts.allow_secret(dispatch, settings.runpod_key_parameter)

        # table's stream -> enqueue -> SQS -> webhook -> a client's own server.
        webhook = make("webhook", env={**where, **put}, seconds=10)
        webhooks.drain_into(webhook, batch=1)
        table.allow(webhook, "GetItem")
        outputs.grant_read(webhook, "*.webp")

        # gpu_worker -> worker: pop claims the best waiting images, submit settles them.
        worker = make("worker", env={**edge, **where, **put, **src})
        api.route(worker, "worker")
        table.allow(worker, *parts.ENDING, "ConditionCheckItem")
        outputs.grant_put(worker)
        outputs.grant_read(worker, "*.webp")
        sources.grant_read(worker, "*.webp")

        # client -> status: check, status, cancel.
        status = make("status", env={**edge, **where, **models, **put})
        api.route(status, "status")
        table.allow(status, *parts.ENDING)
        outputs.grant_read(status, "*.webp")

        # client -> users: registration and accounts.
        users = make("users", env={**edge, **where})
        api.route(users, "users")
        table.allow(users, "GetItem", "PutItem", "UpdateItem")

        # client -> about: the API's description, documents, and every unknown route.
        api.route(make("about", env=edge), "about")

        # outputs bucket -> SQS -> share -> LAION bucket: only what was delivered and shareable.
        share = make(
            "share",
            env={
                **where,
                **put,
                "SHARE_QUEUE_URL": uploads.queue.queue_url,
                "LAION_BUCKET": laion.bucket_name,
                "LAION_ROLE": settings.laion_role or "",
            },
            seconds=30,
        )
        parts.announce_uploads(outputs, uploads)
        uploads.drain_into(share, batch=5)
        table.allow(share, "GetItem", "PutItem", "UpdateItem")
        outputs.grant_read(share, "*.webp")
        parts.allow_publishing(share, laion, role=settings.laion_role)

        # every minute -> sweep: leases, ended requests, refunds, lost tickets.
        missed = parts.DeadLetters(self, "NotSwept", alarms=alarms)
        sweep = make("sweep", env={**where, **models, **runpod, **src}, seconds=55)
        parts.run_every_minute(sweep, dead=missed)
        table.allow(sweep, *parts.ENDING, "ConditionCheckItem")
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
