"""The HTTP edge: requests, responses, API keys, rate limits, pages and the OpenAPI document."""
