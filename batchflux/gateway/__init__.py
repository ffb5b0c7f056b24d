"""A server in front of the manifest's providers that speaks OpenAI's API: each call is one job of an endless run."""
