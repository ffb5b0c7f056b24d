"""What the gateway answers beside OpenAI's API: a client's manifest as calls, and what was made for the client."""
