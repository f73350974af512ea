"""The relay to an existing Hono: our devices stand behind a gateway device of it (`hono.mode: remote`)."""
