"""The HTTP API: which function answers which route."""

from aws_cdk import Duration
from aws_cdk import aws_apigatewayv2 as apigateway
from aws_cdk import aws_lambda as lambda_
from aws_cdk.aws_apigatewayv2_integrations import HttpLambdaIntegration
from constructs import Construct

from infra.contract import CORS_EXPOSED, CORS_HEADERS, CORS_METHODS, routes_of
from infra.parts.alarms import Alarms
from infra.parts.functions import reached


class Api(Construct):
    """The HTTP API: each route goes to one function, unknown routes to the catch-all.

    A handler turns its own bugs into a JSON 500, which Lambda does not count as an error. One that
    crashes or runs out of time is a 500 or 503 of API Gateway. The alarm on the API's 5xx responses
    counts both.
    """

    def __init__(self, scope: Construct, name: str, *, alarms: Alarms) -> None:
        super().__init__(scope, name)
        self.http = apigateway.HttpApi(
            self,
            "Http",
            cors_preflight=apigateway.CorsPreflightOptions(
                allow_origins=["*"],
                allow_headers=CORS_HEADERS,
                expose_headers=CORS_EXPOSED,
                allow_methods=[apigateway.CorsHttpMethod[method] for method in CORS_METHODS],
                max_age=Duration.days(1),
            ),
        )
        metric = self.http.metric_server_error(statistic="Sum")
        alarms.on(
            "ApiFaults",
            metric,
            "clients got 5xx: a function of the API fails, and its log says why",
        )

    def route(self, function: lambda_.Function, file: str) -> None:
        """Send the routes that ``functions/<file>.py`` answers to its Lambda."""
        integration = HttpLambdaIntegration(f"To{function.node.id}", reached(function))
        for route in routes_of(file):
            method, _, path = route.partition(" ")
            key = (
                apigateway.HttpRouteKey.with_(path, apigateway.HttpMethod[method])
                if path
                else apigateway.HttpRouteKey.DEFAULT
            )
            name = "".join(
                part.strip("{}$").capitalize() for part in route.replace(" ", "/").split("/")
            )
            apigateway.HttpRoute(
                self, name, http_api=self.http, route_key=key, integration=integration
            )
